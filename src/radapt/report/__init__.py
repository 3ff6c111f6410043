"""Reports: tables, figures and pages of results files, and drawings of plots."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from radapt.errors import SettingsError
from radapt.find import nearest
from radapt.report import figure, html
from radapt.report._files import write
from radapt.report._render import csv_text, latex_text, markdown_text, terminal
from radapt.report.experiments import Part, write_experiments
from radapt.report.plot import draw_plot, write_plots
from radapt.report.sweep import curves
from radapt.report.table import Table, rows, tabulate
from radapt.results import Results

__all__ = [
    "FORMATS",
    "Part",
    "curves",
    "draw_plot",
    "print_table",
    "write_experiments",
    "write_plots",
    "write_report",
]

FORMATS = ("md", "csv", "tex", "json", "png", "svg", "html")
"""What ``write_report`` can write."""


def write_report(results: str | Path, out: str | Path, *, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write the report of a results file and return what was written.

    ``table.md``, ``table.csv``, ``table.tex``, ``figures.json``, ``tradeoff.png`` and ``.svg`` (with
    ``tradeoff_datasets`` beside them where there are several data sets) and ``report.html``. Everything is made before
    anything is written, and each file replaces its older version at once. Without a method that has both a clean
    figure and one under attack there is no trade-off to draw: its files are then left out, unless only they were asked.

    Args:
        results: path of the results file.
        out: folder of the report, created when missing.
        formats: some of ``FORMATS``.

    Raises:
        SettingsError: an unknown format.
        ResultsError: the results file is missing, unusable or empty, or the folder cannot be written.
    """
    for name in formats:
        if name not in FORMATS:
            raise SettingsError(f"unknown report format {name!r}{nearest(name, FORMATS)}")
    with Results(results, read_only=True) as source:
        figures = source.figures()
        table = tabulate(figures)
        makers: dict[str, Callable[[], dict[str, bytes]]] = {
            "md": lambda: {"table.md": markdown_text(table).encode()},
            "csv": lambda: {"table.csv": csv_text(table).encode()},
            "tex": lambda: {"table.tex": latex_text(table).encode()},
            "json": lambda: {"figures.json": (json.dumps(rows(figures), indent=2) + "\n").encode()},
            "png": lambda: _pictures(table, "png"),
            "svg": lambda: _pictures(table, "svg"),
            "html": lambda: {"report.html": html.page(source).encode()},
        }
        chosen = [name for name in FORMATS if name in formats]
        if not set(chosen) <= {"png", "svg"} and not figure.drawable(table):
            chosen = [name for name in chosen if name not in ("png", "svg")]
        contents = {name: content for kind in chosen for name, content in makers[kind]().items()}
    return write(Path(out), contents)


def print_table(results: Results, console: Console) -> None:
    """Print the table of an open results file.

    Raises:
        ResultsError: there are no figures.
    """
    console.print(terminal(tabulate(results.figures())))


def _pictures(table: Table, kind: str) -> dict[str, bytes]:
    made = {"tradeoff": figure.tradeoff(table)}
    if any(section.mean for section in table.sections):
        made["tradeoff_datasets"] = figure.tradeoff(table, datasets=True)
    encode = figure.png if kind == "png" else lambda drawn: figure.svg(drawn).encode()
    return {f"{name}.{kind}": encode(drawn) for name, drawn in made.items()}
