"""``radapt micro``: the models that ship with the package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from radapt.errors import SettingsError
from radapt.io import fraction
from radapt.registry import nearest

from ._commands import Command
from ._shared import DataRoot, Device, Quiet, folder, named, split_names, split_numbers, tell_written

if TYPE_CHECKING:
    from radapt.models import VLM

__all__ = ["app", "photos", "train"]

_SETS = "cifar-10,caltech-101"

app = typer.Typer(help="Train the micro models that ship with the package.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Train the micro models that ship with the package."""


@app.command(cls=Command)
def train(
    name: Annotated[str, typer.Argument(help="clip, llava or qwen-vl.")] = "clip",
    out: Annotated[
        Path | None,
        typer.Option(
            parser=folder,
            metavar="FOLDER",
            help="Folder of the model; an interrupted run continues beside it. Default: runs/NAME.",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps; default: as the shipped model was made.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step; the same default.")] = None,
    pool: Annotated[int, typer.Option(help="Rendered training images.")] = 50_000,
    lr: Annotated[float, typer.Option(help="Peak learning rate of AdamW.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Seed of weights, images and batches.")] = 0,
    start: Annotated[
        str | None,
        typer.Option(
            parser=named, metavar="MODEL", help="A LLaVA or Qwen-VL that was trained before, to be trained on."
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Train a micro model: a CLIP on ShapeWorld and the digits, or a LLaVA or Qwen-VL on captions and questions.

    The robust twins of `micro/clip` are made with `radapt finetune`; the LLaVA and the Qwen-VL begin with its tower.

    \b
    [bold]Examples:[/]
      radapt micro train clip --out runs/clip
      radapt micro train llava --out runs/llava
      radapt micro train qwen-vl --out runs/qwen-vl
      radapt micro train llava --start runs/llava --steps 1000 --lr 6e-4 --seed 1 --out runs/llava-longer
    """
    from radapt.micro.clip import train_clip
    from radapt.micro.llava import train_llava
    from radapt.micro.qwen_vl import train_qwen_vl

    makers: dict[str, Callable[..., VLM]] = {"clip": train_clip, "llava": train_llava, "qwen-vl": train_qwen_vl}
    if name not in makers:
        raise SettingsError(f"unknown micro model {name!r}{nearest(name, makers)}")
    if start is not None and name == "clip":
        raise SettingsError("start is for a llava or qwen-vl; a clip begins with random weights")
    given = (("steps", steps), ("batch_size", batch_size), ("start", start))
    sizes: dict[str, Any] = {key: value for key, value in given if value is not None}
    place = folder(Path("runs") / name) if out is None else out
    makers[name](place, **sizes, pool=pool, lr=lr, seed=seed, quiet=quiet)
    tell_written(place)


@app.command(cls=Command)
def photos(
    out: Annotated[
        Path,
        typer.Option(
            parser=folder, metavar="FOLDER", help="Folder of the model; an interrupted run continues beside it."
        ),
    ] = Path("runs/photos"),
    data: Annotated[str, typer.Option(help="Zero-shot sets of photographs, separated by commas.")] = _SETS,
    n: Annotated[str, typer.Option(help="Images of the train split of each.")] = "50000,3030",
    shares: Annotated[str, typer.Option(help="Shares of the sets in each batch.")] = "0.8,0.2",
    data_root: DataRoot = None,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 6000,
    minutes: Annotated[
        float | None, typer.Option(help="Instead: as many steps as fit into this time, by the speed of the first ones.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 1024,
    pixels: Annotated[int, typer.Option(help="Height and width of the images; a multiple of 8.")] = 64,
    width: Annotated[int, typer.Option(help="Width of the vision tower; a multiple of heads.")] = 192,
    depth: Annotated[int, typer.Option(help="Blocks of the vision tower.")] = 9,
    heads: Annotated[int, typer.Option(help="Attention heads of the vision tower.")] = 3,
    lr: Annotated[float, typer.Option(help="Peak learning rate of AdamW.")] = 1e-3,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of AdamW.")] = 0.05,
    ema: Annotated[float, typer.Option(help="Decay of the moving average of the weights; 0: none.")] = 0.998,
    mix: Annotated[float, typer.Option(help="Share of the images that are mixed with another one.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Seed of weights and batches.")] = 0,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Train micro/photos: a CLIP on the train splits of CIFAR-10 and Caltech-101, or of other sets of photographs.

    A GPU trains it in minutes, in bfloat16; a core takes days for that. With --minutes, a killed run is continued
    with the --steps that it says. Its robust twins are made with `radapt finetune`.

    \b
    [bold]Examples:[/]
      radapt micro photos --data-root /data --device cuda --out runs/photos
      radapt micro photos --data-root /data --device cuda --minutes 3 --batch-size 2048 --lr 1.4e-3
      radapt micro photos --data-root /data --steps 500 --batch-size 128 --width 96 --depth 4 --ema 0.95
    """
    from radapt.micro.photos import train_photos

    train_photos(
        out,
        data=split_names(data),
        n=split_numbers(n, "--n"),
        shares=[fraction(share) for share in split_names(shares)],
        steps=steps,
        minutes=minutes,
        batch_size=batch_size,
        pixels=pixels,
        width=width,
        depth=depth,
        heads=heads,
        lr=lr,
        weight_decay=weight_decay,
        ema=ema,
        mix=mix,
        seed=seed,
        device=device,
        quiet=quiet,
    )
    tell_written(out)
