"""``radapt micro``: the models that ship with the package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from radapt.errors import SettingsError
from radapt.registry import nearest

from ._commands import Command
from ._shared import Quiet, folder, named, tell_written

if TYPE_CHECKING:
    from radapt.models import VLM

__all__ = ["app", "train"]

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
