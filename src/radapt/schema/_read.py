"""Files from outside: texts, and the plain values of JSON and YAML, bounded in size and depth as they are read."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from radapt.errors import RadaptError, SettingsError, shown

__all__ = ["parse_json", "read_json", "read_text", "read_yaml"]

_MOST_JSON, _MOST_YAML, _MOST_TEXT = 16 << 20, 1 << 20, 4 << 20
"""Largest files, in bytes; reading YAML takes some seconds per million."""
_DEEPEST = 64
_TOO_DEEP = f"values lie deeper in each other than the {_DEEPEST} that are allowed"
_MOST_VALUES = 200_000
"""Most values of a YAML file, those that are repeated by aliases counted each time."""
_LONGEST_NUMBER = 1000
_PARTS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[][{}]', re.DOTALL)
"""Texts of JSON, and its brackets outside of texts."""
_CONTRADICTIONS = (ValueError, LookupError, AttributeError, OverflowError, RecursionError)
"""What PyYAML raises for values that are not what they say, such as the date 2024-13-45."""
_WHOLE = re.compile("0|-?[1-9][0-9]*")
_HALF = re.compile("[\ud800-\udfff]")


def read_text(
    path: str | Path, *, what: str = "file", error: type[RadaptError] = SettingsError, largest: int = _MOST_TEXT
) -> str:
    """The text of a file in UTF-8, without a byte-order mark.

    Args:
        path: the file.
        what: what to call it in messages.
        error: the error that is raised.
        largest: its most bytes; no more are read.

    Raises:
        RadaptError: of the class ``error``: there is no such file, it is larger, or not text.
    """
    try:
        return _content(Path(path), largest).decode("utf-8-sig")
    except (OSError, ValueError) as problem:  # a name with a null byte is a ValueError
        raise error(f"cannot read the {what} {path}: {problem}") from problem


def _content(file: Path, largest: int) -> bytes:
    if not stat.S_ISREG(file.stat().st_mode):
        raise OSError("it is a folder or a device, not a file")
    with file.open("rb") as stream:
        content = stream.read(largest + 1)
    if len(content) > largest:
        raise OSError(f"it has more than {largest} bytes, the most that are allowed")
    return content


def read_json(
    path: str | Path, *, what: str = "file", error: type[RadaptError] = SettingsError, largest: int = _MOST_JSON
) -> Any:
    """The plain values of a JSON file: bounded in size and depth, no key twice in an object, whole characters.

    Args:
        path: the file.
        what: what to call it in messages.
        error: the error that is raised; its message names the file, and shows no more than a piece of it.
        largest: most bytes of the file.

    Raises:
        RadaptError: of the class ``error``: the file cannot be read, is too large or too deep, or is not such JSON.
    """
    text = read_text(path, what=what, error=error, largest=largest)
    return parse_json(text, where=str(path), error=error)


def parse_json(text: str, *, where: str, error: type[RadaptError] = SettingsError) -> Any:
    """The plain values of a text in JSON, as :func:`read_json` reads them; ``where`` is what messages call it.

    Raises:
        RadaptError: of the class ``error``.
    """
    depth = 0
    for part in _PARTS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(part[0], 0)
        if depth > _DEEPEST:
            raise error(f"{where}: {_TOO_DEEP}")
    try:
        content = json.loads(text, object_pairs_hook=_object)
    except ValueError as problem:
        raise error(f"{where}: not valid JSON: {_line(problem)}") from problem
    _check_plain(content, where, error)
    return content


def read_yaml(
    path: str | Path, *, what: str = "file", error: type[RadaptError] = SettingsError, largest: int = _MOST_YAML
) -> Any:
    """The plain values of a YAML file: bounded as those of :func:`read_json`, what aliases repeat counted each time.

    Keys are texts, or whole numbers as they are written.

    Args:
        path: the file.
        what: what to call it in messages.
        error: the error that is raised; its message names the file, and shows no more than a piece of it.
        largest: most bytes of the file.

    Raises:
        RadaptError: of the class ``error``: the file cannot be read, is too large or too deep, or is not such YAML.
    """
    text = read_text(path, what=what, error=error, largest=largest)
    try:
        content = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, *_CONTRADICTIONS) as problem:
        raise error(f"{path}: not valid YAML: {_line(problem)}") from problem
    _check_plain(content, str(path), error)
    return content


class _Loader(yaml.SafeLoader):
    """Counts the values of a file before it makes anything of them."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth, self._count = 0, 0
        self._values: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        alias, before = self.check_event(yaml.AliasEvent), self._count
        self._depth += 1
        if self._depth > _DEEPEST:
            raise yaml.YAMLError(_TOO_DEEP)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None:
            return node
        if alias and node not in self._values:
            raise _problem("an alias stands within what it repeats", node)
        self._count += self._values[node] if alias else 1
        self._values[node] = self._count - before
        if self._count > _MOST_VALUES:
            raise _problem(f"it has more than {_MOST_VALUES} values, the most that are allowed", node)
        if isinstance(node, yaml.ScalarNode) and not node.tag.endswith(":str") and len(node.value) > _LONGEST_NUMBER:
            raise _problem(f"{shown(node.value)} is longer than a number may be; quote it if it is a text", node)
        if isinstance(node, yaml.MappingNode) and not alias:
            keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if any(key.tag.endswith(":merge") for key in keys):  # PyYAML 6.0.4 gives a wrong value for some of them
                raise _problem("merged keys (<<) are not read; write the keys out", node)
            wrong = next((key for key in keys if not _is_plain(key)), None)
            if wrong is not None:  # as a text it would be another one: no is false, 010 is 8, 1:30 is 90
                kind = wrong.tag.rpartition(":")[2]
                raise _problem(f"the key {shown(wrong.value)} is no text to YAML, but {kind}; quote it", wrong)
            again = _again([key.value for key in keys])
            if again is not None:
                raise _problem(f"{shown(keys[again].value)} stands twice in one mapping", keys[again])
        return node


