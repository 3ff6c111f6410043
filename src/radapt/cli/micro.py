"""``radapt micro``: the models that ship with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._shared import Quiet, console, guard

__all__ = ["app", "train"]

app = typer.Typer(help="Train the micro models that ship with the package.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Train the micro models that ship with the package."""


@app.command()
@guard
def train(
    out: Annotated[Path, typer.Option(help="Folder of the model; an interrupted run continues beside it.")] = Path(
        "runs/clip"
    ),
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 4000,
    batch: Annotated[int, typer.Option(help="Pictures per step.")] = 128,
    pool: Annotated[int, typer.Option(help="Rendered training pictures.")] = 50_000,
    lr: Annotated[float, typer.Option(help="Peak learning rate of AdamW.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Seed of weights, pictures and batches.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Train `micro/clip`, a CLIP of two million parameters, on ShapeWorld and the digits.

    Its robust twins are made with `radapt finetune`.

    \b
    [bold]Example:[/]
      radapt micro train --out runs/clip
    """
    from radapt.micro.clip import train_clip

    train_clip(out, steps=steps, batch=batch, pool=pool, lr=lr, seed=seed, quiet=quiet)
    console.print(f"wrote {out}", highlight=False)
