"""Trials of a search: what is searched, in which rounds, and which combinations of settings are tried."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, MinLen
from pydantic import BeforeValidator

from radapt.errors import SettingsError
from radapt.evaluation import Threat
from radapt.io import digest_of, expanded, fraction
from radapt.schema import STRICT, parse, read_yaml

from .parts import Names, listed, number_of

__all__ = ["Rung", "SearchSpec", "Trial", "drawn_of", "read_search", "settings_of"]

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
        starts = [each for space in self.space for each in space.get("start", [])]
        for each in (self.settings.get("start"), *starts):
            if isinstance(each, Mapping) and "method" not in each:
                raise SettingsError(
                    f"start: say which method makes it, as in {{method: graft, guide: micro/fare}}; got {dict(each)}"
                )
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
        images: that the training has seen, repeats included; None where the method does not say its ``batch``.
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
    images: int | None
    changed: float
    folder: Path
    clean_interval: tuple[float, float]
    robust_interval: tuple[float, float]


def read_search(given: str | Path | Mapping[str, Any]) -> SearchSpec:
    """What is searched, from plain values or from a YAML file that holds them.

    Raises:
        SettingsError: they say something else.
    """
    values = dict(given) if isinstance(given, Mapping) else read_yaml(expanded(given), what="search")
    spec: SearchSpec = parse(SearchSpec, values, where="the search" if isinstance(given, Mapping) else Path(given).name)
    return spec


def drawn_of(plan: SearchSpec) -> dict[str, dict[str, Any]]:
    """The combinations to be tried, by name."""
    every = [
        dict(zip(space, combination, strict=True))
        for space in plan.space
        for combination in itertools.product(*([number_of(value) for value in each] for each in space.values()))
    ]
    chosen = every if len(every) <= plan.trials else random.Random(plan.seed).sample(every, plan.trials)
    return {f"trial-{digest_of(settings, length=6, default=str)}": settings for settings in chosen}


def settings_of(plan: SearchSpec, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a trial that are the method's."""
    fixed = {key: number_of(value) for key, value in plan.settings.items() if key != "start"}
    return fixed | {key: value for key, value in settings.items() if key not in _OWN}
