"""The style of every figure: colours, markers, fonts and axes, and how figures are encoded."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure

__all__ = ["INK", "LINE", "MUTED", "SURFACE", "frame", "luminance", "marker_of", "png", "renderer_of", "style", "svg"]

INK, MUTED, LINE, SURFACE = "#1b1b1f", "#686872", "#dcdce1", "#fefefd"
# Okabe & Ito's palette without its yellow, which is too light on white; markers tell the lines apart without colour.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#8a6fd1")
_MARKERS = (("o", "●"), ("s", "■"), ("D", "◆"), ("^", "▲"), ("v", "▼"), ("p", "⬟"), ("h", "⬢"), (">", "▶"), ("<", "◀"))


def marker_of(index: int) -> tuple[str, str, str]:
    """Colour, marker and the marker as a character, of the ``index``-th method."""
    return _COLOURS[index % len(_COLOURS)], *_MARKERS[index % len(_MARKERS)]


@contextmanager
def style() -> Iterator[None]:
    """Fonts and colours of every figure of a report, whatever the user's own matplotlib settings are."""
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


def luminance(colour: Sequence[float]) -> float:
    """Relative luminance of an sRGB colour (WCAG 2)."""
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def frame(axes: Axes) -> None:
    """No box around the data and no tick marks; a light grid behind them."""
    axes.grid(color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_facecolor("none")
    axes.spines[:].set_visible(False)
    axes.tick_params(which="both", length=0)


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
