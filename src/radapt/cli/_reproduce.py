"""Running one experiment: its table, its diagrams and its looks into the models, kept in a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from radapt._version import __version__

from ._analyses import analyses, check_analysis
from ._experiment import Experiment, Profile
from ._ingredients import Attack
from ._kept import digest_of, identity
from ._lines import Lines, axis_of, curves_of, lines_of, twins_of
from ._shared import console, size_of, write_file

if TYPE_CHECKING:
    from radapt.evaluate import Threat
    from radapt.models import VLM
    from radapt.plots import Plot
    from radapt.report import Part
    from radapt.results import Figure

__all__ = ["Run", "run_experiment"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """How an experiment is run.

    Args:
        profile: which of its profiles.
        folder: where its results lie.
        made: where the adapters and twins lie that are made on the way; several experiments may share them.
        command: what a user types to run it.
        n: samples per data set, and pictures of an analysis; None: the file's numbers.
        seed: of the attacks.
        slots: images per pass.
        device: where the models are.
        sanity: whether the checks of the attacks run, where the profile wants them.
        quiet: no progress bars.
    """

    profile: str
    folder: Path
    made: Path
    command: str
    n: int | None = None
    seed: int = 0
    slots: int = 32
    device: str = "cpu"
    sanity: bool = True
    quiet: bool = False


def run_experiment(name: str, experiment: Experiment, run: Run) -> tuple[Part, list[Figure]]:
    """Run an experiment, or go on with it: its part of a page, and its figures.

    Raises:
        RadaptError: a model, a data set or a setting is not to be had.
    """
    from radapt.models import load
    from radapt.report import Part

    profile = experiment.profiles[run.profile]
    for look in profile.analyses:
        check_analysis(look.analysis, look.options)

    @cache
    def model(name: str) -> VLM:
        return load(name, device=run.device, dtype=profile.dtype)

    figures: list[Figure] = []
    plots: list[Plot] = []
    if profile.attacks:
        figures, plots = _table(profile, model, run)
    plots = [*_looks(profile, model, run), *plots]
    results = run.folder / "results.sqlite" if profile.attacks else None
    note = ""
    if profile.attacks and not (profile.sanity and run.sanity):
        note = "The checks of the attacks did not run here: white-box figures are upper bounds."
    part = Part(
        name=name,
        title=experiment.title + (f" ({experiment.place})" if experiment.place else ""),
        description=experiment.description,
        published=experiment.published,
        command=run.command,
        results=results,
        plots=tuple(plots),
        note=note,
    )
    return part, figures


def _table(profile: Profile, model: Callable[[str], VLM], run: Run) -> tuple[list[Figure], list[Plot]]:
    """Evaluate everything into the results file, and draw the diagrams, if there is an axis."""
    from radapt.data import load_dataset
    from radapt.evaluate import evaluate
    from radapt.results import Results

    figures: list[Figure] = []
    plots: list[Plot] = []
    with Results(run.folder / "results.sqlite") as results:
        for lines in lines_of(profile, model, run.made, quiet=run.quiet):
            size = size_of([line.model for line in lines.candidates])
            sets = [load_dataset(each, split="test", n=run.n or profile.n, size=size) for each in profile.data]
            found = evaluate(
                lines.candidates,
                datasets=sets,
                threats=_threats(profile.attacks),
                results=results,
                undefended=lines.base,
                seed=run.seed,
                slots=run.slots,
                sanity=profile.sanity and run.sanity,
                quiet=run.quiet,
            )
            figures += found
            plots += _curves(profile, lines, found)
    return figures, plots


def _threats(attacks: Sequence[Attack]) -> list[Threat]:
    from radapt.evaluate import Threat

    return [
        Threat(attack=part.attack, eps=eps, norm=part.norm, source=source, options=part.options)
        for part in attacks
        for eps in part.eps
        for source in part.source
    ]


def _curves(profile: Profile, lines: Lines, figures: list[Figure]) -> list[Plot]:
    sweep, attacks = profile.sweep, None
    if profile.replacement is not None:
        title, label = f"{profile.replacement.order.capitalize()} replacement", "stages of the twin"
    elif sweep is not None:
        title, label = sweep.label[:1].upper() + sweep.label[1:], sweep.label
        if sweep.over == "attack":
            attacks = {x: _threats([part]) for x, part in zip(axis_of(sweep)[0], profile.attacks, strict=True)}
    else:
        return []
    if not lines.places:
        return []
    return list(curves_of(figures, lines.places, title=title, x_label=label, ticks=lines.ticks, attacks=attacks))


def _looks(profile: Profile, model: Callable[[str], VLM], run: Run) -> list[Plot]:
    """The analyses of a profile, each made once and read afterwards."""
    from radapt._digest import digest
    from radapt.data import load_dataset
    from radapt.plots import dump_plots, read_plots

    plots: list[Plot] = []
    if not profile.analyses:
        return plots
    label, name = next(iter(profile.models.items()))
    models = {label: model(name), **twins_of(profile, model, run.made, quiet=run.quiet)}
    seen = [[label, *identity(each)] for label, each in models.items()]
    for look in profile.analyses:
        n = min(look.n, run.n) if run.n else look.n
        data = load_dataset(look.data, split="test", n=n, size=size_of(list(models.values())))
        shown = digest([data.pixels(range(len(data)))])
        facts = [__version__, str(look), shown, *seen]
        file = run.folder / "analyses" / f"{look.analysis}-{digest_of(facts)}.json"
        if not file.exists():
            console.print(f"{look.analysis} of {', '.join(models)}", highlight=False)
            write_file(file, dump_plots(analyses(look.analysis, models, data, look.options, quiet=run.quiet)))
        plots += read_plots(file)
    return plots
