"""Plots as plain data: what an analysis returns, what JSON files hold, and what reports draw."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import GetPydanticSchema

from radapt.errors import ResultsError
from radapt.registry import nearest
from radapt.schema import STRICT, parse

from .records import KINDS, Kind

__all__ = ["Curves", "Heatmap", "Images", "Line", "Plot", "dump_plots", "read_plots"]

# Any nesting of numbers; from a file: rows of grey levels or of (red, green, blue).
_Pixels = tuple[tuple[float | tuple[float, float, float], ...], ...]
_Image = Annotated[Any, GetPydanticSchema(lambda _, schema_of: schema_of(_Pixels))]


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
        centre: value at the middle of a diverging colour scale; None for a sequential one.

    Raises:
        ResultsError: there is no value, or not one for each row and column.
    """

    __pydantic_config__: ClassVar = STRICT

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
        kind: the kind of the results that ``y`` holds; None for any other numbers.

    Raises:
        ResultsError: there is no point, the lengths differ, or the kind is unknown.
    """

    __pydantic_config__: ClassVar = STRICT

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    kind: Kind | None = None

    def __post_init__(self) -> None:
        lengths = {len(self.x), len(self.y), len(self.low or self.y), len(self.high or self.y)}
        if len(lengths) > 1 or not self.x:
            raise ResultsError(f"{self.name}: a line needs as many y, and limits, as x, and at least one")
        if self.kind is not None and self.kind not in KINDS:
            raise ResultsError(f"{self.name}: unknown kind {self.kind!r} of a line{nearest(self.kind, KINDS)}")


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Lines over one axis.

    Args:
        title: what they show.
        x_label, y_label: names of the axes, with their units.
        lines: the lines.
        ticks: names of the x values 0, 1, 2... where these are not numbers (stages of a network).
        log_x, log_y: whether an axis is logarithmic.

    Raises:
        ResultsError: there is no line.
    """

    __pydantic_config__: ClassVar = STRICT

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
class Images:
    """A grid of small images.

    Args:
        title: what they show.
        rows, columns: names of its rows, from the top, and of its columns.
        images: rows of images, each a list of rows of grey levels, or of (red, green, blue), in [0, 1].
        note: how to read them.

    Raises:
        ResultsError: there is no image, or not one for each row and column.
    """

    __pydantic_config__: ClassVar = STRICT

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    images: tuple[tuple[_Image, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        if not self.rows or not self.columns:
            raise ResultsError(f"{self.title}: there is no image to draw")
        if [len(row) for row in self.images] != [len(self.columns)] * len(self.rows):
            raise ResultsError(f"{self.title}: needs {len(self.rows)} rows of {len(self.columns)} images")


Plot = Heatmap | Curves | Images
_KINDS: dict[str, type[Plot]] = {"heatmap": Heatmap, "curves": Curves, "images": Images}


def dump_plots(plots: Iterable[Plot]) -> str:
    """Plots as JSON text.

    Raises:
        ResultsError: a number that is not finite, or not one of Python's own.
    """
    names = {kind: name for name, kind in _KINDS.items()}
    try:
        rows = [{"kind": names[type(plot)], **asdict(plot)} for plot in plots]
        return json.dumps(rows, indent=1, allow_nan=False) + "\n"
    except (ValueError, TypeError) as error:
        raise ResultsError(f"a plot holds something other than finite numbers: {error}") from error


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
    keys = dict(row) if isinstance(row, dict) else {"kind": row}
    name = keys.pop("kind", None)
    kind = _KINDS.get(str(name))
    if kind is None:
        raise ResultsError(f"{where}: unknown kind {name!r}{nearest(str(name), _KINDS)}")
    try:
        return parse(kind, keys, where=where, error=ResultsError)
    except ResultsError as error:  # the plot's own checks do not know where it comes from
        raise ResultsError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None
