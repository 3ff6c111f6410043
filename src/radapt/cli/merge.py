"""``radapt merge``: put results files together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from radapt.text import one_line

from ._shared import console, existing, file

__all__ = ["merge"]


def merge(
    parts: Annotated[list[Path], typer.Argument(parser=existing, metavar="PART...", help="Results files (SQLite).")],
    results: Annotated[
        Path,
        typer.Option(parser=file, metavar="FILE", help="The file that they are added to; made where it is missing."),
    ] = Path("results.sqlite"),
) -> None:
    """Put results files together that were measured in parts (`radapt evaluate --shard`), and print the table.

    Then give the command of the evaluation once more, without --shard: it measures nothing again, but runs the checks.

    \b
    [bold]Example:[/]
      radapt evaluate micro/fare --n 200 --chunk-size 64 --shard 1/2 --results one.sqlite
      radapt evaluate micro/fare --n 200 --chunk-size 64 --shard 2/2 --results two.sqlite
      radapt merge one.sqlite two.sqlite --results both.sqlite
      radapt evaluate micro/fare --n 200 --chunk-size 64 --results both.sqlite
    """
    from radapt.reports import print_table
    from radapt.results import Results

    with Results(results) as whole:
        for path in parts:
            with Results(path, read_only=True) as part:
                whole.merge(part)
        print_table(whole, console)
    console.print(f"results in {one_line(results)}", soft_wrap=True)
