"""Searching for an adapter: many short trainings, the best ones longer, the last ones in full (successive halving)."""

from __future__ import annotations

import itertools
import json
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, MinLen
from pydantic import BeforeValidator
from torch import Tensor

from radapt.adapters import REGISTRY as METHODS
from radapt.adapters import Adapter, AdapterMethod, adapt
from radapt.data import Dataset, load_dataset, training_images
from radapt.errors import CheckError, InputError, SettingsError
from radapt.evaluation import Candidate, Threat, evaluate
from radapt.io import digest_of, expanded, fraction, write_json
from radapt.models import VLM, load
from radapt.results import Result, Results
from radapt.schema import STRICT, parse, read_yaml

from .artifacts import seconds_of, trained_adapter
from .parts import Names, listed, names, number_of
from .tune import best_first, front, mean_of

__all__ = ["Rung", "SearchSpec", "Trial", "search"]

_Space = Annotated[Mapping[str, list[Any]], MinLen(1)]
_OWN: Mapping[str, Any] = {
    "start": tuple[Mapping[str, Any] | None, ...],
    "data": tuple[Names, ...],
    "n": tuple[Annotated[int, Ge(1)], ...],
}
"""Settings of a trial that the search reads itself, and what their values may be."""


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One round of a search.

    Args:
        steps: of every training.
        n: images of each validation set.
        keep: how many trials go on to the next round; of the last one it does not matter.
    """

    __pydantic_config__: ClassVar = STRICT

    steps: Annotated[int, Ge(1)]
    n: Annotated[int, Ge(1)]
    keep: Annotated[int, Ge(1)] = 1


@dataclass(frozen=True, kw_only=True)
class SearchSpec:
    """What is searched, and how, as in a YAML file.

    Args:
        model: the model to adapt.
        method: an adapter method that is trained.
        data, n: the datasets whose train splits are used, and how many images of each.
        settings: of the method, the same in every trial.
        space: values of settings of which every trial takes one each, or several such spaces, as one list. ``start``
            may be settings of a method that is not trained (``{method: graft, guide: ...}``), whose deltas the training
            begins with; ``data`` and ``n`` stand for those above.
        trials: how many combinations are tried, drawn without repetition; all of them where there are no more.
        rungs: the rounds.
        validation: the sets on which trials are compared, their validation splits.
        attack, eps, options: the white-box attack of the comparison.
        weight: of white-box accuracy in the score, against clean accuracy.
        seed: of the draw, the trainings and the attack.
    """

    __pydantic_config__: ClassVar = STRICT

    model: str = "micro/clip"
    method: str = "shallow"
    data: Annotated[Names, MinLen(1)]
    n: Annotated[int, Ge(1)] = 2000
    settings: Mapping[str, Any] = field(default_factory=dict)
    space: Annotated[tuple[_Space, ...], BeforeValidator(listed), MinLen(1)]
    trials: Annotated[int, Ge(1)] = 30
    rungs: Annotated[tuple[Rung, ...], MinLen(1)]
    validation: Annotated[Names, MinLen(1)]
    attack: str = "apgd-ensemble"
    eps: float | str = 4 / 255
    options: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise SettingsError(f"weight must lie in [0, 1], got {self.weight!r}")
        _ = self.threat
        if empty := [name for space in self.space for name, values in space.items() if not values]:
            raise SettingsError(f"space: {empty[0]} has no values")
        parse(_OWN["start"], [self.settings.get("start")], where="settings: start")
        for space in self.space:
            for name, kind in _OWN.items():
                parse(kind, space.get(name, []), where=f"space: {name}")
        if twice := sorted({"steps", "seed", "quiet", "checkpoint"} & {*self.settings}.union(*self.space)):
            raise SettingsError(f"{twice[0]} is set by the search; leave it out of space and settings")

    @property
    def threat(self) -> Threat:
        """What trials are compared under."""
        return Threat(attack=self.attack, eps=fraction(self.eps), source="self", options=self.options)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One combination of settings after one round.

    Args:
        name: of the trial, the same in every round.
        rung: number of the round, from 0.
        settings: those of the space.
        clean, robust: mean accuracies over the validation sets, in per cent; ``robust`` is white-box.
        score: ``(1 - weight) clean + weight robust``.
        seconds: of the training; None where it was interrupted.
        images: that the training has seen, repeats included.
        changed: share of the vision encoder's weights that the adapter changes, in per cent.
        folder: of the adapter.
        clean_interval, robust_interval: 95 % intervals of the two accuracies.
    """

    name: str
    rung: int
    settings: Mapping[str, Any]
    clean: float
    robust: float
    score: float
    seconds: float | None
    images: int
    changed: float
    folder: Path
    clean_interval: tuple[float, float]
    robust_interval: tuple[float, float]


