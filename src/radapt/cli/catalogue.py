"""``radapt models | datasets | attacks``: what there is."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from radapt.text import gigabytes, visible

from ._shared import BatchSize, Checkpointing, Dtype, console, named, refuse_unused

__all__ = ["attacks", "datasets", "models"]

_Name = Annotated[str | None, typer.Argument(parser=named, metavar="[NAME]", help="Show this one in full.")]


def models(
    name: Annotated[
        str | None,
        typer.Argument(parser=named, metavar="[MODEL]", help="Show what this one takes: a name or a folder."),
    ] = None,
    dtype: Dtype = "float32",
    batch_size: BatchSize = 1,
    image_size: Annotated[int | None, typer.Option(help="Height and width of the images; default: its own.")] = None,
    gradient_checkpointing: Checkpointing = False,
) -> None:
    """List the models that can be loaded or adapted, or estimate the memory that one takes under attack.

    Of that one, its config.json alone is read.

    \b
    [bold]Examples:[/]
      radapt models
      radapt models llava-hf/llava-1.5-7b-hf --dtype bfloat16 --batch-size 8 --gradient-checkpointing
    """
    from radapt.adapters import micro_adapters
    from radapt.models import estimate, families, micro_models

    if name is not None:
        memory = estimate(
            name,
            dtype=dtype,
            batch_size=batch_size,
            image_size=image_size,
            gradient_checkpointing=gradient_checkpointing,
        )
        table = Table("part")
        for heading in ("parameters (M)", "weights (GB)", "activations (GB)"):
            table.add_column(heading, justify="right")
        for number, row in enumerate(memory.rows(), 1):
            table.add_row(*row, end_section=number == len(memory.parts))
        console.print(memory.heading(), soft_wrap=True)
        console.print(table)
        console.print(f"total {gigabytes(memory.total, 2)}; the device's own context comes on top")
        return
    refuse_unused("without a model", "dtype", "batch_size", "image_size", "gradient_checkpointing")
    table = Table("model", "kind")
    for name in micro_models():
        table.add_row(name, "ships with the package; no download")
    for name in micro_adapters():
        table.add_row(name, "adapter that ships with the package: MODEL+ADAPTER")
    for family, kinds, loads in families():
        what = "load, adapt, attack" if loads else "carries an adapter (Adapter.attach)"
        table.add_row(f"Hugging Face models of type {', '.join(kinds)}", f"{what} [{family}]")
    console.print(table)


def datasets(name: _Name = None) -> None:
    """List the datasets, or show the card of one.

    \b
    [bold]Examples:[/]
      radapt datasets
      radapt datasets textures
    """
    from radapt.data import card
    from radapt.data import datasets as names

    if name is None:
        table = Table("dataset", "task", "what it tests")
        for each in names():
            table.add_row(each, card(each).task, card(each).tests)
        console.print(table)
        return
    details = card(name)
    for field in fields(details):
        value = getattr(details, field.name)
        console.print(Text.assemble((field.name, "bold"), f": {visible(value)}"))


def attacks(name: _Name = None) -> None:
    """List the attacks with their settings, or describe one.

    \b
    [bold]Examples:[/]
      radapt attacks
      radapt attacks apgd
    """
    from radapt.attacks import REGISTRY

    if name is not None:
        import inspect

        kind = REGISTRY.get(name)
        console.print(inspect.getdoc(kind) or "")
        return
    table = Table("attack", "what it is", "settings (--option NAME=VALUE)")
    for each in REGISTRY.names():
        kind = REGISTRY.get(each)
        options = [f for f in fields(kind) if f.name not in ("eps", "norm")]  # which have options of their own
        settings = [f.name if f.default is MISSING else f"{f.name}={_shown(f.default)}" for f in options]
        table.add_row(each, (kind.__doc__ or "").split(".\n")[0].strip(), ", ".join(settings))
    console.print(table)


def _shown(value: object) -> str:
    """A default as one would type it; what is empty is chosen by the attack."""
    return "(its own)" if value == "" else str(value)
