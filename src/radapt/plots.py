"""Plots as plain data: what an analysis returns, what JSON files hold, and what reports draw."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from radapt.errors import ResultsError
from radapt.find import nearest

__all__ = ["Curves", "Heatmap", "Line", "Pictures", "Plot", "dump_plots", "read_plots"]

_FIGURES = ("", "clean", "transfer", "white-box")


@dataclass(frozen=True, kw_only=True)
class Heatmap:
    """A matrix.

    Args:
        title: what it shows.
        row_label, column_label: names of its axes.
        rows, columns: names of its rows, from the top, and of its columns.
        values: rows of values.
        value_label: what a value is, with its unit.
        ends: values at the ends of the colour scale; None for the smallest and the largest.
        centre: value from which colours go two ways; None for a scale that goes one way.
    """

    title: str
    row_label: str
    column_label: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    value_label: str
    ends: tuple[float, float] | None = None
    centre: float | None = None

    def __post_init__(self) -> None:
        if not self.rows or not self.columns:
            raise ResultsError(f"{self.title}: there is no value to draw")
        if [len(row) for row in self.values] != [len(self.columns)] * len(self.rows):
            raise ResultsError(f"{self.title}: a heat map needs {len(self.rows)} rows of {len(self.columns)} values")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a diagram.

    Args:
        name: what it shows.
        x, y: its points, from left to right.
        low, high: limits of the 95 % intervals of ``y``; empty for none.
        kind: ``clean``, ``transfer`` or ``white-box`` where ``y`` is such a figure; empty for any other number.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    kind: str = ""

    def __post_init__(self) -> None:
        lengths = {len(self.x), len(self.y), len(self.low or self.y), len(self.high or self.y)}
        if len(lengths) > 1 or not self.x:
            raise ResultsError(f"{self.name}: a line needs as many y, and limits, as x, and at least one")
        if self.kind not in _FIGURES:
            raise ResultsError(f"{self.name}: unknown kind {self.kind!r} of a line{nearest(self.kind, _FIGURES)}")


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Lines over one axis.

    Args:
        title: what they show.
        x_label, y_label: names of the axes, with their units.
        lines: the lines.
        ticks: names of the x values 0, 1, 2... where these are no numbers (stages of a network).
        log_x, log_y: whether an axis is logarithmic.
    """

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    ticks: tuple[str, ...] = ()
    log_x: bool = False
    log_y: bool = False

    def __post_init__(self) -> None:
        if not self.lines:
            raise ResultsError(f"{self.title}: there is no line to draw")


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """A grid of small pictures.

    Args:
        title: what they show.
        rows, columns: names of its rows, from the top, and of its columns.
        images: rows of pictures, each a list of lines of grey levels, or of (red, green, blue), in [0, 1].
        note: how to read them.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    images: tuple[tuple[Any, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        if not self.rows or not self.columns:
            raise ResultsError(f"{self.title}: there is no picture to draw")
        if [len(row) for row in self.images] != [len(self.columns)] * len(self.rows):
            raise ResultsError(f"{self.title}: needs {len(self.rows)} rows of {len(self.columns)} pictures")


Plot = Heatmap | Curves | Pictures
_KINDS: dict[str, type[Any]] = {"heatmap": Heatmap, "curves": Curves, "pictures": Pictures}


def dump_plots(plots: Iterable[Plot]) -> str:
    """Plots as JSON text.

    Raises:
        ResultsError: a number that is not finite, or that is none of Python's.
    """
    names = {kind: name for name, kind in _KINDS.items()}
    try:
        rows = [{"kind": names[type(plot)], **asdict(plot)} for plot in plots]
        return json.dumps(rows, indent=1, allow_nan=False) + "\n"
    except (ValueError, TypeError) as error:
        raise ResultsError(f"a plot holds something else than finite numbers: {error}") from error


def read_plots(path: str | Path) -> list[Plot]:
    """The plots of a JSON file.

    Raises:
        ResultsError: there is no such file, or it does not hold plots.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ResultsError(f"cannot read the plots in {path}: {error}") from error
    if not isinstance(content, list):
        raise ResultsError(f"{path} holds no list of plots")
    return [_plot(f"{path}: plot {number}", row) for number, row in enumerate(content, 1)]


def _plot(where: str, row: object) -> Plot:
    kind = row.get("kind") if isinstance(row, dict) else row
    if not isinstance(row, dict) or not isinstance(kind, str) or kind not in _KINDS:
        raise ResultsError(f"{where}: unknown kind {kind!r}{nearest(str(kind), _KINDS)}")
    plot: Plot = _made(_KINDS[kind], where, {key: value for key, value in row.items() if key != "kind"})
    return plot


def _made(kind: type[Any], where: str, given: object) -> Any:
    known = {entry.name: entry for entry in fields(kind)}
    needed = {name for name, entry in known.items() if entry.default is MISSING}
    if not isinstance(given, dict) or not needed <= set(given) <= set(known):
        got = ", ".join(map(str, given)) if isinstance(given, dict) else repr(given)
        raise ResultsError(f"{where}: needs the keys {', '.join(known)}, got {got}")
    values = {key: _tuples(value) for key, value in given.items()}
    for key, value in values.items():
        if not _FORMS[str(known[key].type)](value):
            raise ResultsError(f"{where}: {key} is not what it must be: {known[key].type}, with finite numbers")
    if kind is Curves:
        values["lines"] = tuple(_made(Line, where, line) for line in values["lines"])
    try:
        return kind(**values)
    except ResultsError as error:
        raise ResultsError(f"{where}: {error}") from None


def _tuples(value: Any) -> Any:
    """Lists as tuples, however deep."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _all_finite(value: Any) -> bool:
    """Whether numbers, however deep, are finite."""
    return all(map(_all_finite, value)) if isinstance(value, tuple) else _finite(value)


def _each(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, tuple) and all(map(test, value))


# What JSON must hold for each type of a field.
_FORMS: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "bool": lambda value: isinstance(value, bool),
    "float | None": lambda value: value is None or _finite(value),
    "tuple[float, float] | None": lambda value: value is None or (_each(_finite)(value) and len(value) == 2),
    "tuple[str, ...]": _each(lambda value: isinstance(value, str)),
    "tuple[float, ...]": _each(_finite),
    "tuple[tuple[float, ...], ...]": _each(_each(_finite)),
    "tuple[tuple[Any, ...], ...]": _each(_each(lambda image: isinstance(image, tuple) and _all_finite(image))),
    "tuple[Line, ...]": lambda value: isinstance(value, tuple),
}
