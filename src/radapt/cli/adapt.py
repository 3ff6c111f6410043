"""``radapt adapt``: make an adapter."""

from __future__ import annotations

import inspect
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from radapt.errors import SettingsError
from radapt.io import fraction, options_of, write_json
from radapt.text import one_line

from ._shared import (
    DataRoot,
    Device,
    DeviceMap,
    Dtype,
    Json,
    Quiet,
    console,
    folder,
    named,
    refuse_unused,
    split_names,
    split_numbers,
)

__all__ = ["adapt"]


def adapt(
    method: Annotated[
        str, typer.Argument(help="training-free, model-guided, data-driven, graft, shallow, or an added one.")
    ],
    model: Annotated[str, typer.Option(parser=named, metavar="NAME", help="The model to adapt.")] = "micro/clip",
    out: Annotated[Path, typer.Option(parser=folder, metavar="FOLDER", help="Folder of the adapter.")] = Path(
        "adapter"
    ),
    guide: Annotated[
        str | None, typer.Option(parser=named, metavar="MODEL", help="model-guided, graft: the robust twin.")
    ] = None,
    alpha: Annotated[float | None, typer.Option(help="Weight of the anchor; default 1 (data-driven 0.8).")] = None,
    d0: Annotated[
        float | None,
        typer.Option(
            help="Cut-off of the filter as the paper's D0 at 224 px; 0: no filter; default 40 (shallow 56, graft none)."
        ),
    ] = None,
    mix: Annotated[str | None, typer.Option(help="interpolate or add; default interpolate.")] = None,
    image: Annotated[
        str | None, typer.Option(help="Image of the anchor: white (default), grey, black, noise or mean.")
    ] = None,
    block: Annotated[int | None, typer.Option(help="Block of the anchor; the paper's is the first, 0.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Of what is trained: the datasets whose train splits are used, by commas; default objects."),
    ] = None,
    n: Annotated[
        str | None, typer.Option(help="Number of images of each dataset, or one for each, by commas; default 2000.")
    ] = None,
    data_root: DataRoot = None,
    loss: Annotated[str | None, typer.Option(help="data-driven, shallow: embedding (default) or text.")] = None,
    adversary: Annotated[str | None, typer.Option(help="data-driven: static (default) or adaptive.")] = None,
    eps: Annotated[
        str | None, typer.Option(help="data-driven, shallow: l-inf radius of the training attack; default 4/255.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="data-driven (120), shallow (300): optimiser steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="data-driven, shallow: seed.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="What else the method takes: NAME=VALUE, repeatable.")
    ] = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    device_map: DeviceMap = None,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Make an adapter and save it; the model's weights stay as they are.

    \b
    [bold]Examples:[/]
      radapt adapt training-free --model micro/clip --out my-adapter
      radapt adapt model-guided --model micro/clip --guide micro/fare --out guided
      radapt adapt data-driven --model micro/clip --adversary adaptive --n 2000 --out plus
      radapt adapt graft --guide micro/fare --option weights=embedding=1,block:0-1=0.75 --out grafted
    """
    from radapt.adapters import adapt as run
    from radapt.training import workers

    if data is None:
        refuse_unused("without --data, as the default ships with the package", "data_root")
    options: dict[str, Any] = options_of(option or [])
    for name in options:
        if name in inspect.signature(adapt).parameters:
            raise SettingsError(f"--option {name}=... is written --{name.replace('_', '-')} ...")
        if name == "checkpoint":  # `adapt` takes one, which is no setting of a method
            raise SettingsError("--option checkpoint=...: the checkpoint lies beside --out; leave it out")
    given: dict[str, Any] = {
        "alpha": alpha,
        "d0": d0,
        "mix": mix,
        "image": image,
        "block": block,
        "loss": loss,
        "adversary": adversary,
        "eps": None if eps is None else fraction(eps),
        "steps": steps,
        "seed": seed,
    }
    adapter = run(
        method,
        model,
        guide=guide,
        data=None if data is None else split_names(data),
        n=None if n is None else split_numbers(n, "--n"),
        out=out,
        device=device,
        dtype=dtype,
        device_map=device_map,
        quiet=quiet,
        **{name: value for name, value in given.items() if value is not None},
        **options,
    )
    if not workers().main:
        return
    if json is not None:
        facts = {**asdict(adapter.settings), **adapter.settings.origin, "fingerprint": adapter.fingerprint}
        facts.pop("origin")
        write_json(json, facts)
    console.print(f"wrote {one_line(out)}: {adapter}", soft_wrap=True)
