"""``radapt adapt`` and ``radapt tune``: make an adapter, and choose its settings on a validation split."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from radapt.errors import SettingsError
from radapt.find import nearest

from ._shared import (
    Device,
    DeviceMap,
    Dtype,
    Json,
    Quiet,
    checkpoint_of,
    console,
    cutoff_of,
    fraction,
    guard,
    load_sets,
    split_names,
    write_json,
)

__all__ = ["METHODS", "adapt", "tune"]

METHODS = ("training-free", "model-guided", "data-driven")


@guard
def adapt(
    method: Annotated[str, typer.Argument(help="training-free, model-guided or data-driven.")],
    model: Annotated[str, typer.Option(help="The model to adapt.")] = "micro/clip",
    out: Annotated[Path, typer.Option(help="Folder of the adapter.")] = Path("adapter"),
    guide: Annotated[str | None, typer.Option(help="model-guided: the robust twin.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Weight of the anchor; default 1 (data-driven 0.8).")] = None,
    d0: Annotated[float, typer.Option(help="Cut-off of the filter as the paper's D0 at 224 px; 0: no filter.")] = 40.0,
    mix: Annotated[str, typer.Option(help="interpolate or add.")] = "interpolate",
    image: Annotated[str, typer.Option(help="Image of the anchor: white, grey, black, noise or mean.")] = "white",
    block: Annotated[int, typer.Option(help="Block of the anchor; the paper's is the first, 0.")] = 0,
    data: Annotated[str, typer.Option(help="data-driven, mean: the data set whose train split is used.")] = "objects",
    n: Annotated[int, typer.Option(help="data-driven, mean: number of images.")] = 2000,
    loss: Annotated[str, typer.Option(help="data-driven: embedding or text.")] = "embedding",
    adversary: Annotated[str, typer.Option(help="data-driven: static or adaptive.")] = "static",
    eps: Annotated[str, typer.Option(help="data-driven: l-inf radius of the training attack.")] = "4/255",
    steps: Annotated[int, typer.Option(help="data-driven: optimiser steps.")] = 120,
    seed: Annotated[int, typer.Option(help="data-driven: seed.")] = 0,
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
    """
    from radapt.adapt import data_driven, model_guided, training_free
    from radapt.data import Dataset, load_dataset
    from radapt.models import load

    if method not in METHODS:
        raise SettingsError(f"unknown method {method!r}{nearest(method, METHODS)}")
    vlm = load(model, dtype=dtype, device=device, device_map=device_map)
    cutoff = cutoff_of(d0)
    weight = alpha if alpha is not None else (0.8 if method == "data-driven" else 1.0)

    def images() -> Dataset:
        return load_dataset(data, split="train", n=n, size=vlm.image_size[0])

    if method == "data-driven" and (block or image != "white"):
        raise SettingsError("--block and --image are for anchors of a forward pass, not for data-driven")
    shown = images().pixels(range(n)) if image == "mean" else None
    if method == "training-free":
        adapter = training_free(vlm, cutoff=cutoff, alpha=weight, mix=mix, image=image, pixels=shown, block=block)
    elif method == "model-guided":
        if guide is None:
            raise SettingsError("model-guided needs --guide, the robust twin, e.g. --guide micro/fare")
        twin = load(guide, dtype=dtype, device=device)
        adapter = model_guided(vlm, twin, cutoff=cutoff, alpha=weight, mix=mix, image=image, pixels=shown, block=block)
    else:
        train, text = images(), loss == "text"
        adapter = data_driven(
            vlm,
            train.pixels(range(len(train))),
            train.labels if text else None,
            classifier=vlm.classifier(train.prompts) if text else None,
            loss=loss,
            adversary=adversary,
            eps=fraction(eps),
            steps=steps,
            cutoff=cutoff,
            alpha=weight,
            mix=mix,
            seed=seed,
            checkpoint=checkpoint_of(out),
            quiet=quiet,
        )
    adapter.save_pretrained(out)
    facts = {**asdict(adapter.settings), **adapter.settings.origin, "fingerprint": adapter.fingerprint}
    facts.pop("origin")
    write_json(json, facts)
    console.print(f"wrote {out}: {adapter}", highlight=False, markup=False)


@guard
def tune(
    adapter: Annotated[Path, typer.Argument(help="Folder of the adapter.")],
    model: Annotated[str, typer.Option(help="The model it is for.")] = "micro/clip",
    data: Annotated[
        str, typer.Option(help="Zero-shot sets, separated by commas; their validation split is used.")
    ] = "shapes,colours",
    n: Annotated[int, typer.Option(help="Images per data set.")] = 100,
    alphas: Annotated[str, typer.Option(help="Weights to try, separated by commas.")] = "0.2,0.4,0.6,0.8,1,1.2",
    d0s: Annotated[str | None, typer.Option(help="Cut-offs to try (D0 at 224 px); default: the adapter's own.")] = None,
    attack: Annotated[str, typer.Option(help="The white-box attack.")] = "pgd",
    steps: Annotated[int, typer.Option(help="Its steps.")] = 10,
    eps: Annotated[str, typer.Option(help="Its radius.")] = "4/255",
    weight: Annotated[float, typer.Option(help="Weight of the white-box accuracy against the clean one.")] = 0.5,
    out: Annotated[Path | None, typer.Option(help="Where to save the best one; default: in place.")] = None,
    json: Json = None,
) -> None:
    """Choose alpha and the cut-off of an adapter on a validation split, by clean and white-box accuracy.

    \b
    [bold]Example:[/]
      radapt tune my-adapter --data shapes,colours --alphas 0.2,0.6,1 --d0s 30,40
    """
    from radapt.adapt import Adapter, cutoff_from_d0
    from radapt.adapt import tune as run
    from radapt.attacks import make
    from radapt.models import load

    tuned = run(
        load(model),
        Adapter.from_pretrained(adapter),
        datasets=load_sets(data, split="validation", n=n),
        attack=make(attack, eps=fraction(eps), steps=steps),
        alphas=[fraction(a) for a in split_names(alphas)],
        cutoffs=[cutoff_from_d0(fraction(d)) for d in split_names(d0s)] if d0s else None,
        weight=weight,
    )
    table = Table("alpha", "D0 at 224 px", "clean %", f"white-box % ({attack}, {eps})", "score")
    for trial in tuned.trials:
        d0 = "none" if trial.cutoff is None else f"{trial.cutoff * 224:.0f}"
        table.add_row(f"{trial.alpha:g}", d0, f"{trial.clean:.1f}", f"{trial.robust:.1f}", f"{trial.score:.1f}")
    console.print(table)
    write_json(json, [asdict(trial) for trial in tuned.trials])
    console.print(f"wrote {tuned.adapter.save_pretrained(out or adapter)}", highlight=False)