def _is_plain(key: yaml.ScalarNode) -> bool:
    """Whether a key is a text, or a whole number as it is written: two of them differ wherever their texts do."""
    if key.tag.endswith(":str"):
        return True
    return key.tag.endswith(":int") and _WHOLE.fullmatch(key.value) is not None


def _problem(text: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=text, problem_mark=node.start_mark)


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    again = _again(names)
    if again is not None:
        raise ValueError(f"{shown(names[again])} stands twice in one object")
    return dict(pairs)


def _again(names: Sequence[str]) -> int | None:
    """Where a name stands that stood before, if one does."""
    first: dict[str, int] = {}
    return next((at for at, name in enumerate(names) if first.setdefault(name, at) != at), None)


def _line(problem: Exception) -> str:
    """What a parser says, in one line of bounded length."""
    if isinstance(problem, yaml.MarkedYAMLError) and problem.problem and problem.problem_mark:
        text = f"line {problem.problem_mark.line + 1}: {problem.problem}"
    else:
        text = " ".join(str(problem).split()) or type(problem).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."


def _check_plain(content: object, where: str, error: type[RadaptError]) -> None:
    """Refuse what lies too deep, in whatever way it came there, and half characters, which no file can hold."""
    level: list[Any] = [content]
    for _ in range(_DEEPEST + 1):
        half = next((text for text in level if isinstance(text, str) and _HALF.search(text)), None)
        if half is not None:
            raise error(f"{where}: {shown(half)} holds half of a character (a lone surrogate); write the whole one")
        lists = [value for value in level if isinstance(value, list)]
        maps = [value for value in level if isinstance(value, dict)]
        level = [part for outer in (*lists, *maps, *(each.values() for each in maps)) for part in outer]
        if not level:
            return
    raise error(f"{where}: {_TOO_DEEP}")
