"""What figures of plots share: a canvas in inches that is cut to its content, names beside axes, wrapped text."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from ._style import INK, MUTED, SURFACE, renderer_of
from .table import plain

__all__ = ["add_axes", "add_note", "add_title", "canvas", "cut", "name_ticks", "wrapped"]

_SIDE = 12.0
_PAD = 0.06
_POINTS = 72.0


def canvas() -> Figure:
    """An empty figure, larger than any drawing; axes are placed in inches and ``cut`` removes what is left over."""
    figure = Figure(figsize=(_SIDE, _SIDE), dpi=150, facecolor=SURFACE)
    FigureCanvasAgg(figure)
    return figure


def add_axes(figure: Figure, *, left: float = 0.0, width: float, height: float) -> Axes:
    """Axes of a size in inches; ``left`` is counted from the left of the first ones, and all stand on one line."""
    return figure.add_axes(((3 + left) / _SIDE, 4 / _SIDE, width / _SIDE, height / _SIDE))


def cut(figure: Figure) -> Figure:
    """Make the figure as large as what it holds; every axes keeps its size in inches."""
    box = figure.get_tightbbox(renderer_of(figure))
    places = [(axes, axes.get_position(original=True)) for axes in figure.axes]
    width, height = box.width + 2 * _PAD, box.height + 2 * _PAD
    for axes, place in places:
        left, bottom = place.x0 * _SIDE - box.x0 + _PAD, place.y0 * _SIDE - box.y0 + _PAD
        axes.set_position(
            (left / width, bottom / height, place.width * _SIDE / width, place.height * _SIDE / height),
        )
    figure.set_size_inches(width, height)
    return figure


def wrapped(text: str, width: float, size: float) -> str:
    """Text in lines of about ``width`` inches at a font size in points."""
    count = max(8, int(width * _POINTS / (0.56 * size)))
    return "\n".join(textwrap.wrap(plain(text), count)) if text else ""


def add_title(axes: Axes, text: str, width: float, *, pad: float = 8) -> None:
    """The title above the axes, from their left edge, in lines of ``width`` inches."""
    words = wrapped(text, width, 9.5)
    axes.set_title(words, loc="left", fontsize=9.5, fontweight="bold", pad=pad, parse_math=False, linespacing=1.25)


def add_note(axes: Axes, text: str, width: float, *, below: float = 8) -> None:
    """A remark under the axes, in lines of ``width`` inches, ``below`` points lower."""
    axes.annotate(
        wrapped(text, width, 8),
        (0, 0),
        xytext=(0, -below),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="left",
        va="top",
        fontsize=8,
        color=MUTED,
        parse_math=False,
        linespacing=1.3,
    )


def name_ticks(axes: Axes, which: Literal["x", "y"], names: Sequence[str], spacing: float) -> None:
    """Write names beside an axis.

    Names that are too long for their room are rotated; of short ones, and of very many, only some are written.

    Args:
        axes: where.
        which: which axis.
        names: the names of the places 0, 1, 2...
        spacing: inches between two of them.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    size, room, shown = 8.0, spacing * _POINTS, [plain(name) for name in names]
    renderer, font = renderer_of(figure), FontProperties(family="DejaVu Sans", size=size)
    extents = [renderer.get_text_width_height_descent(name, font, False) for name in shown]  # type: ignore[no-untyped-call]
    longest = max(width for width, _, _ in extents) * _POINTS / figure.dpi
    rotated = which == "x" and longest + 3 > room and max(map(len, shown)) > 4
    need = longest + 3 if which == "x" and not rotated else 1.35 * size
    step = max(1, math.ceil(need / room - 1e-9))
    at = list(range(0, len(shown), step))
    labels = [shown[place] for place in at]
    if rotated:
        axes.set_xticks(
            at, labels, fontsize=size, rotation=45, ha="right", va="center", rotation_mode="anchor",
            parse_math=False,
        )  # fmt: skip
    elif which == "x":
        axes.set_xticks(at, labels, fontsize=size, parse_math=False)
    else:
        axes.set_yticks(at, labels, fontsize=size, parse_math=False)
    axes.tick_params(axis=which, which="both", length=0, labelcolor=INK)
