"""Drawing of a heat map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from radapt.results.plots import Heatmap

from ._canvas import add_axes, add_title, canvas, cut, name_ticks, wrapped
from ._style import MUTED, SURFACE, luminance
from .table import plain

__all__ = ["draw_heatmap"]

_WIDEST, _HIGHEST, _CELL = 3.5, 4.6, 0.5  # inches
_NUMBERED = 12  # most rows and columns whose cells hold their numbers
_DARK, _LIGHT = "#111114", "#fdfdfc"  # not the ink of the page: a cell keeps its colour in the dark


def draw_heatmap(plot: Heatmap) -> Figure:
    """Square cells from the top, with their numbers where there is room, and a colour bar.

    With a ``centre`` the colours diverge at one rate, so that equal distances from it look equally far.
    """
    values = np.asarray(plot.values, np.float64)
    count, width = values.shape
    side = min(_CELL, _WIDEST / width, _HIGHEST / count)
    figure = canvas()
    axes = add_axes(figure, width=side * width, height=side * count)
    low, high = plot.ends or (float(values.min()), float(values.max()))
    few = max(count, width) <= 16
    mesh = axes.pcolormesh(
        np.arange(width + 1) - 0.5,
        np.arange(count + 1) - 0.5,
        values,
        cmap="RdBu_r" if plot.centre is not None else "viridis",
        norm=_norm(low, high, plot.centre),
        edgecolors=SURFACE if few else "face",
        linewidth=0.7 if few else 0.2,
    )
    axes.set(xlim=(-0.5, width - 0.5), ylim=(count - 0.5, -0.5))
    axes.set_facecolor("none")
    axes.spines[:].set_visible(False)
    name_ticks(axes, "x", plot.columns, side)
    name_ticks(axes, "y", plot.rows, side)
    axes.set_xlabel(plain(plot.column_label), parse_math=False)
    axes.set_ylabel(plain(plot.row_label), parse_math=False)
    bar = max(side * count, 1.2)
    _colour_bar(figure, mesh, plot.value_label, (low, high), left=side * width + 0.14, height=bar)
    add_title(axes, plot.title, max(3.0, side * width + 0.9))
    if max(count, width) <= _NUMBERED:
        _numbers(axes, mesh, plot.values, side)
    return cut(figure)


def _norm(low: float, high: float, centre: float | None) -> Normalize:
    if centre is not None:
        half = max(abs(low - centre), abs(high - centre)) or 1.0
        return Normalize(centre - half, centre + half)
    return Normalize(low, high) if low < high else Normalize(low - 0.5, low + 0.5)


def _colour_bar(
    figure: Figure, mesh: QuadMesh, label: str, ends: tuple[float, float], *, left: float, height: float
) -> None:
    axes = add_axes(figure, left=left, width=0.12, height=height)
    bar = figure.colorbar(mesh, cax=axes)
    bar.outline.set_visible(False)
    bar.locator = MaxNLocator(nbins=max(2, min(6, int(height / 0.35))))
    bar.update_ticks()
    if ends[0] < ends[1]:
        axes.set_ylim(*ends)  # colours beyond the ends stand for nothing
    axes.tick_params(length=0, labelsize=8, labelcolor=MUTED)
    axes.set_ylabel(wrapped(label, height, 9), parse_math=False)
    axes.set_facecolor("none")


def _numbers(axes: Axes, mesh: QuadMesh, values: Sequence[Sequence[float]], side: float) -> None:
    """Write the numbers into the cells, as large as the longest of them allows."""
    largest = max(abs(value) for row in values for value in row)
    digits = 0 if largest >= 100 else 1 if largest >= 10 else 2
    texts = [[f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}") for value in row] for row in values]
    size = min(9.0, 0.9 * side * 72 / (0.62 * max(len(text) for row in texts for text in row)))
    if size < 5.5:
        return
    colours = np.asarray(mesh.cmap(mesh.norm(np.asarray(values, np.float64)))).tolist()
    for at, row in enumerate(texts):
        for place, text in enumerate(row):
            ink = _LIGHT if luminance(colours[at][place]) < 0.18 else _DARK
            axes.text(place, at, text, ha="center", va="center_baseline", fontsize=size, color=ink)
