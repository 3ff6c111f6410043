"""``radapt demo``: the main job on the embedded world, in a few minutes and without a download."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from radapt.text import one_line

from ._shared import DataRoot, Json, Quiet, console, folder, refuse_unused, tell_written, write_rows

__all__ = ["demo"]


def demo(
    out: Annotated[
        Path,
        typer.Option(parser=folder, metavar="FOLDER", help="Folder of the results, the adapters and the report."),
    ] = Path("radapt-demo"),
    n: Annotated[int, typer.Option(help="Images per dataset.")] = 100,
    photos: Annotated[
        bool,
        typer.Option("--photos", help="On photographs of CIFAR-10 and Caltech-101, which the hub or a copy gives."),
    ] = False,
    data_root: DataRoot = None,
    train: Annotated[
        bool, typer.Option("--train", help="Train the anchors of R-Adapt+ here instead of taking those that ship.")
    ] = False,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Adapt a small CLIP in several ways, attack it by transfer and through its defence, and show the trade-off.

    The model, its robust twins and the images ship with the package. An interrupted demo continues where it was.

    \b
    [bold]Examples:[/]
      radapt demo --out radapt-demo --n 100
      radapt demo --photos --data-root copies/
    """
    from radapt.experiments import demo as run
    from radapt.reports import print_table
    from radapt.results import Results

    if not photos:
        refuse_unused("without --photos", "data_root")
    started = time.perf_counter()
    made = run(out, n=n, photos=photos, train=train, progress=console.print, quiet=quiet)
    write_rows(json, made.results)
    with Results(made.file, read_only=True) as results:
        print_table(results, console)
    tell_written(*made.written)
    console.print(f"took {time.perf_counter() - started:.0f} s; open {one_line(out / 'report' / 'report.html')}")
