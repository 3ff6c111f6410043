"""What people type into the page: class names, templates, questions; bounded and checked before a model sees them."""

from __future__ import annotations

import re
import unicodedata

from radapt.errors import InputError, shown

__all__ = ["MOST_CLASSES", "class_names", "one_text", "templates"]

MOST_CLASSES = 200
_MOST_TEMPLATES, _LONGEST = 10, 200


def class_names(text: str) -> tuple[str, ...]:
    """Class names, separated by commas or line ends.

    Raises:
        InputError: fewer than two, too many, one that is too long, or one twice.
    """
    names = _split(text, "[,\n]", "class name")
    if len(names) < 2:
        raise InputError(f"give at least two class names, separated by commas; there {_are(len(names))} now")
    if len(names) > MOST_CLASSES:
        raise InputError(f"there are {len(names)} class names; give {MOST_CLASSES} at most")
    seen = set[str]()
    for name in names:
        if name in seen:
            raise InputError(f"the class name {shown(name)} is given twice; give each name once")
        seen.add(name)
    return names


def templates(text: str) -> tuple[str, ...]:
    """Prompt templates, one a line.

    Raises:
        InputError: none, too many, or one without a place for the class name.
    """
    lines = _split(text, "\n", "template")
    if not 0 < len(lines) <= _MOST_TEMPLATES:
        raise InputError(f"give 1 to {_MOST_TEMPLATES} templates, one a line; there {_are(len(lines))} now")
    for line in lines:
        if "{c}" not in line and "{a c}" not in line:
            raise InputError(f"the template {shown(line)} has no place for the class name; write {{c}} or {{a c}}")
    return lines


def one_text(what: str, text: str) -> str:
    """One text in one line; empty for none.

    Raises:
        InputError: it is too long.
    """
    line = " ".join(_whole(text).split())
    if len(line) > _LONGEST:
        raise InputError(f"the {what} has {len(line)} characters; write {_LONGEST} at most")
    return line


def _split(text: str, mark: str, what: str) -> tuple[str, ...]:
    return tuple(line for part in re.split(mark, text or "") if (line := one_text(what, part)))


def _whole(text: str | None) -> str:
    """A text without halves of characters, which tokenizers refuse, in the form in which equal ones are equal."""
    return unicodedata.normalize("NFC", (text or "").encode("utf-8", "replace").decode())


def _are(count: int) -> str:
    return "is 1" if count == 1 else f"are {count}" if count else "are none"
