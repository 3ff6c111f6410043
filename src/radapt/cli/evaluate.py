"""``radapt evaluate``: models and adapters on data sets, clean and under attack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from radapt.errors import SettingsError

from ._shared import (
    Checkpointing,
    Device,
    DeviceMap,
    Dtype,
    Json,
    Quiet,
    candidate_parts,
    console,
    fraction,
    guard,
    load_sets,
    split_names,
    write_rows,
)

__all__ = ["evaluate", "options_of"]


def options_of(pairs: list[str]) -> dict[str, object]:
    """Read ``NAME=VALUE`` pairs; values that look like numbers become numbers."""
    options: dict[str, object] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise SettingsError(f"an option is written NAME=VALUE, got {pair!r}")
        try:
            number = fraction(value)
        except SettingsError:
            options[name] = {"true": True, "false": False, "none": None}.get(value, value)
        else:
            whole = number.is_integer() and "." not in value and "/" not in value
            options[name] = int(number) if whole else number
    return options


@guard
def evaluate(
    candidates: Annotated[list[str], typer.Argument(help="What to evaluate: [bold]\\[LABEL=]MODEL\\[+ADAPTER][/].")],
    data: Annotated[str, typer.Option(help="Data sets, separated by commas.")] = "shapes",
    attack: Annotated[str, typer.Option(help="Attack (see `radapt attacks`); `none` for clean figures only.")] = "apgd",
    eps: Annotated[str, typer.Option(help="Radii in pixel units, separated by commas.")] = "4/255",
    norm: Annotated[str, typer.Option(help="linf or l2.")] = "linf",
    source: Annotated[
        str, typer.Option(help="Whose gradients: self (white-box), undefended, or a candidate's label; commas.")
    ] = "undefended,self",
    option: Annotated[list[str] | None, typer.Option(help="Settings of the attack: NAME=VALUE, repeatable.")] = None,
    undefended: Annotated[
        str | None, typer.Option(help="What `undefended` means; default: each candidate's model without its adapter.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="A sentence that attacks are to make a LLaVA or Qwen-VL say; figures: not said.")
    ] = None,
    n: Annotated[int | None, typer.Option(help="Images per data set; default: the card's number.")] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    seed: Annotated[int, typer.Option(help="Seed of the per-sample random numbers.")] = 0,
    slots: Annotated[int, typer.Option(help="Images per pass of the model.")] = 32,
    results: Annotated[Path, typer.Option(help="Results file; an interrupted run continues there.")] = Path(
        "results.sqlite"
    ),
    sanity: Annotated[bool, typer.Option(help="Run the sanity checks.")] = True,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    device_map: DeviceMap = None,
    checkpointing: Checkpointing = False,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Evaluate models and adapters, clean and under attack; a transfer figure always has its white-box partner.

    \b
    [bold]Examples:[/]
      radapt evaluate micro/clip micro/fare --data shapes,colours --n 100
      radapt evaluate CLIP=micro/clip "R-Adapt=micro/clip+my-adapter" --attack pgd --option steps=50
      radapt evaluate micro/tecoa --undefended micro/clip --eps 1/255,2/255,4/255 --json figures.json
      radapt evaluate micro/llava --data shapeworld-captions,shapeworld-vqa --eps 8/255 --n 64
      radapt evaluate micro/llava --data shapeworld-captions --target "a small red ring" --eps 16/255 --n 16
    """
    from radapt.evaluate import Candidate, Threat
    from radapt.evaluate import evaluate as run
    from radapt.models import VLM, load
    from radapt.report import print_table
    from radapt.results import Results

    place: dict[str, Any] = {"dtype": dtype, "device": device, "device_map": device_map, "checkpointing": checkpointing}
    lines, loaded = [], dict[str, VLM]()
    for text in candidates:
        label, model, adapter = candidate_parts(text, **place, slots=slots, loaded=loaded)
        lines.append(Candidate(method=label, model=model, adapter=adapter))
    threats = [
        Threat(attack=attack, eps=fraction(each), norm=norm, source=who, options=options_of(option or []))
        for each in split_names(eps)
        for who in split_names(source)
        if attack != "none"
    ]
    if attack != "none" and not threats:
        raise SettingsError("--eps and --source each need at least one value; for clean figures only, --attack none")
    sets = load_sets(data, split=split, n=n, models=[line.model for line in lines])
    base = next((line.model for line in lines if line.model.name == undefended), None)
    if undefended is not None and base is None:
        base = load(undefended, **place)
    with Results(results) as file:
        figures = run(
            lines,
            datasets=sets,
            threats=threats,
            results=file,
            undefended=base,
            seed=seed,
            slots=slots,
            target=target,
            sanity=sanity,
            quiet=quiet,
        )
        print_table(file, console)
    write_rows(json, figures)
    console.print(f"results in {results}; `radapt report {results}` writes tables, figures and a page", highlight=False)
