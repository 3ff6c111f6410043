"""``radapt leaderboard``: a page that compares result cards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._shared import existing, file, tell_written

__all__ = ["leaderboard"]


def leaderboard(
    cards: Annotated[
        list[Path], typer.Argument(parser=existing, metavar="CARDS...", help="Folders of result cards, or single ones.")
    ],
    out: Annotated[Path, typer.Option(parser=file, metavar="FILE", help="The page.")] = Path("leaderboard.html"),
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Leaderboard",
) -> None:
    """Compare result cards (`radapt report --cards`), one's own or others', on one HTML page, by dataset and radius.

    The order is that of white-box accuracy, what may be trusted first; transfer stands beside it, and decides nothing.

    \b
    [bold]Example:[/]
      radapt leaderboard cards --out leaderboard.html
    """
    from radapt.reports import write_leaderboard

    tell_written(write_leaderboard(cards, out, title=title))
