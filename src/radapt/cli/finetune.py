"""``radapt finetune``: robust twins of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from radapt.io import write_json
from radapt.text import one_line

from ._shared import DataRoot, Device, Json, Quiet, console, folder, named, split_names, split_numbers

if TYPE_CHECKING:
    from radapt.types import OptimizerName, Precision

__all__ = ["finetune"]


def finetune(
    method: Annotated[str, typer.Argument(help="fare, pmg, tecoa or tga.")],
    model: Annotated[str, typer.Option(parser=named, metavar="NAME", help="The model to start from.")] = "micro/clip",
    out: Annotated[
        Path,
        typer.Option(
            parser=folder, metavar="FOLDER", help="Folder of the twin; an interrupted run continues beside it."
        ),
    ] = Path("twin"),
    data: Annotated[
        str, typer.Option(help="The dataset whose train split is used; several, separated by commas, are joined.")
    ] = "objects",
    n: Annotated[str, typer.Option(help="Number of images; of several datasets, one for each, or for all.")] = "20000",
    data_root: DataRoot = None,
    layers: Annotated[
        str, typer.Option(help="What is trained: all, or parts joined by +, such as embedding+block:0 or lora:r8@0-2.")
    ] = "all",
    eps: Annotated[str, typer.Option(help="l-inf radius of the training attack.")] = "4/255",
    attack_steps: Annotated[int, typer.Option(help="PGD steps of the training attack.")] = 10,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 20_000,
    minutes: Annotated[
        float | None, typer.Option(help="Instead: as many steps as fit into this time, by the speed of the first ones.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images that are attacked together.")] = 128,
    accumulate: Annotated[int, typer.Option(help="Batches per step and process.")] = 1,
    optimizer: Annotated[str, typer.Option(help="adamw or sgd (with momentum 0.9).")] = "adamw",
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-5,
    weight_decay: Annotated[float, typer.Option(help="Weight decay.")] = 1e-4,
    ema: Annotated[float, typer.Option(help="Decay of the moving average of the weights; 0: none.")] = 0.0,
    precision: Annotated[str, typer.Option(help="Of attack and loss: float32 or bfloat16.")] = "float32",
    seed: Annotated[int, typer.Option(help="Seed of the batches and the attack.")] = 0,
    half: Annotated[bool, typer.Option(help="Store the weights in float16.")] = False,
    device: Device = "cpu",
    log: Annotated[
        Path | None, typer.Option(parser=folder, metavar="FOLDER", help="Folder of a log for TensorBoard.")
    ] = None,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Fine-tune a copy of a model's vision tower on adversarial images (the text tower stays frozen).

    \b
    [bold]Examples:[/]
      radapt finetune fare --model micro/clip --attack-steps 4 --steps 320 --lr 3e-4 --out runs/fare
      radapt finetune tecoa --model micro/clip --attack-steps 4 --steps 320 --lr 3e-4 --out runs/tecoa
      radapt finetune tga --layers embedding+block:0 --optimizer sgd --lr 1e-4 --log runs/log --out runs/tga
      radapt finetune fare --layers lora:r8@0-2 --accumulate 2 --precision bfloat16 --device cuda:0 --out runs/lora
      radapt finetune fare --model runs/photos --data cifar-10,caltech-101 --n 12000,3030 --device cuda --out runs/far

    On several GPUs: accelerate launch --multi_gpu --num_processes 4 --no_python radapt finetune fare ...
    """
    from radapt.finetuning import finetune as run
    from radapt.training import workers

    tuned = run(
        method,
        model,
        names[0] if len(names := split_names(data)) == 1 else names,
        n=numbers[0] if len(numbers := split_numbers(n, "--n")) == 1 else numbers,
        device=device,
        layers=layers,
        eps=eps,
        attack_steps=attack_steps,
        steps=steps,
        minutes=minutes,
        batch_size=batch_size,
        accumulate=accumulate,
        optimizer=cast("OptimizerName", optimizer),
        lr=lr,
        weight_decay=weight_decay,
        ema=ema,
        precision=cast("Precision", precision),
        seed=seed,
        out=out,
        half=half,
        log=log,
        quiet=quiet,
    )
    if not workers().main:
        return
    if json is not None:
        write_json(json, tuned.recipe)
    losses = f"{tuned.recipe['first_loss']:.4g} -> {tuned.recipe['last_loss']:.4g}"
    console.print(f"wrote {one_line(out)}; loss {losses}", soft_wrap=True)
