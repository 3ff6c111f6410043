"""``radapt finetune``: robust twins of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from radapt.errors import SettingsError

from ._shared import Device, Json, Quiet, checkpoint_of, console, fraction, guard, write_json

__all__ = ["finetune"]


@guard
def finetune(
    method: Annotated[str, typer.Argument(help="fare, pmg, tecoa or tga.")],
    model: Annotated[str, typer.Option(help="The model to start from.")] = "micro/clip",
    out: Annotated[Path, typer.Option(help="Folder of the twin; an interrupted run continues beside it.")] = Path(
        "twin"
    ),
    data: Annotated[str, typer.Option(help="The data set whose train split is used.")] = "objects",
    n: Annotated[int, typer.Option(help="Number of images.")] = 20_000,
    layers: Annotated[
        str, typer.Option(help="What is trained: all, or parts joined by +, such as embedding+block:0 or lora:r8@0-2.")
    ] = "all",
    eps: Annotated[str, typer.Option(help="l-inf radius of the training attack.")] = "4/255",
    attack_steps: Annotated[int, typer.Option(help="PGD steps of the training attack.")] = 10,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 20_000,
    batch: Annotated[int, typer.Option(help="Images that are attacked together.")] = 128,
    accumulate: Annotated[int, typer.Option(help="Batches per step and process.")] = 1,
    optimizer: Annotated[str, typer.Option(help="adamw or sgd (with momentum 0.9).")] = "adamw",
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-5,
    weight_decay: Annotated[float, typer.Option(help="Weight decay.")] = 1e-4,
    ema: Annotated[float, typer.Option(help="Decay of the moving average of the weights; 0: none.")] = 0.0,
    precision: Annotated[str, typer.Option(help="Of attack and loss: float32 or bfloat16.")] = "float32",
    seed: Annotated[int, typer.Option(help="Seed of the batches and the attack.")] = 0,
    half: Annotated[bool, typer.Option(help="Store the weights in float16.")] = False,
    device: Device = "cpu",
    log: Annotated[Path | None, typer.Option(help="Folder of a log for TensorBoard.")] = None,
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

    On several GPUs: accelerate launch --multi_gpu --num_processes 4 --no_python radapt finetune fare ...
    """
    import torch

    from radapt._workers import workers
    from radapt.data import load_dataset
    from radapt.finetune import finetune as run
    from radapt.finetune import make
    from radapt.models import load

    trainer, group = make(method), workers()
    if group.device is not None and device != "cpu":
        raise SettingsError(f"each of the {group.count} processes has a device of its own; leave --device out")
    vlm = load(model, device=device if group.device is None else group.device)
    twin, history = run(
        trainer,
        vlm,
        load_dataset(data, split="train", n=n, size=vlm.image_size[0]),
        label=method,
        layers=layers,
        eps=fraction(eps),
        attack_steps=attack_steps,
        steps=steps,
        batch=batch,
        accumulate=accumulate,
        optimizer=optimizer,
        lr=lr,
        weight_decay=weight_decay,
        ema=ema,
        precision=precision,
        seed=seed,
        checkpoint=checkpoint_of(out),
        log=log,
        quiet=quiet,
    )
    if not group.main:
        return
    twin.save_pretrained(out, dtype=torch.float16 if half else torch.float32)
    facts = {
        "method": method,
        "model": model,
        "data": data,
        "n": n,
        "layers": layers,
        "eps": fraction(eps),
        "attack_steps": attack_steps,
        "steps": steps,
        "batch": batch,
        "accumulate": accumulate,
        "workers": group.count,
        "optimizer": optimizer,
        "lr": lr,
        "weight_decay": weight_decay,
        "ema": ema,
        "precision": precision,
        "seed": seed,
        "device": str(vlm.device),
        "log": None if log is None else str(log),
        "first_loss": history[0],
        "last_loss": sum(history[-20:]) / len(history[-20:]),
    }
    for path in (out / "recipe.json", json):
        write_json(path, facts)
    console.print(f"wrote {out}; loss {facts['first_loss']:.4g} -> {facts['last_loss']:.4g}", highlight=False)
