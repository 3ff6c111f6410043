"""``radapt reproduce``: make a table or figure of the paper, all of them, or one of your own, from its YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from radapt.errors import RadaptError

from ._shared import (
    BatchSize,
    DataRoot,
    Executor,
    Json,
    Quiet,
    Resources,
    Workers,
    console,
    executed,
    folder,
    named,
    refuse_unused,
    tell_written,
    write_rows,
)

if TYPE_CHECKING:
    from radapt.experiments import Event

__all__ = ["reproduce"]


def reproduce(
    name: Annotated[
        str | None,
        typer.Argument(
            parser=named, metavar="[NAME]", help="Name of the experiment, `all`, or a YAML file; none: list them."
        ),
    ] = None,
    profile: Annotated[
        str,
        typer.Option(
            help="micro (models in the package), photos (CIFAR-10, Caltech-101) or paper (its models; a GPU)."
        ),
    ] = "micro",
    out: Annotated[
        Path | None,
        typer.Option(parser=folder, metavar="FOLDER", help="Folder of results and report; default: runs/NAME-PROFILE."),
    ] = None,
    n: Annotated[int | None, typer.Option(help="Samples per dataset; default: the file's number.")] = None,
    data_root: DataRoot = None,
    seed: Annotated[int, typer.Option(help="Seed of the attacks.")] = 0,
    batch_size: BatchSize = 32,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1...")] = "cpu",
    sanity: Annotated[bool, typer.Option(help="Run the sanity checks, where the file wants them.")] = True,
    executor: Executor = "local",
    workers: Workers = None,
    resources: Resources = None,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Reproduce a table or figure of the paper, or all of them, on one page; an interrupted run continues.

    \b
    [bold]Examples:[/]
      radapt reproduce
      radapt reproduce tab2 --profile micro
      radapt reproduce all
      radapt reproduce all --profile photos --data-root copies/
      radapt reproduce tab2 --executor ray --workers 2
      radapt reproduce lvlm --profile paper --device cuda --out runs/lvlm
    """
    from radapt.experiments import all_experiments, run

    if name is None:
        others = ("profile", "out", "n", "data_root", "seed", "batch_size", "device", "sanity", "json")
        refuse_unused("without the name of an experiment", *others, "executor", "workers", "resources")
        table = Table("experiment", "title", "of the paper", "profiles")
        for each, listed in all_experiments().items():
            table.add_row(each, listed.title, listed.place or "", ", ".join(listed.profiles))
        console.print(table)
        return
    made = run(
        name,
        profile=profile,
        out=out,
        n=n,
        seed=seed,
        batch_size=batch_size,
        device=device,
        sanity=sanity,
        **executed(executor, workers, resources),
        progress=_show,
        quiet=quiet,
    )
    write_rows(json, made.results)
    if made.parts:
        tell_written(made.page)
    if made.failed:
        total = len(made.parts) + len(made.failed)
        raise RadaptError(
            f"{len(made.failed)} of {total} experiments failed: {', '.join(made.failed)}; the rest is written"
        )


def _show(event: Event) -> None:
    """Print what an experiment tells; of a finished one, its table and what was written."""
    from radapt.reports import print_table
    from radapt.results import Results

    if event.part is not None and event.part.results is not None:
        with Results(event.part.results, read_only=True) as results:
            print_table(results, console)
    tell_written(*event.written)
    console.print(event.text, style="red" if event.failed else None)
