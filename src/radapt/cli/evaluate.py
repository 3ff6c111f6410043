"""``radapt evaluate``: models and adapters on datasets, clean and under attack."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.table import Table

from radapt.errors import SettingsError
from radapt.io import options_of, write_json
from radapt.text import duration, gigabytes, one_line

from ._shared import (
    AttackOptions,
    BatchSize,
    Checkpointing,
    Data,
    DataRoot,
    Device,
    DeviceMap,
    Dtype,
    Executor,
    Json,
    NormName,
    Quiet,
    Resources,
    Seed,
    SplitName,
    Workers,
    console,
    executed,
    file,
    folder,
    named,
    refuse_unused,
    split_names,
    tell_memory,
    write_rows,
)

if TYPE_CHECKING:
    from radapt.evaluation import Cost
    from radapt.types import Norm, Split

__all__ = ["evaluate"]


def evaluate(
    candidates: Annotated[list[str], typer.Argument(help="What to evaluate: [bold]\\[LABEL=]MODEL\\[+ADAPTER][/].")],
    data: Data = "shapes",
    attack: Annotated[
        str, typer.Option(help="Attacks, separated by commas (see `radapt attacks`); `none` for clean results only.")
    ] = "apgd-ensemble",
    eps: Annotated[str, typer.Option(help="Radii in pixel units, separated by commas.")] = "4/255",
    norm: NormName = "linf",
    source: Annotated[
        str, typer.Option(help="Whose gradients: self (white-box), undefended, or a candidate's label; commas.")
    ] = "undefended,self",
    option: AttackOptions = None,
    undefended: Annotated[
        str | None,
        typer.Option(
            parser=named,
            metavar="MODEL",
            help="What the source undefended stands for; default: each candidate's own model without its defence. Of a "
            "fine-tuned one, name the model that it was tuned from.",
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="What the datasets are used for; default: what their cards say.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="A sentence that attacks are to make a LLaVA or Qwen-VL say; results: not said.")
    ] = None,
    n: Annotated[int | None, typer.Option(help="Images per dataset; default: the card's number.")] = None,
    split: SplitName = "test",
    balanced: Annotated[
        bool,
        typer.Option("--balanced", help="The same number of images of each class, where there are enough, in turn."),
    ] = False,
    data_root: DataRoot = None,
    seed: Seed = 0,
    batch_size: BatchSize = 32,
    chunk_size: Annotated[
        int,
        typer.Option(help="Images that are attacked together and stored at once; part of what a result depends on."),
    ] = 128,
    shard: Annotated[
        str | None,
        typer.Option(help="Measure one of several parts only: 1/3, 2/3, 3/3. `radapt merge` joins the files."),
    ] = None,
    results: Annotated[
        Path, typer.Option(parser=file, metavar="FILE", help="Results file; an interrupted run continues there.")
    ] = Path("results.sqlite"),
    reuse: Annotated[
        str | None,
        typer.Option(
            metavar="FILES", help="Other results files, separated by commas: what they hold is not measured again."
        ),
    ] = None,
    transferred: Annotated[
        Path | None,
        typer.Option(
            parser=folder,
            metavar="FOLDER",
            help="Where images made against another model are kept, for later evaluations too.",
        ),
    ] = None,
    sanity: Annotated[bool, typer.Option(help="Run the sanity checks.")] = True,
    executor: Executor = "local",
    workers: Workers = None,
    resources: Resources = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    device_map: DeviceMap = None,
    gradient_checkpointing: Checkpointing = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only estimate what is left and what it costs here, from a probe of seconds."),
    ] = False,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Evaluate models and adapters, clean and under attack; transfer results without a white-box one are marked.

    \b
    [bold]Examples:[/]
      radapt evaluate micro/clip micro/fare --data shapes,colours --n 100
      radapt evaluate CLIP=micro/clip "R-Adapt=micro/clip+my-adapter" --attack pgd --option steps=50
      radapt evaluate micro/fare --attack apgd-ensemble,square,low-frequency --option square.steps=1000
      radapt evaluate micro/tecoa --undefended micro/clip --eps 1/255,2/255,4/255 --json results.json
      radapt evaluate micro/llava --data shapeworld-captions,shapeworld-vqa --eps 8/255 --n 64
      radapt evaluate micro/clip micro/fare --data shapes,textures --executor ray --workers 2
      radapt evaluate micro/fare --attack autoattack --n 500 --dry-run --workers 8
      radapt evaluate micro/llava --data shapeworld-captions --target "a small red ring" --eps 16/255 --n 16
    """
    from radapt.evaluation import Models, estimate_cost
    from radapt.evaluation import evaluate as run
    from radapt.reports import print_table
    from radapt.results import Results

    if not split_names(attack):
        raise SettingsError("--attack needs at least one attack; for clean results only, --attack none")
    if attack != "none" and not (split_names(eps) and split_names(source)):
        raise SettingsError("--eps and --source each need at least one value; for clean results only, --attack none")
    if attack == "none":
        refuse_unused("without an attack", "eps", "norm", "source", "option", "undefended", "transferred")
    elif split_names(source) == ["self"]:
        refuse_unused("with --source self, whose images no other model is shown", "transferred")
    if target is not None:
        refuse_unused("with --target, which is a task of its own", "task")
    place: dict[str, Any] = {
        "dtype": dtype,
        "device": device,
        "device_map": device_map,
        "gradient_checkpointing": gradient_checkpointing,
    }
    estimated = {"dtype": dtype, "gradient_checkpointing": gradient_checkpointing, "batch_size": batch_size}
    asked: dict[str, Any] = {
        "data": split_names(data),
        "attack": split_names(attack),
        "eps": split_names(eps),
        "norm": cast("Norm", norm),
        "source": split_names(source),
        "options": options_of(option or []),
        "results": results,
        "reuse": split_names(reuse or ""),
        "transferred": transferred,
        "undefended": undefended,
        "task": task,
        "target": target,
        "n": n,
        "split": cast("Split", split),
        "balanced": balanced,
        "seed": seed,
        "batch_size": batch_size,
        "chunk_size": chunk_size,
        "sanity": sanity,
        "models": Models(place, before=lambda name: tell_memory(name, **estimated)),
    }
    if dry_run:
        refuse_unused("with --dry-run, which measures nothing", "shard", "executor", "resources")
        cost = estimate_cost(candidates, **asked)
        if json is not None:
            write_json(json, [unit.row() for unit in cost.units])
        _tell(cost, workers or 1)
        return
    found = run(
        candidates,
        **asked,
        shard=shard,
        **executed(executor, workers, resources),
        quiet=quiet,
    )
    write_rows(json, found)
    with Results(results, read_only=True) as store:
        print_table(store, console)
    where = one_line(results)
    console.print(f"results in {where}; `radapt report {where}` writes tables, figures and a page", soft_wrap=True)


def _tell(cost: Cost, workers: int) -> None:
    """A table of what each result costs, and the sum."""
    table = Table("result", "samples left", "passes per sample", "time", "memory")
    for column in table.columns[1:]:
        column.justify = "right"
    for unit in cost.units:
        passes = f"{unit.forwards:,.0f} + {unit.backwards:,.0f}" if unit.samples else ""
        seconds = duration(unit.seconds + unit.check_seconds)
        table.add_row(
            str(unit.unit), f"{unit.samples:,}", passes, seconds, gigabytes(unit.memory) if unit.memory else ""
        )
    console.print(table)
    memory, several = gigabytes(cost.memory), gigabytes(workers * cost.memory)
    together = f"together {duration(cost.seconds)} of this device" + (f", {memory} at the peak" if cost.memory else "")
    if workers > 1:
        together += f"; of {workers} such workers {duration(cost.seconds_with(workers))}"
        together += f", {memory} each ({several} where they share a machine)" if cost.memory else ""
    console.print(together, soft_wrap=True)
