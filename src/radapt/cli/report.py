"""``radapt report``: tables, figures and the page of a results file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._shared import Json, console, existing, folder, refuse_unused, tell_written, write_rows

__all__ = ["report"]


def report(
    results: Annotated[
        list[Path], typer.Argument(parser=existing, metavar="RESULTS...", help="The results file (SQLite), or several.")
    ],
    out: Annotated[Path, typer.Option(parser=folder, metavar="FOLDER", help="Folder of the report.")] = Path("report"),
    cards: Annotated[
        Path | None,
        typer.Option(parser=folder, metavar="FOLDER", help="Folder for result cards: JSON files for a leaderboard."),
    ] = None,
    about: Annotated[
        Path | None,
        typer.Option(
            parser=existing,
            metavar="FILE",
            help="YAML file with more for the cards, by candidate: paper, authors, venue, link, changed.",
        ),
    ] = None,
    json: Json = None,
) -> None:
    """Print the table of one results file or several, and write Markdown, CSV, LaTeX, JSON, PNG, SVG and one HTML page.

    \b
    [bold]Example:[/]
      radapt report results.sqlite --out report
      radapt report clip.sqlite llava.sqlite --out report
      radapt report results.sqlite --cards cards
    """
    from radapt.reports import print_table, write_report
    from radapt.results import together, with_worst_cases

    if cards is None:
        refuse_unused("without --cards", "about")
    with together(results) as source:
        rows = with_worst_cases(source)
        write_rows(json, rows)
        written = write_report(results, out, cards=cards, about=about)
        print_table(source, console)
    tell_written(*written)
