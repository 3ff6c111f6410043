"""``radapt report``: tables, figures and the page of a results file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._shared import Json, console, guard, write_rows

__all__ = ["report"]


@guard
def report(
    results: Annotated[Path, typer.Argument(help="The results file (SQLite).")],
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("report"),
    json: Json = None,
) -> None:
    """Print the table of a results file and write Markdown, CSV, LaTeX, JSON, PNG, SVG and one HTML page.

    \b
    [bold]Example:[/]
      radapt report results.sqlite --out report
    """
    from radapt.reports import print_table, write_report
    from radapt.results import Results, with_worst_cases

    with Results(results, read_only=True) as source:
        print_table(source, console)
        write_rows(json, with_worst_cases(source))
    for path in write_report(results, out):
        console.print(f"wrote {path}", highlight=False)
