"""Drawing of lines over one axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from radapt.errors import ResultsError
from radapt.results.plots import Curves, Line
from radapt.results.records import KINDS, Kind

from ._canvas import add_axes, add_title, canvas, cut, name_ticks
from ._style import MUTED, SURFACE, frame, marker_of, renderer_of
from .table import plain

__all__ = ["draw_curves"]

_WIDTH, _HEIGHT = 4.1, 2.75  # inches
_MOST = 5.4
_MARKERS = 30  # most markers on a line
_KEY: dict[Kind, str] = {"clean": "clean", "transfer": "transfer attack", "white-box": "white-box attack"}


def draw_curves(plot: Curves) -> Figure:
    """Lines of one name share a colour and a marker; the kind of their results decides how they are drawn.

    Clean is thin and dashed, transfer has hollow markers, and white-box, the result that counts, is strong with filled
    ones. The 95 % intervals are bands. An axis of percentages begins at 0.

    Raises:
        ResultsError: a value that a logarithmic axis cannot show.
    """
    _check(plot)
    figure = canvas()
    stages = len(plot.ticks)
    width = min(_MOST, max(_WIDTH, 0.27 * stages))
    axes = add_axes(figure, width=width, height=_HEIGHT)
    frame(axes)
    axes.tick_params(labelsize=8)
    names = list(dict.fromkeys(line.name for line in plot.lines))
    for line in plot.lines:
        _draw(axes, line, names.index(line.name))
    _scale(axes, plot)
    if plot.ticks:
        ends = [0.0, stages - 1.0, *(x for line in plot.lines for x in line.x)]
        axes.set_xlim(min(ends) - 0.4, max(ends) + 0.4)
        axes.grid(visible=False, axis="x")
        name_ticks(axes, "x", plot.ticks, width / (max(ends) - min(ends) + 0.8))
    axes.set_xlabel(plain(plot.x_label), parse_math=False)
    axes.set_ylabel(plain(plot.y_label), parse_math=False)
    add_title(axes, plot.title, width + 0.5)
    _legends(axes, names, [kind for kind in KINDS if any(line.kind == kind for line in plot.lines)], width)
    return cut(figure)


def _check(plot: Curves) -> None:
    for log, values, label in (
        (plot.log_x, [x for line in plot.lines for x in line.x], plot.x_label),
        (plot.log_y, [y for line in plot.lines for part in (line.y, line.low, line.high) for y in part], plot.y_label),
    ):
        if log and min(values) <= 0:
            raise ResultsError(f"{plot.title}: {label} has values that are not above 0, and a logarithmic axis")


def _line_style(kind: Kind | None, index: int) -> dict[str, Any]:
    """Style of a line of a kind (None: of other numbers), in the ``index``-th colour."""
    colour, marker, _ = marker_of(index)
    shared = {"color": colour, "marker": marker, "markersize": 5.0, "markeredgewidth": 1.2}
    if kind == "clean":
        return shared | {"linestyle": (0, (4, 2)), "linewidth": 1.0, "markersize": 2.2}
    if kind == "transfer":
        return shared | {"linestyle": "-", "linewidth": 1.0, "markerfacecolor": SURFACE}
    return shared | {"linestyle": "-", "linewidth": 1.8}


def _draw(axes: Axes, line: Line, index: int) -> None:
    colour, _, _ = marker_of(index)
    if line.low or line.high:
        low, high = line.low or line.y, line.high or line.y
        if len(line.x) > 1:
            axes.fill_between(line.x, low, high, color=colour, alpha=0.13, linewidth=0, zorder=1)
        else:
            axes.vlines(line.x, low, high, color=colour, alpha=0.4, linewidth=1.2, zorder=1)
    order = 2 + KINDS.index(line.kind) / 10 if line.kind else 2
    every = math.ceil(len(line.x) / _MARKERS)
    axes.plot(line.x, line.y, zorder=order, markevery=every, **_line_style(line.kind, index))


def _scale(axes: Axes, plot: Curves) -> None:
    """Logarithmic axes with plain numbers, and percentages from 0."""
    number = FuncFormatter(lambda value, _: f"{value:g}")
    for log, axis, change in ((plot.log_x, axes.xaxis, axes.set_xscale), (plot.log_y, axes.yaxis, axes.set_yscale)):
        if log:
            change("log")
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(number)
            axis.set_minor_formatter(NullFormatter())
    percent = "%" in plot.y_label or any(line.kind for line in plot.lines)
    values = [y for line in plot.lines for part in (line.y, line.low, line.high) for y in part]
    if percent and not plot.log_y and min(values) >= 0:
        top = max(*values, 1.0)
        axes.set_ylim(-0.03 * top, 1.06 * top)


def _legends(axes: Axes, names: Sequence[str], kinds: Sequence[Kind], width: float) -> None:
    """Below everything else: which colour is which line, and how each kind of result is drawn."""
    strong: Kind | None = "white-box" if kinds else None
    lines = [Line2D([], [], label=_shown(name), **_line_style(strong, at)) for at, name in enumerate(names)]
    _legend(axes, lines, width + 0.4)
    grey = {"color": MUTED, "marker": "o"}
    styles = [Line2D([], [], label=_KEY[kind], **(_line_style(kind, 0) | grey)) for kind in kinds]
    if styles:
        _legend(axes, styles, width + 0.4)


def _shown(name: str) -> str:
    # matplotlib leaves labels that begin with an underscore out of legends
    return "\u200b" * name.startswith("_") + plain(name)


def _legend(axes: Axes, handles: Sequence[Line2D], width: float) -> None:
    """A legend below what is already there, in as many columns as stand in ``width`` inches."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    renderer = renderer_of(figure)
    below, box = axes.get_tightbbox(renderer), axes.get_window_extent(renderer)
    assert below is not None
    for columns in range(len(handles), 0, -1):
        legend = Legend(
            axes,
            handles,
            [str(handle.get_label()) for handle in handles],
            loc="upper left",
            bbox_to_anchor=(0, (below.y0 - box.y0) / box.height - 0.015),
            ncols=columns,
            frameon=False,
            fontsize=8.5,
            borderpad=0,
            borderaxespad=0.2,
            handlelength=2.4,
            handletextpad=0.6,
            columnspacing=1.4,
            labelspacing=0.4,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
        if columns == 1 or legend.get_window_extent(renderer).width <= width * figure.dpi:
            break
    axes.add_artist(legend)
    legend.set_clip_on(False)  # or it would not count when the figure is cut to its content
