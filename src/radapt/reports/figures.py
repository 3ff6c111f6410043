"""Figures of plots, in the style of the trade-off, and their files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from radapt.errors import SettingsError
from radapt.registry import nearest
from radapt.results.plots import Curves, Heatmap, Plot, dump_plots

from ._curves import draw_curves
from ._files import slugs, write
from ._heatmap import draw_heatmap
from ._images import draw_images
from ._style import png, style, svg

__all__ = ["draw_plot", "write_plots"]

_ENCODERS: dict[str, Callable[[Figure], bytes]] = {"png": png, "svg": lambda figure: svg(figure).encode()}
_FORMATS = (*_ENCODERS, "json")


def draw_plot(plot: Plot) -> Figure:
    """Draw a plot; equal plots give equal bytes.

    Args:
        plot: a heat map, curves or images.

    Raises:
        ResultsError: an image that is not one, or a value that a logarithmic axis cannot show.
    """
    with style():
        if isinstance(plot, Heatmap):
            return draw_heatmap(plot)
        return draw_curves(plot) if isinstance(plot, Curves) else draw_images(plot)


def write_plots(
    plots: Sequence[Plot], folder: str | Path, *, formats: Sequence[str] = ("png", "svg", "json")
) -> list[Path]:
    """Write ``plots.json`` and a figure of each plot, named by its title, and return what was written.

    Everything is drawn before anything is written, and each file replaces its older version at once.

    Args:
        plots: what to draw.
        folder: where, created when missing.
        formats: some of ``png``, ``svg`` and ``json``.

    Raises:
        SettingsError: an unknown format.
        ResultsError: a plot cannot be drawn, or the folder cannot be written.
    """
    for name in formats:
        if name not in _FORMATS:
            raise SettingsError(f"unknown plot format {name!r}{nearest(name, _FORMATS)}")
    contents = {"plots.json": dump_plots(plots).encode()} if "json" in formats else {}
    for plot, name in zip(plots, slugs((plot.title for plot in plots), empty="plot"), strict=True):
        figure = draw_plot(plot) if set(formats) & set(_ENCODERS) else None
        for kind, encode in _ENCODERS.items():
            if figure is not None and kind in formats:
                contents[f"{name}.{kind}"] = encode(figure)
    return write(Path(folder), contents)
