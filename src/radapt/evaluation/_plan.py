"""What an evaluation consists of: from what a user asks for to its results, each a candidate under a threat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from radapt.adapters import Adapter
from radapt.attacks import Attack
from radapt.data import Dataset
from radapt.errors import SettingsError
from radapt.fingerprint import version_of
from radapt.io import digest_of
from radapt.models import VLM
from radapt.registry import Registry, nearest
from radapt.results import Setting
from radapt.types import Norm, Split

from ._candidates import Candidate, CandidateLike, ModelLike, Models, candidates_of
from ._inputs import DataLike, check_names, datasets_of, listed, size_of_data, threats_of
from ._targeted import Targeted
from ._task import Task
from ._threat import Threat, depends_on, setting_of
from ._units import Unit

__all__ = ["REGISTRY", "RESERVED", "Live", "Request", "identity_of", "planned"]

REGISTRY = Registry("radapt.evaluation", "task", "TASK")
RESERVED = ("self", "undefended")
"""What candidates are not called: these are sources of attacks."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """What was asked for, in the words of :func:`radapt.evaluate`; whoever measures a part of it reads models and data.

    Args:
        loading: what :func:`radapt.load` takes, for models by name.
    """

    candidates: Sequence[CandidateLike] | Mapping[str, CandidateLike] | CandidateLike
    data: DataLike | Sequence[DataLike]
    attack: str | Attack | Sequence[str | Attack] | None
    eps: float | str | Sequence[float | str] | None
    norm: Norm | None
    source: str | Sequence[str] | None
    options: Mapping[str, object] | None
    threats: Sequence[Threat] | None
    undefended: ModelLike | None
    task: str | None
    target: str | None
    n: int | None
    split: Split
    balanced: bool
    seed: int
    batch_size: int
    chunk_size: int
    quiet: bool
    transferred: Path | None
    loading: Mapping[str, Any] = field(default_factory=dict)


class Live(NamedTuple):
    """The objects behind a unit: what is attacked, and how; no threat and no source for the clean result."""

    candidate: Candidate
    task: Task
    threat: Threat | None
    source: Candidate | None


def planned(request: Request, models: Models) -> tuple[list[Unit], list[Live]]:
    """The units of an evaluation, and the objects behind them.

    Raises:
        RadaptError: as of :func:`radapt.evaluate`.
    """
    data = listed(request.data)
    check_names(data)
    if models.image_size is None:
        models.image_size = lambda: size_of_data(data)
    candidates = candidates_of(request.candidates, models)
    if not candidates or not data:
        raise SettingsError("nothing to evaluate: give at least one candidate and one dataset")
    sets = datasets_of(
        data,
        n=request.n,
        split=request.split,
        balanced=request.balanced,
        quiet=request.quiet,
        models=[candidate.model for candidate in candidates],
    )
    threats = threats_of(request.attack, request.eps, request.norm, request.source, request.options, request.threats)
    base = None if request.undefended is None else models.get(request.undefended)
    _check_candidates(candidates, base)
    tasks = [each if isinstance(each, Task) else _task(each, request.task, request.target) for each in sets]
    units, live = list[Unit](), list[Live]()
    for unit, objects in _units(candidates, tasks, threats, base, request):
        units.append(unit)
        live.append(objects)
    return units, live


def identity_of(source: Candidate | None) -> str:
    """What tells a candidate from others: its model and its defence; empty for none."""
    if source is None:
        return ""
    return source.model.name if source.adapter is None else f"{source.model.name}+{source.adapter.fingerprint}"


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
        if name in RESERVED:
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
    request: Request,
) -> Iterator[tuple[Unit, Live]]:
    by_name = {candidate.method: candidate for candidate in candidates}
    known: dict[VLM, str] = {}
    version = cache(version_of)  # of many results, and slow where a class refers to a model
    number = 0
    for task in tasks:
        digests = tuple(task.data.digests)
        for candidate in candidates:
            clean: Setting | None = None
            for threat in dict.fromkeys(_threats(candidate, threats, by_name, undefended, known)):
                source = None if threat is None else _source(candidate, threat, by_name, undefended)
                depends = depends_on(candidate, source, task, threat, known, version)
                setting = setting_of(
                    candidate, task, threat, identity_of(source), request.seed, request.chunk_size, depends
                )
                clean = clean or setting
                white_box = threat is not None and threat.source == "self"
                yield (
                    Unit(
                        number=number,
                        setting=setting,
                        clean=None if threat is None else clean,
                        digests=digests,
                        white_box=white_box,
                        shared="" if threat is None or white_box else _shared(setting, task, threat, source, depends),
                        undefended=candidate.adapter is None and candidate.model is undefended,
                        low=task.low,
                        adapter=_settings(candidate),
                    ),
                    Live(candidate, task, threat, source),
                )
                number += 1


def _shared(setting: Setting, task: Task, threat: Threat, source: Candidate | None, depends: Mapping[str, str]) -> str:
    """Hash of all that transferred images depend on beside their samples: not on the candidate that sees them."""
    where = [setting.dataset, setting.split, setting.task, task.context]
    attack = [setting.attack, setting.norm, setting.eps, setting.seed, threat.settings()]
    weights = depends.get("source", depends["model"])  # names may be those of several models
    rest = {name: value for name, value in depends.items() if name not in ("model", "source")}
    return digest_of([setting.version, *where, *attack, identity_of(source), weights, rest], default=repr)


def _settings(candidate: Candidate) -> dict[str, float | str]:
    """What may be swept of an adapter, and what must then be equal."""
    if not isinstance(candidate.adapter, Adapter):
        return {}
    known = candidate.adapter.settings
    numbers = {"alpha": known.alpha, "cutoff": known.cutoff, "block": known.block}
    return {"method": known.method, **{name: float(value) for name, value in numbers.items() if value is not None}}


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
        allowed = (*RESERVED, *by_name)
        raise SettingsError(f"unknown source {threat.source!r}{nearest(threat.source, allowed)}")
    return by_name[threat.source]
