"""``radapt tune``: choose an adapter's settings on a validation split."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.table import Table

from radapt.errors import SettingsError
from radapt.io import fraction, options_of, write_json
from radapt.text import figure, one_line

from ._shared import (
    AttackOptions,
    BatchSize,
    DataRoot,
    Device,
    DeviceMap,
    Dtype,
    Json,
    NormName,
    Quiet,
    Seed,
    console,
    file,
    folder,
    named,
    split_names,
    tell_written,
)

if TYPE_CHECKING:
    from radapt.types import Norm

__all__ = ["tune"]


def tune(
    adapter: Annotated[str, typer.Argument(parser=named, metavar="ADAPTER", help="Folder or name of the adapter.")],
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
    trials: Annotated[int, typer.Option(help="The most settings to try; of more, a random subset.")] = 64,
    attack: Annotated[str, typer.Option(help="The white-box attack.")] = "apgd-ensemble",
    eps: Annotated[str, typer.Option(help="Its radius in pixel units.")] = "4/255",
    norm: NormName = "linf",
    option: AttackOptions = None,
    weight: Annotated[float, typer.Option(help="Weight of the white-box accuracy against the clean one.")] = 0.5,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=folder,
            metavar="FOLDER",
            help="Where to save the best one; default: over ADAPTER. Required with --share.",
        ),
    ] = None,
    results: Annotated[
        Path,
        typer.Option(parser=file, metavar="FILE", help="Results of all trials; an interrupted run continues there."),
    ] = Path("tuning.sqlite"),
    seed: Seed = 0,
    batch_size: BatchSize = 32,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    device_map: DeviceMap = None,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Choose alpha, the cut-off and the shares of an adapter on a validation split, by clean and white-box accuracy.

    Pareto-optimal settings, which no other one beats in both, are marked with a star. Trials run without the checks of
    the attacks: judge what wins on test, with `radapt evaluate`. Another --weight, or more settings, measures only
    what is new.

    \b
    [bold]Examples:[/]
      radapt tune my-adapter --data shapes,colours --alphas 0.2,0.6,1 --d0s 30,40
      radapt tune grafted --share embedding=0.5,1 --share block:0-1=0.25,0.5,0.75,1 --out tuned
    """
    from radapt.adapters import Adapter
    from radapt.experiments import tune as run

    start = Adapter.from_pretrained(adapter)
    if share and (out is None or (Path(adapter).exists() and out.expanduser().resolve() == Path(adapter).resolve())):
        raise SettingsError("--share scales the deltas for good: give --out FOLDER, not the adapter's own")
    if out is None and not Path(adapter).is_dir():
        raise SettingsError(f"{one_line(adapter)} is not a folder here, to be written again; give --out FOLDER")
    tuned = run(
        model,
        start,
        data=split_names(data),
        n=n,
        attack=attack,
        eps=eps,
        norm=cast("Norm", norm),
        options=options_of(option or []),
        alphas=None if alphas is None else [fraction(a) for a in split_names(alphas)],
        d0s=None if d0s is None else [fraction(d) for d in split_names(d0s)],
        shares=_shares(share or []),
        trials=trials,
        weight=weight,
        results=results,
        seed=seed,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        device_map=device_map,
        quiet=quiet,
    )
    table = Table("", "alpha", "D0 at 224 px", "shares", "clean %", f"white-box % ({attack}, {eps})", "score")
    for trial in tuned.trials:
        d0 = "none" if trial.cutoff is None else f"{trial.cutoff * 224:.0f}"
        shares = ", ".join(f"{part} {value:g}" for part, value in trial.shares.items())
        figures = figure(trial.clean, trial.clean_interval), figure(trial.robust, trial.robust_interval)
        table.add_row(
            "*" if trial in tuned.pareto_front else "", f"{trial.alpha:g}", d0, shares, *figures, f"{trial.score:.1f}"
        )
    console.print(table)
    if json is not None:
        write_json(json, [asdict(trial) for trial in tuned.trials])
    tell_written(tuned.adapter.save_pretrained(out or Path(adapter)))


def _shares(given: list[str]) -> list[float] | dict[str, list[float]] | None:
    """Shares for all deltas, or for each of some parts."""
    pairs = [each.rpartition("=") for each in given]
    if len({bool(part) for part, _, _ in pairs}) > 1 or (len(pairs) > 1 and not pairs[0][0]):
        raise SettingsError("give --share once with numbers alone, or PART=NUMBERS for every part")
    values = {part: [fraction(value) for value in split_names(numbers)] for part, _, numbers in pairs}
    if len(values) < len(pairs):
        raise SettingsError("--share names a part twice; give all its numbers at once")
    return (values.get("") or values) if values else None
