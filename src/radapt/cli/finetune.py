"""``radapt finetune``: robust twins of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._shared import Json, Quiet, checkpoint_of, console, fraction, guard, write_json

__all__ = ["finetune"]


@guard
def finetune(
    method: Annotated[str, typer.Argument(help="fare or tecoa.")],
    model: Annotated[str, typer.Option(help="The model to start from.")] = "micro/clip",
    out: Annotated[Path, typer.Option(help="Folder of the twin; an interrupted run continues beside it.")] = Path(
        "twin"
    ),
    data: Annotated[str, typer.Option(help="The data set whose train split is used.")] = "objects",
    n: Annotated[int, typer.Option(help="Number of images.")] = 20_000,
    eps: Annotated[str, typer.Option(help="l-inf radius of the training attack.")] = "4/255",
    attack_steps: Annotated[int, typer.Option(help="PGD steps of the training attack.")] = 10,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 20_000,
    batch: Annotated[int, typer.Option(help="Images per step.")] = 128,
    lr: Annotated[float, typer.Option(help="Peak learning rate of AdamW.")] = 1e-5,
    weight_decay: Annotated[float, typer.Option(help="Weight decay.")] = 1e-4,
    seed: Annotated[int, typer.Option(help="Seed of the batches and the attack.")] = 0,
    half: Annotated[bool, typer.Option(help="Store the weights in float16.")] = False,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Fine-tune a copy of a model's vision tower on adversarial images (the text tower stays frozen).

    \b
    [bold]Examples:[/]
      radapt finetune fare --model micro/clip --attack-steps 4 --steps 320 --lr 3e-4 --out runs/fare
      radapt finetune tecoa --model micro/clip --attack-steps 4 --steps 320 --lr 3e-4 --out runs/tecoa
    """
    import torch

    from radapt.data import load_dataset
    from radapt.finetune import finetune as run
    from radapt.finetune import make
    from radapt.models import load

    trainer = make(method)
    twin, history = run(
        trainer,
        load(model),
        load_dataset(data, split="train", n=n),
        label=method,
        eps=fraction(eps),
        attack_steps=attack_steps,
        steps=steps,
        batch=batch,
        lr=lr,
        weight_decay=weight_decay,
        seed=seed,
        checkpoint=checkpoint_of(out),
        quiet=quiet,
    )
    twin.save_pretrained(out, dtype=torch.float16 if half else torch.float32)
    facts = {
        "method": method,
        "model": model,
        "data": data,
        "n": n,
        "eps": fraction(eps),
        "attack_steps": attack_steps,
        "steps": steps,
        "batch": batch,
        "lr": lr,
        "weight_decay": weight_decay,
        "seed": seed,
        "first_loss": history[0],
        "last_loss": sum(history[-20:]) / len(history[-20:]),
    }
    for path in (out / "recipe.json", json):
        write_json(path, facts)
    console.print(f"wrote {out}; loss {facts['first_loss']:.4g} -> {facts['last_loss']:.4g}", highlight=False)
