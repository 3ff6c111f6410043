"""``radapt reproduce``: make a table or figure of the paper, all of them, or one of your own, from its YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from radapt.errors import RadaptError, SettingsError
from radapt.find import nearest

from ._experiment import Experiment, experiments, read
from ._reproduce import Run, run_experiment
from ._shared import Json, Quiet, console, guard, write_rows

if TYPE_CHECKING:
    from radapt.report import Part
    from radapt.results import Figure

__all__ = ["reproduce"]


@guard
def reproduce(
    name: Annotated[str, typer.Argument(help="Name of the experiment, `all`, or a YAML file; none: list them.")] = "",
    profile: Annotated[
        str, typer.Option(help="micro (ships with the package, minutes) or paper (its models).")
    ] = "micro",
    out: Annotated[Path | None, typer.Option(help="Folder of results and report; default: runs/NAME-PROFILE.")] = None,
    n: Annotated[int | None, typer.Option(help="Samples per data set; default: the file's number.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the attacks.")] = 0,
    slots: Annotated[int, typer.Option(help="Images per pass of the model.")] = 32,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1...")] = "cpu",
    sanity: Annotated[bool, typer.Option(help="Run the sanity checks, where the file wants them.")] = True,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Make the adapters and twins, attack everything, look into the models, and write one page; an interrupted run
    continues.

    \b
    [bold]Examples:[/]
      radapt reproduce
      radapt reproduce tab2 --profile micro
      radapt reproduce all
      radapt reproduce lvlm --profile paper --device cuda --out runs/lvlm
    """
    from radapt.report import write_experiments

    if not name:
        table = Table("experiment", "title", "of the paper", "profiles")
        for each, listed in _all().items():
            table.add_row(each, listed.title, listed.place, ", ".join(listed.profiles))
        console.print(table)
        return
    chosen = _all() if name == "all" else {name: read(name)}
    for each, found in chosen.items():
        if profile not in found.profiles:
            raise SettingsError(f"{each} has no profile {profile!r}{nearest(profile, found.profiles)}")
    folder = out or Path("runs") / f"{Path(name).stem}-{profile}"
    parts: list[Part] = []
    figures: list[Figure] = []
    failed: dict[str, str] = {}
    for each, experiment in chosen.items():
        console.print(f"[bold]{experiment.title}[/] ({each}, {profile})\n{experiment.description}", highlight=False)
        place = folder / Path(each).stem if name == "all" else folder
        command = f"radapt reproduce {each} --profile {profile}" + (f" --n {n}" if n else "")
        command += (f" --seed {seed}" if seed else "") + (f" --slots {slots}" if slots != 32 else "")
        command += "" if sanity else " --no-sanity"
        run = Run(
            profile=profile,
            folder=place,
            made=folder / "made",
            command=command,
            n=n,
            seed=seed,
            slots=slots,
            device=device,
            sanity=sanity,
            quiet=quiet,
        )
        try:
            part, made = run_experiment(each, experiment, run)
        except Exception as error:
            if name != "all":
                raise
            failed[each] = str(error)  # the others are worth having, and this one is tried again next time
            said = f"{each} failed: {type(error).__name__}: {error}"
            console.print(said, style="red", markup=False, highlight=False)
            continue
        parts.append(part)
        figures += made
        _write(part, place)
        page = write_experiments(parts, folder / "index.html")  # after each, so that it can be looked at meanwhile
    if parts:
        console.print(f"wrote {page}", highlight=False)
    write_rows(json, figures)
    if failed:
        raise RadaptError(
            f"{len(failed)} of {len(chosen)} experiments failed: {', '.join(failed)}; the rest is written"
        )


def _all() -> dict[str, Experiment]:
    """All experiments, those of the paper first."""
    found = {name: read(name) for name in experiments()}
    return dict(sorted(found.items(), key=lambda pair: not pair[1].place))


def _write(part: Part, folder: Path) -> None:
    """The table and the report of one experiment, and its plots."""
    from radapt.report import print_table, write_plots, write_report
    from radapt.results import Results

    written = list[Path]()
    if part.results is not None:
        with Results(part.results, read_only=True) as results:
            print_table(results, console)
        written += write_report(part.results, folder / "report")
    if part.plots:
        written += write_plots(part.plots, folder / "plots")
    for path in written:
        console.print(f"wrote {path}", highlight=False)
    console.print(f"Published: {part.published}", highlight=False)
