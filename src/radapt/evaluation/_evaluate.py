"""Evaluation: every candidate on every dataset, clean and under every threat, into a results file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from radapt.attacks import Attack
from radapt.data import Dataset
from radapt.errors import SettingsError, shown
from radapt.models import VLM
from radapt.numbers import check_batch_size, check_seed, whole
from radapt.registry import Registry, nearest
from radapt.results import WORST_CASE, Result, Results, Setting, with_worst_cases
from radapt.text import one_line
from radapt.types import Norm, Split

from ._candidates import Candidate, CandidateLike, ModelLike, Models, candidates_of
from ._inputs import DEFAULT_ATTACK, DataLike, check_names, datasets_of, listed, size_of_data, threats_of
from ._targeted import Targeted
from ._task import Task, batches
from ._threat import Threat, depends_on, setting_of
from ._units import Runner, Unit, identity_of

__all__ = ["REGISTRY", "evaluate"]

REGISTRY = Registry("radapt.evaluation", "task", "TASK")
_RESERVED = ("self", "undefended")


def evaluate(
    candidates: Sequence[CandidateLike] | Mapping[str, CandidateLike] | CandidateLike,
    *,
    data: DataLike | Sequence[DataLike],
    attack: str | Attack | Sequence[str | Attack] | None = DEFAULT_ATTACK,
    eps: float | str | Sequence[float | str] | None = None,
    norm: Norm | None = None,
    source: str | Sequence[str] | None = None,
    options: Mapping[str, object] | None = None,
    threats: Sequence[Threat] | None = None,
    results: str | Path | Results = "results.sqlite",
    undefended: ModelLike | None = None,
    task: str | None = None,
    target: str | None = None,
    n: int | None = None,
    split: Split = "test",
    balanced: bool = False,
    seed: int = 0,
    batch_size: int = 32,
    chunk_size: int = 128,
    shard: str | None = None,
    sanity: bool = True,
    models: Models | None = None,
    quiet: bool = False,
    **loading: Any,
) -> list[Result]:
    """Evaluate candidates on datasets, clean and under attack; what the results file holds already is not redone.

    Images for a transfer threat are made against its source with the whole budget (no early stop) and shared by all
    candidates; a white-box attack (``source="self"``) differentiates through the candidate's defence. What a model does
    to itself is no transfer: a candidate that turns out to be its own source is attacked white-box, if it is not
    already. Samples that a candidate gets wrong without any attack are not attacked, from any source.

    Args:
        candidates: the lines of the report: one, a list, or a mapping by label, of :class:`Candidate`, models (names,
            objects, or any classifier from pixels to logits), or pairs of a model and its defence. A text is
            ``[LABEL=]MODEL[+ADAPTER]``, as on the command line.
        data: one or several datasets, by name, as the path of a card, or as objects; each sample of each is used, for
            the task that is on its card. A :class:`Task` says both.
        attack: name of the attack, or the attack itself, with its own settings; or several; None: clean results only.
        eps: one or several radii in pixel units, as numbers or texts such as ``4/255``; None: 4/255.
        norm: ``linf`` or ``l2``; None: ``linf``.
        source: whose gradients make the attack, one or several: ``self`` (white-box), ``undefended`` (transfer), or
            the label of a candidate (transfer); None: ``undefended`` and ``self``.
        options: other settings of the attack; of several attacks, those of all, and ``{"square.steps": 5000}`` of one.
        threats: instead of ``attack``, ``eps``, ``norm``, ``source`` and ``options``: attacks with their sources.
        results: a results file, open or by its path; rows are committed chunk by chunk.
        undefended: what ``source="undefended"`` means; by default each candidate's model without its defence.
        task: what the datasets are used for, by name; by default what their cards say.
        target: a sentence that attacks drive generative models to say; results are then the share that does not say it.
        n, split, balanced: samples of each dataset by name, its split, and whether its classes come in turn (see
            :func:`radapt.load_dataset`).
        seed: seed of the per-sample random numbers.
        batch_size: images per pass of the model at most; at another one, and with another number of threads or on
            another device, the last bits of a result differ.
        chunk_size: samples that are attacked together and committed at once. A result is the same bit for bit whatever
            the order of its chunks, and whether one process measures them all, several do, or one that was resumed.
        shard: ``i/k``: measure the ``i``-th of ``k`` parts of the chunks only, and run no sanity checks. Each part goes
            into a file of its own; :meth:`radapt.Results.merge` puts them together.
        sanity: run the sanity checks and store their flags.
        models: loads models by name, where several calls are to share them.
        quiet: no progress bar.
        loading: ``device``, ``dtype`` and whatever else :func:`radapt.load` takes, for models by name.

    Returns:
        The results of this plan, in order, and after them the worst case over all attacks that the file holds, wherever
        one white-box attack is not all that is known of a ball: that is the robust accuracy.

    Raises:
        SettingsError: nothing to evaluate, two candidates of one name or with the same results, a candidate that is
            called like a source, a model that carries an adapter already, an unknown source, or a dataset of a task
            that cannot be evaluated; or a shard that is not of the form ``i/k``.
        InputError: a model puts out nothing that is a number.
    """
    check_batch_size(batch_size)
    whole("chunk_size", chunk_size)
    check_seed(seed)
    part = (0, 1) if shard is None else _part(shard)
    chosen_data = listed(data)
    check_names(chosen_data)
    loader = models or Models(loading)
    if loader.image_size is None:
        loader.image_size = lambda: size_of_data(chosen_data)
    chosen = candidates_of(candidates, loader)
    if not chosen or not chosen_data:
        raise SettingsError("nothing to evaluate: give at least one candidate and one dataset")
    sets = datasets_of(
        chosen_data, n=n, split=split, balanced=balanced, models=[candidate.model for candidate in chosen]
    )
    plan = threats_of(attack, eps, norm, source, options, threats)
    base = None if undefended is None else loader.get(undefended)
    _check_candidates(chosen, base)
    tasks = [each if isinstance(each, Task) else _task(each, task, target) for each in sets]
    with nullcontext(results) if isinstance(results, Results) else Results(results) as file:
        units = list(_units(chosen, tasks, plan, base, seed, chunk_size))
        return _evaluate(units, Runner(file, base, seed, batch_size), file, part, sanity and shard is None, quiet)


def _evaluate(
    units: Sequence[Unit], runner: Runner, results: Results, part: tuple[int, int], sanity: bool, quiet: bool
) -> list[Result]:
    for unit in units:
        done = results.begin(unit.setting, unit.task.data.digests)
        chunks = batches(len(unit.task.data), unit.setting.chunk_size)
        own = [chunk for number, chunk in enumerate(chunks) if number % part[1] == part[0]]
        unit.todo = [chunk for chunk in own if not done.issuperset(chunk)]
        unit.unchecked = sanity and bool(unit.todo or results.checked(unit.setting) < len(unit.task.data))
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=quiet, transient=True) as progress:
        bar = progress.add_task("evaluate", total=sum(len(unit.task.data) for unit in units))
        for unit in units:
            left = sum(map(len, unit.todo))
            progress.update(bar, advance=len(unit.task.data) - left, description=one_line(unit))
            if unit.todo or unit.unchecked:
                runner.run(unit, lambda n: progress.update(bar, advance=n))
    keys = {unit.setting.key: i for i, unit in enumerate(units)}
    every = with_worst_cases(results)
    found = [result for result in every if result.setting.key in keys]
    asked = {result.setting.ball for result in found if result.kind == "white-box"}
    worst = [r for r in every if r.setting.attack == WORST_CASE and r.setting.ball in asked]
    return [*sorted(found, key=lambda result: keys[result.setting.key]), *worst]


def _part(shard: str) -> tuple[int, int]:
    """Number, from 0 on, and count of ``i/k``."""
    number, slash, count = str(shard).partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number[:9]) <= int(count[:9])):
        raise SettingsError(f"a shard is i/k, the i-th of k parts, such as 1/3, 2/3 and 3/3; got {shown(shard)}")
    return int(number) - 1, int(count)


def _check_candidates(candidates: Sequence[Candidate], undefended: VLM | None) -> None:
    names = [candidate.method for candidate in candidates]
    if len(set(names)) < len(names):
        raise SettingsError(f"candidates must have different names, got {', '.join(names)}")
    seen: dict[str, str] = {}
    for candidate in candidates:
        first = seen.setdefault(identity_of(candidate), candidate.method)
        if first != candidate.method:
            raise SettingsError(
                f"candidates {first!r} and {candidate.method!r} have the same model name ({candidate.model.name}) and "
                "adapter, so their results would be one; leave one out, or give different models different names"
            )
    for name in names:
        if name in _RESERVED:
            raise SettingsError(f"a candidate cannot be called {name!r}, which is a source; give it another name")
    models = {candidate.method: candidate.model for candidate in candidates}
    for name, model in (models if undefended is None else {**models, "undefended": undefended}).items():
        if model.defended:
            raise SettingsError(f"the model of {name!r} carries an adapter already; detach it and give it as adapter=")


def _task(data: Dataset, name: str | None, target: str | None) -> Task:
    if target is not None:
        return Targeted(data, target)
    chosen = data.card.task if name is None else name
    tasks = REGISTRY.names()
    if chosen not in tasks:
        raise SettingsError(f"{data.name} is a set for {chosen}, which cannot be evaluated{nearest('', tasks)}")
    task: Task = REGISTRY.get(chosen)(data)
    return task


def _units(
    candidates: Sequence[Candidate],
    tasks: Sequence[Task],
    threats: Sequence[Threat],
    undefended: VLM | None,
    seed: int,
    chunk_size: int,
) -> Iterable[Unit]:
    by_name = {candidate.method: candidate for candidate in candidates}
    known: dict[VLM, str] = {}
    for task in tasks:
        for candidate in candidates:
            clean: Setting | None = None
            for threat in dict.fromkeys(_threats(candidate, threats, by_name, undefended, known)):
                source = None if threat is None else _source(candidate, threat, by_name, undefended)
                depends = depends_on(candidate, source, task, threat, known)
                setting = setting_of(candidate, task, threat, identity_of(source), seed, chunk_size, depends)
                clean = clean or setting
                yield Unit(candidate=candidate, task=task, threat=threat, source=source, setting=setting, clean=clean)


def _threats(
    candidate: Candidate,
    threats: Sequence[Threat],
    by_name: dict[str, Candidate],
    undefended: VLM | None,
    known: dict[VLM, str],
) -> Iterator[Threat | None]:
    """No attack, then every threat.

    One whose source turns out to be the candidate itself is white-box, and left out where the candidate is attacked
    white-box in this ball anyway: a transfer needs another model, or the same one without its defence.
    """
    yield None
    white = {(threat.norm, threat.eps) for threat in threats if threat.source == "self"}
    for threat in threats:
        source = _source(candidate, threat, by_name, undefended)
        if threat.source == "self" or not _same(source, candidate, known):
            yield threat
        elif (threat.norm, threat.eps) not in white:
            yield threat.white_box()


def _same(one: Candidate, other: Candidate, known: dict[VLM, str]) -> bool:
    """Whether two candidates are one model under one defence, whatever they are called."""
    fingerprints = []
    for each in (one, other):
        if each.model not in known:
            known[each.model] = each.model.fingerprint
        fingerprints.append((known[each.model], "" if each.adapter is None else each.adapter.fingerprint))
    return fingerprints[0] == fingerprints[1]


def _source(candidate: Candidate, threat: Threat, by_name: dict[str, Candidate], undefended: VLM | None) -> Candidate:
    if threat.source == "self":
        return candidate
    if threat.source == "undefended":
        return Candidate(method="undefended", model=undefended or candidate.model)
    if threat.source not in by_name:
        allowed = (*_RESERVED, *by_name)
        raise SettingsError(f"unknown source {threat.source!r}{nearest(threat.source, allowed)}")
    return by_name[threat.source]
