"""The trade-off: clean accuracy against accuracy under attack, transfer and white-box joined for each method."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from radapt.errors import ResultsError

from ._labels import Box, place
from ._points import Panel, Point, panels_of
from ._style import MUTED, SURFACE, frame, marker_of, renderer_of, style
from .table import Table

__all__ = ["can_draw", "draw_panel", "draw_tradeoff"]


def can_draw(table: Table) -> bool:
    """Whether some method has both a clean result and one under attack."""
    return bool(panels_of(table, mean=True))


def draw_tradeoff(table: Table, *, datasets: bool = False) -> Figure:
    """The scatter for the mean over datasets, or small multiples for each dataset; one panel per threat and task.

    Raises:
        ResultsError: no method has both a clean result and one under attack.
    """
    chosen = panels_of(table, mean=not datasets)
    if not chosen:
        raise ResultsError("the trade-off needs a clean result and one under attack of the same method; found none")
    columns = min(3, len(chosen))
    lines = math.ceil(len(chosen) / columns)
    width, height = (3.6, 3.0) if datasets else (7.2, 5.2)
    methods = dict.fromkeys((point.method, point.index) for panel in chosen for point in panel.points)
    handles = _key() + ([_handle(name, index) for name, index in methods] if datasets else [])
    longest = max(len(str(handle.get_label())) for handle in handles)
    across = max(1, min(len(handles), int(columns * width / (0.45 + 0.085 * longest))))
    foot = 0.15 + 0.22 * math.ceil(len(handles) / across)
    with style():
        figure = Figure(figsize=(columns * width, lines * height + foot), dpi=150, facecolor=SURFACE)
        FigureCanvasAgg(figure)
        share = foot / (lines * height + foot)
        figure.subplots_adjust(left=0.62 / (columns * width), right=1 - 0.15 / (columns * width))
        figure.subplots_adjust(top=1 - 0.4 / (lines * height + foot), bottom=share + 0.5 / (lines * height + foot))
        figure.subplots_adjust(wspace=0.24, hspace=0.42)
        for index, panel in enumerate(chosen):
            draw_panel(figure.add_subplot(lines, columns, index + 1), panel, labels=not datasets)
        legend = figure.legend(handles=handles, loc="lower center", ncols=across, frameon=False, handletextpad=0.3)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def draw_panel(axes: Axes, panel: Panel, *, labels: bool) -> None:
    """Draw one panel; ``labels`` writes each method's name beside its markers."""
    attacked = [point for point in panel.points if point.transfer or point.white_box]
    _frame(axes, panel, attacked)
    for point in attacked:
        colour, marker, _ = marker_of(point.index)
        ends = [end for end in (point.transfer, point.white_box) if end]
        clean = point.clean
        if len(ends) == 2:
            axes.plot([clean[0]] * 2, [end[0] for end in ends], color=colour, linewidth=1.6, alpha=0.75, zorder=2)
        for end in ends:
            axes.errorbar(
                [clean[0]],
                [end[0]],
                xerr=[[max(0, clean[0] - clean[1])], [max(0, clean[2] - clean[0])]],
                yerr=[[max(0, end[0] - end[1])], [max(0, end[2] - end[0])]],
                fmt="none",
                ecolor=colour,
                alpha=0.3,
                linewidth=0.9,
                zorder=1,
            )
            face = colour if end is point.white_box else SURFACE
            axes.plot(
                [clean[0]], [end[0]], marker, markersize=8 if labels else 6, color=colour, mfc=face, mew=1.7, zorder=3
            )
    if labels:
        _label(axes, panel, attacked)


def _frame(axes: Axes, panel: Panel, points: Sequence[Point]) -> None:
    """Axes that hold every point: x around the clean results, y from zero."""
    clean = [value for point in points for value in point.clean]
    under = [value for point in points for end in (point.transfer, point.white_box) if end for value in end]
    low, high = min(clean), max(clean)
    pad = max(5.0, 0.14 * (high - low))
    axes.set_xlim(low - pad, high + pad)
    top = max(*under, 20.0)
    axes.set_ylim(-0.07 * top, 1.1 * top)
    axes.axline((0, 0), slope=1, color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)), zorder=0)
    axes.axhline(0, color=MUTED, linewidth=0.8, zorder=0)
    frame(axes)
    axes.set_xlabel(f"clean {panel.noun} (%)")
    axes.set_ylabel(f"{panel.noun} under attack (%)")
    title = axes.set_title(f"{panel.title}, {panel.threat}", loc="left", fontsize=9.5, fontweight="bold")
    title.set_parse_math(False)


def _key() -> list[Line2D]:
    shared = {"color": MUTED, "linestyle": "", "marker": "o", "markersize": 7, "markeredgewidth": 1.6}
    return [
        Line2D([], [], mfc=SURFACE, label="transfer attack", **shared),  # type: ignore[arg-type]
        Line2D([], [], mfc=MUTED, label="white-box attack", **shared),  # type: ignore[arg-type]
        Line2D([], [], color=MUTED, linewidth=0.9, linestyle=(0, (2, 3)), label="no loss"),
    ]


def _handle(name: str, index: int) -> Line2D:
    colour, marker, _ = marker_of(index)
    # matplotlib leaves labels that begin with an underscore out of legends
    return Line2D(
        [], [], color=colour, marker=marker, linestyle="", markersize=6, label="\u200b" * name.startswith("_") + name
    )


def _label(axes: Axes, panel: Panel, points: Sequence[Point]) -> None:
    """Names beside the markers, with a thin leader where a name had to move away."""
    figure = axes.get_figure(root=True)
    if figure is None or not points:
        return
    renderer = renderer_of(figure)
    names = [
        point.method + (f" ({point.over} of {panel.total})" if point.over < panel.total else "") for point in points
    ]
    anchors, sizes, obstacles = [], [], []
    for point, name in zip(points, names, strict=True):
        ends = [axes.transData.transform((point.clean[0], end[0])) for end in (point.transfer, point.white_box) if end]
        anchors.append((float(ends[-1][0]), float(ends[-1][1])))
        text = axes.text(0, 0, name, fontsize=9, parse_math=False)
        extent = text.get_window_extent(renderer)
        text.remove()
        sizes.append((extent.width, extent.height))
        obstacles += [_around(end[0], end[1], end[1], 11) for end in ends]
        obstacles.append(_around(ends[0][0], ends[0][1], ends[-1][1], 4))
    steps = [axes.transData.transform((x, x)) for x in np.linspace(*axes.get_xlim(), 100)]
    obstacles += [_around(x, y, y, 2) for x, y in steps]
    bounds = axes.get_window_extent(renderer)
    boxes = place(anchors, sizes, obstacles, (bounds.x0, bounds.y0, bounds.x1, bounds.y1))
    for point, name, anchor, box in zip(points, names, anchors, boxes, strict=True):
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        x, y = axes.transData.inverted().transform(middle)
        axes.text(x, y, name, ha="center", va="center", fontsize=9, parse_math=False, zorder=4)
        near = (min(max(anchor[0], box[0]), box[2]), min(max(anchor[1], box[1]), box[3]))
        if math.dist(near, anchor) > 1.2 * (box[3] - box[1]):
            start, end = axes.transData.inverted().transform([near, anchor])
            axes.plot([start[0], end[0]], [start[1], end[1]], color=marker_of(point.index)[0], linewidth=0.7, zorder=1)


def _around(x: float, one: float, other: float, pad: float) -> Box:
    return float(x - pad), float(min(one, other) - pad), float(x + pad), float(max(one, other) + pad)
