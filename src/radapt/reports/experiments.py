"""Many experiments on one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from radapt.errors import SettingsError
from radapt.results import Result, Results, Setting, with_worst_cases
from radapt.results.plots import Plot
from radapt.results.shared import shared_images

from ._files import slugs, write
from ._page import inline, render
from ._points import Panel, panels_of
from ._style import SURFACE, style
from ._summary import sentences
from .figures import draw_plot
from .html import flagged, settings
from .table import Table, plain, tabulate
from .tradeoff import draw_panel

__all__ = ["Part", "write_experiments"]

_LONG = 40  # lines of a table that is folded away at first
_SETTINGS = {entry.name for entry in fields(Setting)}


@dataclass(frozen=True, kw_only=True)
class Part:
    """One experiment.

    Args:
        name: its short name, as on the command line.
        title: heading.
        description: what was compared, and how.
        published: what others report of the same experiment; empty for nothing.
        command: the exact command that makes it again; empty for what was put together in code.
        results: its results file; None where it has none.
        plots: its plots; if there are none, the trade-off of its results is drawn.
        note: what a reader must know besides; empty for nothing.
    """

    name: str
    title: str
    description: str
    published: str
    command: str
    results: Path | None
    plots: tuple[Plot, ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """A part as its template needs it; ``figures`` are its drawings with their widths in points, ``varying`` the names
    of the settings that differ between its results, which ``file`` holds."""

    anchor: str
    part: Part
    figures: list[tuple[Markup, float]]
    table: Table | None
    folded: bool
    flagged: list[tuple[int, str, list[str]]]
    unchecked: int
    total: int
    headlines: list[tuple[str, list[tuple[str, str]]]]
    shared: dict[str, str]
    varying: list[str]
    file: str


def write_experiments(parts: Sequence[Part], out: Path, *, title: str = "Experiments") -> Path:
    """Write one HTML page with every experiment: what it is, its command, plots, table, and the published results.

    The page is written whole or not at all.

    Args:
        parts: the experiments, in their order on the page.
        out: the HTML file; its folder is created when missing.
        title: heading of the page.

    Raises:
        SettingsError: there is no part.
        ResultsError: a results file is missing, unusable or empty, a plot cannot be drawn, or the page cannot be
            written.
    """
    if not parts:
        raise SettingsError("a page of experiments needs at least one; got none")
    names = slugs((part.name for part in parts), empty="experiment")
    shown = [_shown(part, name) for part, name in zip(parts, names, strict=True)]
    text = render("experiments.html", title=plain(title), parts=shown)
    (path,) = write(Path(out).parent, {Path(out).name: text.encode()})
    return path


def _shown(part: Part, anchor: str) -> _Shown:
    results, table = list[Result](), None
    if part.results is not None:
        with Results(part.results, read_only=True) as store, store.snapshot():
            results = with_worst_cases(store)
            table = tabulate(results, shared_images(store, results))
    figures = [_figure(plot, f"{anchor}-{at}") for at, plot in enumerate(part.plots)]
    if table and not figures:
        size = (5.0, 3.8)
        figures = [
            (_tradeoff(panel, size, anchor=f"{anchor}-{at}"), 72 * size[0])
            for at, panel in enumerate(panels_of(table, mean=True))
        ]
    shared, varying = settings(results) if results else ({}, [{}])
    texts = {
        name: _lines(getattr(part, name)) for name in ("name", "title", "description", "published", "command", "note")
    }
    return _Shown(
        anchor=anchor,
        part=Part(**texts, results=part.results, plots=part.plots),
        figures=figures,
        table=table,
        folded=table is not None and sum(len(section.lines) for section in table.sections) > _LONG,
        flagged=flagged(table) if table else [],
        unchecked=sum(not result.checked for result in results),
        total=len(results),
        headlines=sentences(table) if table else [],
        shared=shared,
        varying=[name for name in varying[0] if name in _SETTINGS],
        file="" if part.results is None else plain(f"{part.results.parent.name}/{part.results.name}"),
    )


def _figure(plot: Plot, anchor: str) -> tuple[Markup, float]:
    figure = draw_plot(plot)
    return inline(figure, plain(plot.title), anchor=anchor), 72 * float(figure.get_figwidth())


def _tradeoff(panel: Panel, size: tuple[float, float], *, anchor: str) -> Markup:
    """A panel as inline SVG of a size in inches; ``anchor`` is what its addresses begin with."""
    with style():
        figure = Figure(figsize=size, dpi=100, facecolor=SURFACE)
        FigureCanvasAgg(figure)
        figure.subplots_adjust(
            left=0.62 / size[0], right=1 - 0.1 / size[0], bottom=0.5 / size[1], top=1 - 0.3 / size[1]
        )
        draw_panel(figure.add_subplot(), panel, labels=True)
    name = f"Trade-off of {panel.title}, {panel.threat}; the numbers are in the table below"
    return inline(figure, name, anchor=anchor)


def _lines(text: str) -> str:
    """Text of several lines that HTML can hold."""
    return "\n".join(plain(line) for line in text.splitlines())
