"""``radapt check``: one model under several attacks, and what may be claimed of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from radapt.io import options_of, write_json
from radapt.text import one_line

from ._shared import (
    AttackOptions,
    BatchSize,
    Data,
    DataRoot,
    Device,
    DeviceMap,
    Dtype,
    Executor,
    NormName,
    Quiet,
    Resources,
    Seed,
    SplitName,
    Workers,
    console,
    executed,
    file,
    folder,
    named,
    split_names,
    tell_memory,
    tell_written,
)

if TYPE_CHECKING:
    from radapt.types import Norm, Split

__all__ = ["check"]

_FAILED = 3
"""Exit status of a check that is not passed: neither wrong usage (2) nor any other failure (1)."""


def check(
    model: Annotated[str, typer.Argument(help="What to check: [bold]\\[LABEL=]MODEL\\[+ADAPTER][/].")],
    data: Data = "shapes",
    attack: Annotated[
        str, typer.Option(help="Attacks, separated by commas; the first is made on the undefended model, too.")
    ] = "autoattack,low-frequency",
    eps: Annotated[str, typer.Option(help="The radius in pixel units.")] = "4/255",
    norm: NormName = "linf",
    option: AttackOptions = None,
    undefended: Annotated[
        str | None,
        typer.Option(
            parser=named,
            metavar="MODEL",
            help="What it is compared with, and attacked from; default: the model without its adapter.",
        ),
    ] = None,
    fail_under: Annotated[
        float | None,
        typer.Option(help="Exit with 3 unless so many per cent withstand every attack on every dataset, unflagged."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(parser=folder, metavar="FOLDER", help="Folder for the attacked images that are kept, as PNG."),
    ] = None,
    out: Annotated[
        Path, typer.Option(parser=folder, metavar="FOLDER", help="Folder of the results file and the report.")
    ] = Path("radapt-check"),
    n: Annotated[int, typer.Option(help="Images per dataset.")] = 100,
    split: SplitName = "test",
    data_root: DataRoot = None,
    seed: Seed = 0,
    batch_size: BatchSize = 32,
    executor: Executor = "local",
    workers: Workers = None,
    resources: Resources = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    device_map: DeviceMap = None,
    json: Annotated[
        Path | None, typer.Option(parser=file, metavar="FILE", help="Also write claims, figures and results as JSON.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Attack one model white-box through its defence and by transfer, and say what may be claimed of it.

    \b
    [bold]Examples:[/]
      radapt check micro/clip+micro/shallow --data shapes,digits
      radapt check micro/fare --undefended micro/clip --fail-under 20
      radapt check micro/clip+my-adapter --attack apgd-ensemble,low-frequency,square --n 200 --json check.json
    """
    from radapt.evaluation import Models
    from radapt.experiments import check as run

    place: dict[str, Any] = {"dtype": dtype, "device": device, "device_map": device_map}
    found = run(
        model,
        data=split_names(data),
        attack=split_names(attack),
        eps=eps,
        norm=cast("Norm", norm),
        options=options_of(option or []),
        undefended=undefended,
        fail_under=fail_under,
        images=images,
        out=out,
        n=n,
        split=cast("Split", split),
        seed=seed,
        batch_size=batch_size,
        **executed(executor, workers, resources),
        models=Models(place, before=lambda name: tell_memory(name, dtype=dtype, batch_size=batch_size)),
        quiet=quiet,
    )
    console.print(found.text, soft_wrap=True)
    if json is not None:
        write_json(json, found.facts())
    tell_written(out / "report" / "report.html", *([] if images is None else [images]))
    if not found.passed:
        typer.echo(f"{one_line(found.candidate)} fails the check: {one_line(found.reason)}", err=True)
        raise typer.Exit(_FAILED)