def search(
    spec: str | Path | SearchSpec | Mapping[str, Any],
    *,
    out: str | Path = "search",
    progress: Callable[[str], None] | None = None,
    quiet: bool = False,
) -> list[Trial]:
    """Try combinations of an adapter's settings by successive halving (Jamieson & Talwalkar 2016, arXiv:1502.07943).

    Every trial is trained and compared on validation splits, never on test. Those on the front of clean and white-box
    accuracy go on first, then the others by their score. A trial that fails, as where its training diverges, costs the
    others nothing: ``trials.json`` says why, and it does not go on. An interrupted search continues, and tries what
    failed again.

    Args:
        spec: what is searched, the same as plain values, or the path of a YAML file that holds them.
        out: folder of the adapters, of the results of each round (``rung-1.sqlite``...), and of ``trials.json``.
        progress: called with a line about every trial.
        quiet: no progress bars.

    Returns:
        Every trial of every round, in order, without those that failed.

    Raises:
        SettingsError: the file is wrong, a setting that the method does not take, a validation set that is one, or all
            trials of a round failed.
        RadaptError: as of the method, and of evaluations.

    Warns:
        UserWarning: trials failed, and there is no ``progress`` to tell it.
    """
    plan = spec if isinstance(spec, SearchSpec) else _read(spec)
    folder, tell = expanded(out), progress or (lambda text: None)
    method: AdapterMethod = METHODS.get(plan.method)
    if not method.needs_images:
        raise SettingsError(f"{plan.method} is not trained, so there are no steps to search with; take shallow")
    drawn = _drawn(plan)
    for name, settings in drawn.items():
        method.settings(name, _others(plan, settings))
    model = load(plan.model)

    @cache
    def images(data: Names, n: int) -> Tensor:
        chosen = training_images(data, n, size=model.image_size[0], quiet=quiet)
        return chosen.pixels(range(len(chosen)))

    @cache
    def beginning(recipe: str) -> Adapter:
        return adapt(model=model, **json.loads(recipe))

    found, failed, rows = list[Trial](), list[str](), list[dict[str, Any]]()
    for number, rung in enumerate(plan.rungs):
        size = model.image_size[0]
        sets = [load_dataset(each, split="validation", n=rung.n, size=size, quiet=quiet) for each in plan.validation]
        trials = list[Trial]()
        for name, settings in drawn.items():
            place = folder / f"rung-{number + 1}" / name
            given = {**_others(plan, settings), "steps": rung.steps, "seed": plan.seed}
            begun = settings.get("start", plan.settings.get("start"))
            if begun is not None:
                given["start"] = beginning(json.dumps(begun, sort_keys=True))
            pixels = images(names(settings.get("data", plan.data)), settings.get("n", plan.n))
            taken = method.settings(name, given)
            try:
                adapter = trained_adapter(method, model, pixels, taken, place, report=tell, quiet=quiet)
                results = _measured(plan, model, adapter, name, sets, folder / f"rung-{number + 1}.sqlite", quiet)
            except (CheckError, InputError) as error:
                failed.append(f"round {number + 1}, {name} failed: {error}; {settings}")
                tell(failed[-1])
                rows.append({"name": name, "rung": number, "settings": settings, "failed": str(error)})
                write_json(folder / "trials.json", rows)
                continue
            (clean, *around), (robust, *about) = (mean_of(results, kind) for kind in ("clean", "white-box"))
            batch = int(adapter.settings.origin["batch"])  # type: ignore[call-overload]
            trial = Trial(
                name=name,
                rung=number,
                settings=settings,
                clean=clean,
                robust=robust,
                score=(1 - plan.weight) * clean + plan.weight * robust,
                seconds=seconds_of(place),
                images=batch * rung.steps,
                changed=100 * adapter.changed(model),
                folder=place,
                clean_interval=(around[0], around[1]),
                robust_interval=(about[0], about[1]),
            )
            trials.append(trial)
            tell(f"round {number + 1}, {name}: clean {clean:.1f}, white-box {robust:.1f}; {settings}")
            rows.append(_row(trial))
            write_json(folder / "trials.json", rows)
        if not trials:
            raise SettingsError(f"every trial of round {number + 1} failed, so that nothing goes on; {failed[-1]}")
        found += trials
        kept = _kept(trials, rung.keep)
        drawn = {name: settings for name, settings in drawn.items() if name in kept}
    if failed:
        text = f"{len(failed)} of {len(rows)} trials failed and are left out: {'; '.join(failed)}"
        tell(text)
        if progress is None:
            warnings.warn(text, stacklevel=2)
    return found


def _read(given: str | Path | Mapping[str, Any]) -> SearchSpec:
    values = dict(given) if isinstance(given, Mapping) else read_yaml(expanded(given), what="search")
    spec: SearchSpec = parse(SearchSpec, values, where="the search" if isinstance(given, Mapping) else Path(given).name)
    return spec


def _drawn(plan: SearchSpec) -> dict[str, dict[str, Any]]:
    """The combinations to be tried, by name."""
    every = [
        dict(zip(space, combination, strict=True))
        for space in plan.space
        for combination in itertools.product(*([number_of(value) for value in each] for each in space.values()))
    ]
    chosen = every if len(every) <= plan.trials else random.Random(plan.seed).sample(every, plan.trials)
    return {f"trial-{digest_of(settings, length=6, default=str)}": settings for settings in chosen}


def _kept(trials: Sequence[Trial], keep: int) -> set[str]:
    first = [trial.name for trial in front(trials)]
    others = [trial.name for trial in best_first(trials) if trial.name not in first]
    if len(first) > keep:  # the front itself is too long: its best by score
        first = [trial.name for trial in best_first(front(trials))]
    return set([*first, *others][:keep])


def _others(plan: SearchSpec, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a trial that are the method's."""
    fixed = {key: value for key, value in plan.settings.items() if key != "start"}
    return fixed | {key: value for key, value in settings.items() if key not in _OWN}


def _measured(
    plan: SearchSpec, model: VLM, adapter: Adapter, name: str, sets: Sequence[Dataset], file: Path, quiet: bool
) -> list[Result]:
    with Results(file) as results:
        return evaluate(
            [Candidate(method=name, model=model, adapter=adapter)],
            data=list(sets),
            threats=[plan.threat],
            results=results,
            seed=plan.seed,
            sanity=False,  # whoever wins is judged on test, with them
            quiet=quiet,
        )


def _row(trial: Trial) -> dict[str, Any]:
    return {**asdict(replace(trial, folder=Path(trial.folder.name))), "folder": str(trial.folder)}
