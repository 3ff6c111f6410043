"""``radapt search``: look for an adapter by successive halving."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from radapt.text import figure, one_line

from ._shared import DataRoot, Quiet, console, existing, folder

__all__ = ["search"]


def search(
    file: Annotated[Path, typer.Argument(parser=existing, metavar="FILE", help="YAML file of the search.")],
    out: Annotated[
        Path, typer.Option(parser=folder, metavar="FOLDER", help="Folder of the adapters, results and trials.json.")
    ] = Path("search"),
    data_root: DataRoot = None,
    quiet: Quiet = False,
) -> None:
    """Try settings of an adapter that is trained: many short trainings, the best ones longer; on validation splits.

    An interrupted search continues. What comes out is the front of clean and white-box accuracy, not one winner: judge
    it on test with `radapt evaluate`.

    \b
    [bold]Example:[/]
      radapt search shallow.yaml --out runs/shallow
    """
    from radapt.experiments import pareto_front
    from radapt.experiments import search as run

    trials = run(file, out=out, progress=lambda text: console.print(text, soft_wrap=True, markup=False), quiet=quiet)
    last = [trial for trial in trials if trial.rung == trials[-1].rung]
    table, best = Table("trial", "clean %", "white-box %", "seconds", "images", "weights changed %"), pareto_front(last)
    for trial in best:
        figures = figure(trial.clean, trial.clean_interval), figure(trial.robust, trial.robust_interval)
        numbers = (
            *figures,
            "" if trial.seconds is None else f"{trial.seconds:.0f}",
            "" if trial.images is None else f"{trial.images:,}",
        )
        table.add_row(trial.name, *numbers, f"{trial.changed:.0f}")
    console.print(table)
    for trial in best:
        settings = ", ".join(f"{name}={value}" for name, value in trial.settings.items())
        console.print(f"{one_line(trial.folder)}: {one_line(settings)}", soft_wrap=True, markup=False)
    console.print(f"every trial in {one_line(out / 'trials.json')}, and drawn in trials.svg", soft_wrap=True)
