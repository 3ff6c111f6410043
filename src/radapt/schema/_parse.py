"""Plain values from files, checked against dataclasses by pydantic, with errors in the words of this library."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from radapt.errors import RadaptError, SettingsError, shown
from radapt.registry import nearest

from ._values import check_kinds

__all__ = ["STRICT", "check_keywords", "parse"]

_Kind = TypeVar("_Kind")
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""For ``__pydantic_config__`` of a dataclass that is read from a file: no unknown keys, no conversions, no nan."""


def parse(
    kind: type[_Kind] | Any,
    content: object,
    *,
    where: str,
    error: type[RadaptError] = SettingsError,
) -> _Kind:
    """An object of a type from plain values, as YAML or JSON gives them; lists become tuples where these are wanted.

    Args:
        kind: the type: a dataclass, or whatever pydantic takes.
        content: the plain values.
        where: what to call the content in messages, usually its file.
        error: the error that is raised.

    Raises:
        RadaptError: of the class ``error``: a key is unknown or missing, or a value is of the wrong kind.
    """
    try:
        text = json.dumps(content, allow_nan=True)
    except (TypeError, ValueError, RecursionError) as problem:
        raise error(f"{where}: holds something else than plain values: {problem}") from None
    adapter: TypeAdapter[_Kind] = TypeAdapter(kind)
    try:
        return adapter.validate_json(text)
    except ValidationError as problem:
        raise error(_message(where, kind, problem.errors(include_url=False))) from None
    except RadaptError as problem:
        raise error(f"{where}: {problem}") from None


def _message(where: str, kind: Any, problems: Sequence[ErrorDetails]) -> str:
    """The first problem in one line; keys that are missing together, together."""
    first = problems[0]
    *outer, last = first["loc"] or ("",)
    place = ": ".join([where, *(str(part) for part in outer)])
    if first["type"] == "missing":
        missing = [
            str(each["loc"][-1])
            for each in problems
            if each["type"] == "missing" and each["loc"][:-1] == first["loc"][:-1]
        ]
        return f"{place}: missing {', '.join(missing)}"
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = _keys(kind, outer)
        return f"{place}: unknown key {shown(str(last))}{nearest(str(last), known) if known else ''}"
    full = f"{place}: {last}" if first["loc"] else place
    if first["type"] == "literal_error":
        allowed = re.findall(r"'([^']*)'", first["ctx"]["expected"])
        return f"{place}: unknown {last} {shown(first['input'])}{nearest(str(first['input']), allowed)}"
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, RadaptError):
        return str(cause) if str(cause).startswith(where) else f"{full}: {cause}"
    return f"{full}: {first['msg'][:1].lower()}{first['msg'][1:]}, got {shown(first['input'])}"


def _keys(kind: Any, path: Sequence[str | int]) -> list[str]:
    """The keys that a part of the content may have; none where that is not known."""
    hints: dict[str, Any] = {}
    for step in [None, *path]:
        if step is not None:
            kind = hints.get(str(step), kind)
        found = _dataclass_in(kind)
        if found is not None:
            hints = inspect.get_annotations(found, eval_str=True)
            kind = found
    return [entry.name for entry in fields(kind)] if is_dataclass(kind) else []


def _dataclass_in(hint: Any) -> Any:
    """The dataclass in a type such as ``tuple[Attack, ...]`` or ``Mapping[str, Defence]``, if there is one."""
    if is_dataclass(hint):
        return hint
    return next((found for part in getattr(hint, "__args__", ()) if (found := _dataclass_in(part))), None)


def check_keywords(
    where: str,
    function: Callable[..., Any],
    settings: Mapping[str, Any],
    *,
    without: Collection[str] = (),
    beside: Callable[..., Any] | None = None,
) -> None:
    """Refuse settings that a function does not take by keyword, and values of another kind than it declares.

    Args:
        where: what messages begin with.
        function: the function.
        settings: what is to be given to it.
        without: what it takes by keyword, but is no setting.
        beside: the function that passes them on, among whose own keywords the nearest valid name is looked for, too.

    Raises:
        SettingsError: an unknown setting, or a text where a number belongs, or nothing where it may not be missing.
    """
    known = {name: each for name, each in _keywords(function).items() if name not in without}
    for name in settings:
        if name not in known:
            allowed = {**known, **({} if beside is None else _keywords(beside))}
            raise SettingsError(f"{where}: unknown setting {shown(name)}{nearest(str(name), allowed)}")
    check_kinds(where, {name: str(each.annotation) for name, each in known.items()}, settings)


def _keywords(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(function).parameters.items()
    return {name: each for name, each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY}
