"""The trade-off: clean accuracy against accuracy under attack, transfer and white-box joined for each method."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from radapt.errors import ResultsError
from radapt.report._labels import Box, place
from radapt.report._points import Panel, Point, panels
from radapt.report.table import Table

__all__ = [
    "INK",
    "LINE",
    "MUTED",
    "SURFACE",
    "draw",
    "drawable",
    "frame",
    "look",
    "png",
    "renderer_of",
    "style",
    "svg",
    "tradeoff",
]

INK, MUTED, LINE, SURFACE = "#1b1b1f", "#686872", "#dcdce1", "#fefefd"
# Okabe & Ito's palette without its yellow, which is too light on white; shapes tell the lines apart without colour.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#8a6fd1")
_SHAPES = (("o", "●"), ("s", "■"), ("D", "◆"), ("^", "▲"), ("v", "▼"), ("p", "⬟"), ("h", "⬢"), (">", "▶"), ("<", "◀"))


def look(index: int) -> tuple[str, str, str]:
    """Colour, mark and the mark as a character, of the ``index``-th method."""
    return _COLOURS[index % len(_COLOURS)], *_SHAPES[index % len(_SHAPES)]


def drawable(table: Table) -> bool:
    """Whether some method has both a clean figure and one under attack."""
    return bool(panels(table, mean=True))


def tradeoff(table: Table, *, datasets: bool = False) -> Figure:
    """The scatter for the mean over data sets, or small multiples for each data set; one panel per threat and task.

    Raises:
        ResultsError: no method has both a clean figure and one under attack.
    """
    found = panels(table, mean=not datasets)
    if not found:
        raise ResultsError("the trade-off needs a clean figure and one under attack of the same method; found none")
    columns = min(3, len(found))
    lines = math.ceil(len(found) / columns)
    width, height = (3.6, 3.0) if datasets else (7.2, 5.2)
    methods = dict.fromkeys((point.method, point.index) for panel in found for point in panel.points)
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
        for index, panel in enumerate(found):
            draw(figure.add_subplot(lines, columns, index + 1), panel, labels=not datasets)
        legend = figure.legend(handles=handles, loc="lower center", ncols=across, frameon=False, handletextpad=0.3)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def draw(axes: Axes, panel: Panel, *, labels: bool) -> None:
    """Draw one panel; ``labels`` writes each method's name beside its marks."""
    attacked = [point for point in panel.points if point.transfer or point.white_box]
    _frame(axes, panel, attacked)
    for point in attacked:
        colour, shape, _ = look(point.index)
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
                [clean[0]], [end[0]], shape, markersize=8 if labels else 6, color=colour, mfc=face, mew=1.7, zorder=3
            )
    if labels:
        _label(axes, panel, attacked)


def renderer_of(figure: Figure) -> RendererAgg:
    """What measures the text of a figure."""
    return FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call,no-any-return]


def png(figure: Figure) -> bytes:
    """The figure as PNG."""
    return _save(figure, "png")


def svg(figure: Figure) -> str:
    """The figure as SVG, with its text as text; equal figures give equal bytes."""
    return _save(figure, "svg").decode()


def _save(figure: Figure, kind: str) -> bytes:
    stream = io.BytesIO()
    with style():
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(stream, format=kind, facecolor=SURFACE, metadata=metadata)
    return stream.getvalue()


@contextmanager
def style() -> Iterator[None]:
    """Fonts and colours of every figure here, whatever the user's own matplotlib settings are."""
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "radapt",
        "image.composite_image": False,
        "font.family": ["DejaVu Sans"],
        "font.size": 9,
        "text.color": INK,
        "text.usetex": False,
        "axes.labelcolor": INK,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
    }
    with mpl.rc_context(settings), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes in the PNG; the SVG and the tables keep it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def frame(axes: Axes) -> None:
    """No box around the data and no tick marks; a light grid behind them."""
    axes.grid(color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_facecolor("none")
    axes.spines[:].set_visible(False)
    axes.tick_params(which="both", length=0)


def _frame(axes: Axes, panel: Panel, points: Sequence[Point]) -> None:
    """Axes that hold every point: x around the clean figures, y from zero."""
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
    colour, shape, _ = look(index)
    # matplotlib leaves labels that begin with an underscore out of legends
    return Line2D(
        [], [], color=colour, marker=shape, linestyle="", markersize=6, label="\u200b" * name.startswith("_") + name
    )


def _label(axes: Axes, panel: Panel, points: Sequence[Point]) -> None:
    """Names beside the marks, with a thin leader where a name had to move away."""
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
        probe = axes.text(0, 0, name, fontsize=9, parse_math=False)
        extent = probe.get_window_extent(renderer)
        probe.remove()
        sizes.append((extent.width, extent.height))
        obstacles += [_around(end[0], end[1], end[1], 11) for end in ends]
        obstacles.append(_around(ends[0][0], ends[0][1], ends[-1][1], 4))
    steps = [axes.transData.transform((x, x)) for x in np.linspace(*axes.get_xlim(), 100)]
    obstacles += [_around(x, y, y, 2) for x, y in steps]
    frame = axes.get_window_extent(renderer)
    boxes = place(anchors, sizes, obstacles, (frame.x0, frame.y0, frame.x1, frame.y1))
    for point, name, anchor, box in zip(points, names, anchors, boxes, strict=True):
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        x, y = axes.transData.inverted().transform(middle)
        axes.text(x, y, name, ha="center", va="center", fontsize=9, parse_math=False, zorder=4)
        near = (min(max(anchor[0], box[0]), box[2]), min(max(anchor[1], box[1]), box[3]))
        if math.dist(near, anchor) > 1.2 * (box[3] - box[1]):
            start, end = axes.transData.inverted().transform([near, anchor])
            axes.plot([start[0], end[0]], [start[1], end[1]], color=look(point.index)[0], linewidth=0.7, zorder=1)


def _around(x: float, one: float, other: float, pad: float) -> Box:
    return float(x - pad), float(min(one, other) - pad), float(x + pad), float(max(one, other) + pad)
