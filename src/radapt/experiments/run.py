"""Running experiments: their tables, diagrams and analyses, kept in a folder, and one page of all of them."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, product
from pathlib import Path

from radapt._version import __version__
from radapt.analysis import make as make_analysis
from radapt.data import card, load_dataset
from radapt.errors import RadaptError, SettingsError
from radapt.evaluation import check_executor, evaluate, one_cluster
from radapt.fingerprint import version_of
from radapt.io import digest_of, expanded, write_text
from radapt.models import VLM, common_image_size, load
from radapt.numbers import LARGEST_N, check_batch_size, check_seed, whole
from radapt.registry import nearest
from radapt.reports import Part, write_experiments, write_plots, write_report
from radapt.results import Result, Results
from radapt.results.plots import Plot, dump_plots, read_plots
from radapt.results.shared import INDEPENDENT, shared_images
from radapt.types import Executor

from .artifacts import identity
from .candidates import Builder
from .events import Event, Reproduction
from .spec import Experiment, Profile, experiments, read

__all__ = ["all_experiments", "run"]


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """How an experiment is run; see :func:`run`."""

    profile: str
    folder: Path
    artifacts: Path
    command: str
    n: int | None
    seed: int
    batch_size: int
    device: str
    sanity: bool
    executor: Executor
    workers: int | None
    resources: Mapping[str, float] | None
    reuse: Sequence[Path]
    transferred: Path | None
    report: Callable[[str], None]
    quiet: bool


@one_cluster()
def run(
    experiment: str | Path | Experiment,
    *,
    profile: str = "micro",
    out: str | Path | None = None,
    n: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
    device: str = "cpu",
    sanity: bool = True,
    executor: Executor = "local",
    workers: int | None = None,
    resources: Mapping[str, float] | None = None,
    progress: Callable[[Event], None] | None = None,
    quiet: bool = False,
) -> Reproduction:
    """Make a table or figure of the paper, all of them, or one of your own; an interrupted run continues.

    Adapters and twins are made, everything is attacked and analysed, and one page is written. With ``all``, what one
    experiment has measured, and the transferred images that it made, serve the others, and one that fails costs them
    nothing: it is named in the end, and tried again by the next run.

    Args:
        experiment: name of the experiment, ``all``, the path of a YAML file, or an experiment itself.
        profile: ``micro`` (ships with the package, minutes), ``photos`` (real photographs, which ``RADAPT_DATA`` must
            name or the hub give) or ``paper`` (its models). With ``all``, experiments without it are left out.
        out: folder of results and reports; by default ``runs/NAME-PROFILE``, and for an ``Experiment`` that was put
            together in code one of its own, by its title and a hash.
        n: samples per dataset, and images of an analysis at most; None: the file's numbers.
        seed: of the attacks.
        batch_size: images per pass of the model.
        device: where the models are.
        sanity: whether the checks of the attacks run, where the profile wants them.
        executor, workers, resources: who measures, as of :func:`radapt.evaluate`: this process, or workers of Ray.
            Adapters and twins are made, and analyses run, by this process.
        progress: called as experiments begin and end, and with what happens between.
        quiet: no progress bars.

    Raises:
        SettingsError: there is no such experiment or profile, or its file is wrong.
        RadaptError: what the experiment needs is unavailable; of ``all``, the data of every one.
    """
    if n is not None:
        whole("n", n, high=LARGEST_N)
    check_batch_size(batch_size)
    check_seed(seed)
    check_executor(executor, workers, resources, {"device": device})
    every, in_code = experiment == "all", isinstance(experiment, Experiment)
    if isinstance(experiment, Experiment):
        name, chosen = experiment.slug, {experiment.slug: experiment}
    else:
        name = str(experiment)
        chosen = all_experiments() if every else {name: read(experiment)}
    left_out = [each for each, found in chosen.items() if profile not in found.profiles]
    if left_out and (not every or len(left_out) == len(chosen)):
        known = {each: None for found in chosen.values() for each in found.profiles}
        raise SettingsError(f"{left_out[0]} has no profile {profile!r}{nearest(profile, known)}")
    chosen = {each: found for each, found in chosen.items() if each not in left_out}
    _check_data([found.profiles[profile] for found in chosen.values()])
    stem = name if in_code else Path(name).stem
    folder = expanded(out) if out is not None else Path("runs") / f"{stem}-{profile}"
    tell = progress or (lambda event: None)
    if left_out:
        tell(Event(experiment="all", text=f"Without {', '.join(left_out)}: they have no profile {profile}"))
    repeated = _repeated({each: found.profiles[profile] for each, found in chosen.items()})
    parts, results, failed, page = list[Part](), list[Result](), dict[str, str](), folder / "index.html"
    for each, found in chosen.items():
        tell(Event(experiment=each, text=f"{found.title} ({each}, {profile})\n{found.description}"))
        settings = _Settings(
            profile=profile,
            folder=folder / Path(each).stem if every else folder,
            artifacts=folder / "made",
            command="" if in_code else _command(each, profile, n, seed, batch_size, sanity),
            n=n,
            seed=seed,
            batch_size=batch_size,
            device=device,
            sanity=sanity,
            executor=executor,
            workers=workers,
            resources=resources,
            reuse=[part.results for part in parts if part.results is not None],
            transferred=folder / "made" / "transferred" if each in repeated else None,
            report=lambda text, each=each: tell(Event(experiment=each, text=text)),  # type: ignore[misc]
            quiet=quiet,
        )
        try:
            part, own = _run(each, found, settings)
        except Exception as error:
            if not every:
                raise
            failed[each] = str(error)  # the others are worth having, and this one is tried again next time
            tell(Event(experiment=each, text=f"{each} failed: {type(error).__name__}: {error}", failed=True))
            continue
        parts.append(part)
        results += own
        written = _write(part, settings.folder)
        write_experiments(parts, page)  # after each, so that it can be looked at meanwhile
        tell(Event(experiment=each, text=f"Published: {part.published}", part=part, written=tuple(written)))
    if failed and progress is None:
        warnings.warn(f"{len(failed)} of {len(chosen)} experiments failed: {failed}; the rest is written", stacklevel=2)
    return Reproduction(
        folder=folder, page=page, parts=tuple(parts), results=tuple(results), failed=failed, left_out=tuple(left_out)
    )


def _check_data(profiles: Sequence[Profile]) -> None:
    """That something can be measured, before anything is made.

    Raises:
        RadaptError: none of the experiments' datasets can be read, for this reason.
    """
    reason: RadaptError | None = None
    for name in dict.fromkeys(each for profile in profiles for each in _datasets_of(profile)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # one sample leaves classes out
                load_dataset(name, split="test", n=1, quiet=True)
        except RadaptError as error:
            reason = reason or error
        else:
            return
    if reason is not None:
        raise reason


def _repeated(profiles: Mapping[str, Profile]) -> set[str]:
    """The experiments whose transferred images another one needs, too."""
    transfers = {name: [each for each in own.threats() if each.source != "self"] for name, own in profiles.items()}
    asked = {name: set(product(map(str, own), profiles[name].data)) for name, own in transfers.items()}
    times = Counter(chain(*asked.values()))
    return {name for name, own in asked.items() if any(times[each] > 1 for each in own)}


def _datasets_of(profile: Profile) -> tuple[str, ...]:
    return (*profile.data, *(spec.data for spec in profile.analyses))


def all_experiments() -> dict[str, Experiment]:
    """All experiments that come with the library, those of the paper first."""
    found = {name: read(name) for name in experiments()}
    return dict(sorted(found.items(), key=lambda pair: pair[1].place is None))


def _command(name: str, profile: str, n: int | None, seed: int, batch_size: int, sanity: bool) -> str:
    """What a user types to run an experiment again."""
    command = f"radapt reproduce {name} --profile {profile}" + (f" --n {n}" if n else "")
    command += (f" --seed {seed}" if seed else "") + (f" --batch-size {batch_size}" if batch_size != 32 else "")
    return command + ("" if sanity else " --no-sanity")


def _run(name: str, experiment: Experiment, settings: _Settings) -> tuple[Part, list[Result]]:
    """Run an experiment, or go on with it: its part of a page, and its results."""
    profile = experiment.profiles[settings.profile]
    for spec in profile.analyses:
        make_analysis(spec.analysis, **spec.options)  # what is wrong is reported before anything is made
        card(spec.data)
    for each in profile.data:
        card(each)
    profile.threats()

    @cache
    def model(name: str) -> VLM:
        return load(name, device=settings.device, dtype=profile.dtype)

    builder = Builder(profile, model, settings.artifacts, report=settings.report, quiet=settings.quiet)
    results, plots = _table(profile, builder, settings) if profile.attacks else ([], [])
    plots = [*_analyses(profile, model, builder, settings), *plots]
    unchecked = profile.attacks and not (profile.sanity and settings.sanity)
    note = "The checks of the attacks did not run here: white-box results are upper bounds." if unchecked else ""
    part = Part(
        name=name,
        title=experiment.title + (f" ({experiment.place})" if experiment.place else ""),
        description=experiment.description,
        published=experiment.published,
        command=settings.command,
        results=settings.folder / "results.sqlite" if profile.attacks else None,
        plots=tuple(plots),
        note=note,
    )
    return part, results


def _table(profile: Profile, builder: Builder, settings: _Settings) -> tuple[list[Result], list[Plot]]:
    """Evaluate everything into the results file, and draw the diagrams, if there is an axis."""
    results: list[Result] = []
    plots: list[Plot] = []
    with Results(settings.folder / "results.sqlite") as file:
        for comparison in builder.comparisons():
            size = common_image_size([candidate.model for candidate in comparison.candidates])
            n = settings.n or profile.n
            found = evaluate(
                comparison.candidates,
                data=[load_dataset(each, split="test", n=n, size=size, quiet=settings.quiet) for each in profile.data],
                threats=profile.threats(),
                results=file,
                reuse=settings.reuse,
                transferred=settings.transferred,
                undefended=comparison.base,
                seed=settings.seed,
                batch_size=settings.batch_size,
                sanity=profile.sanity and settings.sanity,
                executor=settings.executor,
                workers=settings.workers,
                resources=settings.resources,
                quiet=settings.quiet,
            )
            results += found
            shared = shared_images(file, found) if comparison.diagrams else INDEPENDENT
            for each in comparison.diagrams:
                plots += each.curves(found, shared)
    return results, plots


def _analyses(profile: Profile, model: Callable[[str], VLM], builder: Builder, settings: _Settings) -> list[Plot]:
    """The analyses of a profile, each made once and read afterwards."""
    plots: list[Plot] = []
    if not profile.analyses:
        return plots
    label, name = next(iter(profile.models.items()))
    models = {label: model(name), **builder.twins()}
    for spec in profile.analyses:
        n = min(spec.n, settings.n) if settings.n else spec.n
        size = common_image_size(list(models.values()))
        data = load_dataset(spec.data, split="test", n=n, size=size, quiet=settings.quiet)
        analysis = make_analysis(spec.analysis, **spec.options)
        identities = [[label, *identity(each, data)] for label, each in models.items()]
        key = digest_of([__version__, str(spec), version_of(type(analysis)), *identities], length=8)
        file = settings.folder / "analyses" / f"{spec.analysis}-{key}.json"
        if not file.exists():
            settings.report(f"{spec.analysis} of {', '.join(models)}")
            write_text(file, dump_plots(analysis(models, data, folder=file.with_suffix(""), quiet=settings.quiet)))
        plots += read_plots(file)
    return plots


def _write(part: Part, folder: Path) -> list[Path]:
    """The report of one experiment, and its plots."""
    written = write_report(part.results, folder / "report") if part.results is not None else []
    return [*written, *(write_plots(part.plots, folder / "plots") if part.plots else [])]
