"""``radapt adapt`` and ``radapt tune``: make an adapter, and choose its settings on a validation split."""

from __future__ import annotations

import inspect
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

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
    Seed,
    console,
    existing,
    folder,
    named,
    refuse_unused,
    split_names,
    split_numbers,
    tell_written,
)

__all__ = ["adapt", "tune"]


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
        float | None, typer.Option(help="Cut-off of the filter as the paper's D0 at 224 px; 0: no filter; default 40.")
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


def tune(
    adapter: Annotated[Path, typer.Argument(parser=existing, metavar="ADAPTER", help="Folder of the adapter.")],
    model: Annotated[str, typer.Option(parser=named, metavar="NAME", help="The model it is for.")] = "micro/clip",
    data: Annotated[
        str, typer.Option(help="Zero-shot sets, separated by commas; their validation split is used.")
    ] = "shapes,colours",
    n: Annotated[int, typer.Option(help="Images per dataset.")] = 100,
    data_root: DataRoot = None,
    alphas: Annotated[
        str | None, typer.Option(help="Weights of the anchor to try, by commas; default 0.2,0.4,0.6,0.8,1,1.2.")
    ] = None,
    d0s: Annotated[str | None, typer.Option(help="Cut-offs to try (D0 at 224 px); default: the adapter's own.")] = None,
    share: Annotated[
        list[str] | None,
        typer.Option(help="Shares of the deltas to try: 0.5,1 for all, PART=0.5,1 for a part; repeatable."),
    ] = None,
    trials: Annotated[int, typer.Option(help="Settings that are tried at most; of more, so many are drawn.")] = 64,
    attack: Annotated[str, typer.Option(help="The white-box attack.")] = "pgd",
    steps: Annotated[int, typer.Option(help="Its steps.")] = 10,
    eps: Annotated[str, typer.Option(help="Its radius.")] = "4/255",
    weight: Annotated[float, typer.Option(help="Weight of the white-box accuracy against the clean one.")] = 0.5,
    out: Annotated[
        Path | None,
        typer.Option(parser=folder, metavar="FOLDER", help="Where to save the best one; default: in place."),
    ] = None,
    seed: Seed = 0,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    device_map: DeviceMap = None,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Choose alpha, the cut-off and the shares of an adapter on a validation split, by clean and white-box accuracy.

    Settings that no other one beats in both are marked with a star.

    \b
    [bold]Examples:[/]
      radapt tune my-adapter --data shapes,colours --alphas 0.2,0.6,1 --d0s 30,40
      radapt tune grafted --share embedding=0.5,1 --share block:0-1=0.25,0.5,0.75,1
    """
    from radapt.adapters import tune as run

    tuned = run(
        model,
        adapter,
        data=split_names(data),
        n=n,
        attack=attack,
        eps=eps,
        steps=steps,
        alphas=None if alphas is None else [fraction(a) for a in split_names(alphas)],
        d0s=None if d0s is None else [fraction(d) for d in split_names(d0s)],
        shares=_shares(share or []),
        trials=trials,
        weight=weight,
        seed=seed,
        device=device,
        dtype=dtype,
        device_map=device_map,
        quiet=quiet,
    )
    table = Table("", "alpha", "D0 at 224 px", "shares", "clean %", f"white-box % ({attack}, {eps})", "score")
    for trial in tuned.trials:
        d0 = "none" if trial.cutoff is None else f"{trial.cutoff * 224:.0f}"
        shares = ", ".join(f"{part} {value:g}" for part, value in trial.shares.items())
        numbers = f"{trial.clean:.1f}", f"{trial.robust:.1f}", f"{trial.score:.1f}"
        table.add_row("*" if trial in tuned.front else "", f"{trial.alpha:g}", d0, shares, *numbers)
    console.print(table)
    if json is not None:
        write_json(json, [asdict(trial) for trial in tuned.trials])
    tell_written(tuned.adapter.save_pretrained(out or adapter))


def _shares(given: list[str]) -> list[float] | dict[str, list[float]] | None:
    """Shares for all deltas, or for each of some parts."""
    pairs = [each.rpartition("=") for each in given]
    if len({bool(part) for part, _, _ in pairs}) > 1 or (len(pairs) > 1 and not pairs[0][0]):
        raise SettingsError("give --share once with numbers alone, or PART=NUMBERS for every part")
    values = {part: [fraction(value) for value in split_names(numbers)] for part, _, numbers in pairs}
    if len(values) < len(pairs):
        raise SettingsError("--share names a part twice; give all its numbers at once")
    return (values.get("") or values) if values else None
