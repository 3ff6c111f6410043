"""Texts that users typed, made safe to show: names, titles, labels and paths in terminals, Markdown and tables."""

from __future__ import annotations

import re

__all__ = ["duration", "figure", "gigabytes", "literal", "markdown", "one_line", "visible"]

# What terminals act on: controls (line ends and tabs are left to the caller), halves of characters, turns of the
# writing direction, and line ends that few programs know.
_ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # the last in full width


def visible(text: object) -> str:
    r"""A text as a terminal may show it: control characters and undecodable bytes as escapes such as ``\x1b``.

    Line ends and tabs stay.
    """
    return _ACTING.sub(_escape, str(text))


def one_line(text: object, *, longest: int = 2000) -> str:
    r"""A text in one line of printable characters, the middle of a longer one left out; a line end becomes ``\n``."""
    line = re.sub("[\n\t]", _escape, visible(text))
    half = longest // 2
    return line if len(line) <= longest else f"{line[:half]} ... {line[-half:]}"


def _escape(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode()


def duration(seconds: float) -> str:
    """A time in two units at most: ``0.4 s``, ``42 s``, ``3 min 20 s``, ``5 h 12 min``, ``2 d 3 h``."""
    if seconds < 9.5:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    for size, unit, smaller, part in ((60, "min", 1, "s"), (3600, "h", 60, "min"), (86400, "d", 3600, "h")):
        whole, rest = divmod(round(seconds / smaller), size // smaller)
        if unit == "d" or whole < (60 if unit == "min" else 24):
            return f"{whole} {unit} {rest} {part}" if rest else f"{whole} {unit}"
    raise AssertionError("days have no end")


def figure(percent: float, interval: tuple[float, float]) -> str:
    """A figure in per cent with its interval: ``88.0 [80.1, 92.3]``."""
    return f"{percent:.1f} [{interval[0]:.1f}, {interval[1]:.1f}]"


def gigabytes(size: float, digits: int = 1) -> str:
    """A number of bytes: ``1.2 GB`` (1 GB is 1e9 bytes)."""
    return f"{size / 1e9:.{digits}f} GB"


def markdown(text: object) -> str:
    """A text as Markdown shows it literally, within a line or a cell: no marks, links, cells or tags."""
    return re.sub(r"([\\`*_\[\]<>|~$&#])", r"\\\1", one_line(text, longest=10_000))


def literal(text: str) -> str:
    """A text as a cell of a table that a spreadsheet takes for text: ``'`` before what it would take for a formula."""
    return "'" + text if text.startswith(_FORMULA) else text
