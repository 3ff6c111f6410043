"""Drawing of a grid of small images."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from radapt.errors import ResultsError
from radapt.results.plots import Images

from ._canvas import add_axes, add_note, add_title, canvas, cut, wrapped
from ._style import INK, MUTED

__all__ = ["draw_images"]

_Pixels = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
_WIDEST, _LARGEST, _SMALLEST, _GAP = 4.1, 1.0, 0.45, 0.06  # inches; the gap in cells
_MAP = "viridis"


def draw_images(plot: Images) -> Figure:
    """Every pixel as a sharp square, colours as they are, and grey maps in one colour map from 0 to 1.

    Raises:
        ResultsError: an image is not a rectangle of grey or colour values in [0, 1].
    """
    images = [[_pixels(plot, image) for image in row] for row in plot.images]
    count, width = len(plot.rows), len(plot.columns)
    side = max(_SMALLEST, min(_LARGEST, _WIDEST / width))
    figure = canvas()
    axes = add_axes(figure, width=side * width, height=side * count)
    for row, line in enumerate(images):
        for column, pixels in enumerate(line):
            high, wide = pixels.shape[0] / max(pixels.shape[:2]), pixels.shape[1] / max(pixels.shape[:2])
            left, top = column + (1 - wide) / 2, row + (1 - high) / 2
            box = (left + _GAP / 2, left + wide - _GAP / 2, top + high - _GAP / 2, top + _GAP / 2)
            axes.imshow(pixels, cmap=_MAP, vmin=0, vmax=1, extent=box, interpolation="none", aspect="auto")
    axes.set(xlim=(0, width), ylim=(count, 0))
    axes.set_facecolor("none")
    axes.spines[:].set_visible(False)
    axes.xaxis.tick_top()
    columns = [wrapped(name, side, 8) for name in plot.columns]
    rows = [wrapped(name, 1.1, 8) for name in plot.rows]
    axes.set_xticks(np.arange(width) + 0.5, columns, fontsize=8, parse_math=False)
    axes.set_yticks(np.arange(count) + 0.5, rows, fontsize=8, parse_math=False)
    axes.tick_params(length=0, labelcolor=INK)
    add_title(axes, plot.title, max(3.0, side * width))
    if plot.note:
        add_note(axes, plot.note, max(3.0, side * width))
    if any(pixels.ndim == 2 for row in images for pixels in row):
        _colour_bar(figure, side * width + 0.1, side * count)
    return cut(figure)


def _pixels(plot: Images, image: Any) -> _Pixels:
    try:
        pixels = np.asarray(image, np.float64)
    except (ValueError, TypeError):  # rows of different lengths, or something other than numbers
        pixels = np.empty(0)
    grey = pixels.ndim == 2 and pixels.size > 0
    if not (grey or (pixels.ndim == 3 and pixels.shape[-1] == 3 and pixels.size > 0)):
        raise ResultsError(f"{plot.title}: an image must be rows of equal length, of grey levels or of three colours")
    if not (np.isfinite(pixels).all() and pixels.min() >= -1e-6 and pixels.max() <= 1 + 1e-6):
        raise ResultsError(f"{plot.title}: the values of an image must be from 0 to 1")
    return np.clip(pixels, 0, 1)


def _colour_bar(figure: Figure, left: float, height: float) -> None:
    """A thin one, which shows which end is high."""
    axes = add_axes(figure, left=left, width=0.08, height=min(height, 1.2))
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), _MAP), cax=axes, ticks=[0, 1])
    bar.outline.set_visible(False)
    axes.tick_params(length=0, labelsize=8, labelcolor=MUTED)
    axes.set_facecolor("none")
