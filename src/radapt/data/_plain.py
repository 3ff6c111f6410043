"""Values as YAML gives them, turned into those that a dataclass field wants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from radapt.errors import SettingsError

__all__ = ["plain"]


def _text(value: object) -> bool:
    return isinstance(value, str)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _texts(value: object) -> bool:
    return isinstance(value, tuple) and all(map(_text, value))


def _range(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_number, value))


# By the annotation of the field.
_KINDS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "str": ("a text", _text),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "int": ("a whole number", lambda value: type(value) is int),
    "int | None": ("a whole number", lambda value: value is None or type(value) is int),
    "float": ("a number", _number),
    "tuple[float, float] | None": ("two numbers", lambda value: value is None or _range(value)),
    "tuple[str, ...]": ("a list of texts (quote yes, no and numbers)", _texts),
    "Mapping[str, object]": ("a mapping", lambda value: isinstance(value, Mapping) and all(map(_text, value))),
}


def plain(key: str, hint: str, value: object) -> Any:
    """The value of a field from its YAML value: lists become tuples, whole numbers become floats where one is wanted.

    Args:
        key: name of the field, for the error message.
        hint: the field's annotation, as written in its source.
        value: what the YAML file says.

    Raises:
        SettingsError: when the value is of another kind.
    """
    what, fits = _KINDS[hint]
    result = tuple(value) if isinstance(value, list) else value
    if not fits(result):
        raise SettingsError(f"{key} must be {what}, got {value!r}")
    return float(result) if hint == "float" and isinstance(result, int) else result
