"""Reports: tables, figures and pages of results files, and figures of plots."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from radapt.errors import SettingsError
from radapt.registry import nearest
from radapt.results import Results, together, with_worst_cases
from radapt.results.shared import shared_images
from radapt.results.sweep import curves

from . import html
from ._card import About, ResultCard, read_about, read_cards
from ._files import write
from ._rank import ranked
from ._render import Terminal, csv_text, latex_text, markdown_text
from ._style import png, svg
from .cards import cards_of, file_names
from .claims import LEGEND, Claim, Figure, claims_of, figures_of
from .experiments import Part, write_experiments
from .figures import draw_plot, write_plots
from .leaderboard import write_leaderboard
from .table import Table, rows, tabulate
from .tradeoff import can_draw, draw_tradeoff
from .trials import draw_trials, write_trials

__all__ = [
    "FORMATS",
    "LEGEND",
    "About",
    "Claim",
    "Figure",
    "Part",
    "ResultCard",
    "cards_of",
    "claims_of",
    "curves",
    "draw_plot",
    "draw_trials",
    "figures_of",
    "print_table",
    "read_cards",
    "write_experiments",
    "write_leaderboard",
    "write_plots",
    "write_report",
    "write_trials",
]

FORMATS = ("md", "csv", "tex", "json", "png", "svg", "html")
"""What ``write_report`` can write."""
_FIGURES = ("tradeoff", "tradeoff_datasets")


def write_report(
    path: str | Path | Results | Sequence[str | Path | Results],
    out: str | Path,
    *,
    formats: Sequence[str] = FORMATS,
    cards: str | Path | None = None,
    about: str | Path | Mapping[str, About | Mapping[str, object]] | None = None,
) -> list[Path]:
    """Write the report of a results file, or of several as one, and return what was written.

    ``table.md``, ``table.csv``, ``table.tex``, ``results.json``, ``tradeoff.png`` and ``.svg`` (with
    ``tradeoff_datasets`` beside them where there are several datasets) and ``report.html``. Everything is made before
    anything is written, and each file replaces its older version at once. Without a method that has both a clean
    result and one under attack there is no trade-off to draw: its files are then left out, unless nothing else was
    asked for. A trade-off of an earlier report that this one lacks is removed.

    Args:
        path: the results file, open or by its path, or several.
        out: folder of the report, created when missing.
        formats: some of ``FORMATS``.
        cards: folder for result cards, too, one JSON file for each candidate and ball under which it was attacked;
            :func:`write_leaderboard` puts cards beside each other. None: no cards.
        about: what the cards tell of candidates besides, by their names: ``paper``, ``authors``, ``venue``, ``link``
            and ``changed``, the share of the vision encoder's weights that is changed (:meth:`radapt.Adapter.changed`);
            or a YAML file that says so.

    Raises:
        SettingsError: an unknown format, or something is told of candidates that there are not, or without cards.
        ResultsError: the results file is missing, unusable or empty, a folder cannot be written, or there are to be
            cards though nothing was attacked.
    """
    if about is not None and cards is None:
        raise SettingsError("about is for result cards; name their folder, too: cards")
    told = read_about(about)
    for name in formats:
        if name not in FORMATS:
            raise SettingsError(f"unknown report format {name!r}{nearest(name, FORMATS)}")
    files = [path] if isinstance(path, str | Path | Results) else path
    names = [(each.path if isinstance(each, Results) else Path(each)).name for each in files]
    with together(path) as store, store.snapshot():
        content = html.content_of(store, file=" and ".join(names)) if "html" in formats else None
        results = content.results if content else with_worst_cases(store)
        shared = content.shared if content else shared_images(store, results)
        made = [] if cards is None else cards_of(results, store, told)
    card_files = {
        name: (json.dumps(asdict(card), indent=2) + "\n").encode()
        for name, card in zip(file_names(made), made, strict=True)
    }
    table = ranked(tabulate(results, shared))
    makers: dict[str, Callable[[], dict[str, bytes]]] = {
        "md": lambda: {"table.md": markdown_text(table).encode()},
        "csv": lambda: {"table.csv": csv_text(table).encode()},
        "tex": lambda: {"table.tex": latex_text(table).encode()},
        "json": lambda: {"results.json": (json.dumps(rows(results), indent=2) + "\n").encode()},
        "png": lambda: _tradeoffs(table, "png"),
        "svg": lambda: _tradeoffs(table, "svg"),
        "html": lambda: {"report.html": html.page(content).encode()} if content else {},
    }
    chosen = [name for name in FORMATS if name in formats]
    if not set(chosen) <= {"png", "svg"} and not can_draw(table):
        chosen = [name for name in chosen if name not in ("png", "svg")]
    contents = {name: content for kind in chosen for name, content in makers[kind]().items()}
    written = write(Path(out), contents)
    for name in {f"{figure}.{kind}" for figure in _FIGURES for kind in {"png", "svg"} & set(formats)} - set(contents):
        if (stale := Path(out, name)).is_file():
            stale.unlink()
    return written if cards is None else [*written, *write(Path(cards), card_files)]


def print_table(store: Results, console: Console) -> None:
    """Print the table of an open results file.

    Raises:
        ResultsError: there are no results.
    """
    with store.snapshot():
        results = with_worst_cases(store)
        table = tabulate(results, shared_images(store, results))
    console.print(Terminal(ranked(table)))


def _tradeoffs(table: Table, kind: str) -> dict[str, bytes]:
    several = any(section.mean for section in table.sections)
    figures = {name: draw_tradeoff(table, datasets=bool(at)) for at, name in enumerate(_FIGURES[: 1 + several])}
    encode = png if kind == "png" else lambda figure: svg(figure).encode()
    return {f"{name}.{kind}": encode(figure) for name, figure in figures.items()}
