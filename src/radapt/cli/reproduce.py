"""``radapt reproduce``: make a table of the paper, or one of your own, from its YAML file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from radapt.errors import SettingsError
from radapt.find import nearest

from ._anchors import trained
from ._experiment import Defence, Profile, experiments, read
from ._shared import Json, Quiet, console, guard, size_of, write_rows

if TYPE_CHECKING:
    from radapt.adapt import Adapter
    from radapt.evaluate import Candidate
    from radapt.models import VLM

__all__ = ["reproduce"]


@guard
def reproduce(
    name: Annotated[str, typer.Argument(help="Name of the experiment, or a YAML file; none: list them.")] = "",
    profile: Annotated[
        str, typer.Option(help="micro (ships with the package, minutes) or paper (its models).")
    ] = "micro",
    out: Annotated[Path | None, typer.Option(help="Folder of results and report; default: runs/NAME-PROFILE.")] = None,
    n: Annotated[int | None, typer.Option(help="Samples per data set; default: the file's number.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the attacks.")] = 0,
    slots: Annotated[int, typer.Option(help="Images per pass of the model.")] = 32,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1...")] = "cpu",
    sanity: Annotated[bool, typer.Option(help="Run the sanity checks.")] = True,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Make the models' adapters, attack everything, and write the report; an interrupted run continues.

    \b
    [bold]Examples:[/]
      radapt reproduce
      radapt reproduce tab4 --profile micro
      radapt reproduce lvlm --profile paper --device cuda --out runs/lvlm
    """
    from radapt.data import load_dataset
    from radapt.evaluate import Threat, evaluate
    from radapt.models import load
    from radapt.report import print_table, write_report
    from radapt.results import Results

    if not name:
        table = Table("experiment", "title", "profiles")
        for each in experiments():
            found = read(each)
            table.add_row(each, found.title, ", ".join(found.profiles))
        console.print(table)
        return
    experiment = read(name)
    if profile not in experiment.profiles:
        raise SettingsError(f"{name} has no profile {profile!r}{nearest(profile, experiment.profiles)}")
    chosen = experiment.profiles[profile]
    folder = out or Path("runs") / f"{Path(name).stem}-{profile}"
    console.print(f"[bold]{experiment.title}[/] ({profile})\n{experiment.description}", highlight=False)
    threats = [
        Threat(attack=part.attack, eps=eps, norm=part.norm, source=source, options=part.options)
        for part in chosen.attacks
        for eps in part.eps
        for source in part.source
    ]
    loaded: dict[str, VLM] = {}

    def model(name: str) -> VLM:
        if name not in loaded:
            loaded[name] = load(name, device=device, dtype=chosen.dtype)
        return loaded[name]

    with Results(folder / "results.sqlite") as results:
        figures = []
        for base, lines in _lines(chosen, model, folder, quiet):
            size = size_of([line.model for line in lines])
            sets = [load_dataset(each, split="test", n=n or chosen.n, size=size) for each in chosen.data]
            figures += evaluate(
                lines,
                datasets=sets,
                threats=threats,
                results=results,
                undefended=base,
                seed=seed,
                slots=slots,
                sanity=sanity,
                quiet=quiet,
            )
        print_table(results, console)
    write_rows(json, figures)
    for path in write_report(folder / "results.sqlite", folder / "report"):
        console.print(f"wrote {path}", highlight=False)
    console.print(f"Published: {experiment.published}", highlight=False)


def _lines(
    profile: Profile, model: Callable[[str], VLM], folder: Path, quiet: bool
) -> Iterator[tuple[VLM, list[Candidate]]]:
    """For each undefended model, the lines of the table that are compared with it."""
    from radapt.evaluate import Candidate

    several = len(profile.models) > 1
    for number, (label, name) in enumerate(profile.models.items()):
        base = model(name)
        lines = [Candidate(method=label, model=base)]
        if number == 0:
            lines += [Candidate(method=twin, model=model(each)) for twin, each in profile.twins.items()]
        for defence, how in profile.defences.items():
            method = f"{label}, {defence}" if several else defence
            place = folder / "adapters" / "".join(sign if sign.isalnum() else "-" for sign in method)
            adapter = _adapter(how, model(how.on) if how.on else base, model, place, quiet)
            lines.append(Candidate(method=method, model=base, adapter=adapter))
        yield base, lines


def _adapter(how: Defence, vlm: VLM, model: Callable[[str], VLM], folder: Path, quiet: bool) -> Adapter:
    from radapt.adapt import model_guided, training_free
    from radapt.data import load_dataset

    if how.method == "training-free":
        return training_free(vlm, **how.settings)
    if how.method == "model-guided":
        return model_guided(vlm, model(how.guide), **how.settings)
    images = load_dataset(how.data, split="train", n=how.n, size=vlm.image_size[0])
    return trained(vlm, images.pixels(range(len(images))), how.settings, folder, quiet=quiet)
