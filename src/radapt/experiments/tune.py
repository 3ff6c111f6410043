"""Choosing alpha, the cut-off and the shares of deltas on a validation split, by clean and white-box accuracy."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rich.progress import track

from radapt.adapters import Adapter, cutoff_from_d0, with_shares
from radapt.attacks import Attack
from radapt.data import Dataset, check_datasets, listed, load_dataset
from radapt.errors import SettingsError
from radapt.evaluation import Candidate, Threat, check_loading, evaluate
from radapt.io import fraction
from radapt.models import VLM, load
from radapt.numbers import check_batch_size, check_seed, number, several, whole
from radapt.results import WORST_CASE, Kind, Result, Results
from radapt.results.intervals import Interval
from radapt.results.labels import places_of
from radapt.results.shared import shared_images
from radapt.types import Norm

__all__ = ["Tuned", "TuningTrial", "best_first", "means_of", "pareto_front", "tune"]

_ALPHAS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2)


@dataclass(frozen=True, kw_only=True)
class TuningTrial:
    """One setting of an adapter and its accuracies in per cent, mean over the datasets; ``robust`` is white-box.

    Both have their 95 % intervals.
    """

    alpha: float
    cutoff: float | None
    shares: Mapping[str, float] = field(default_factory=dict)
    clean: float
    robust: float
    score: float
    clean_interval: tuple[float, float]
    robust_interval: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The best adapter and every trial, best first."""

    adapter: Adapter
    trials: tuple[TuningTrial, ...]

    @property
    def pareto_front(self) -> tuple[TuningTrial, ...]:
        """The Pareto front: trials that no other one beats both clean and white-box, by clean accuracy."""
        return tuple(pareto_front(self.trials))


class _Compared(Protocol):
    @property
    def clean(self) -> float: ...

    @property
    def robust(self) -> float: ...

    @property
    def score(self) -> float: ...


_Kind = TypeVar("_Kind", bound=_Compared)


def pareto_front(trials: Sequence[_Kind]) -> list[_Kind]:
    """The Pareto front: trials that no other one beats both clean and white-box, by clean accuracy."""
    best = [a for a in trials if not any(_beats(b, a) for b in trials)]
    return sorted(best, key=lambda trial: (-trial.clean, -trial.robust))


def best_first(trials: Iterable[_Kind]) -> list[_Kind]:
    """By score; of one score by both accuracies, so that none stands before one that beats it."""
    return sorted(trials, key=lambda trial: (-trial.score, -trial.clean, -trial.robust))


def _beats(one: _Compared, other: _Compared) -> bool:
    ahead = one.clean >= other.clean and one.robust >= other.robust
    return ahead and (one.clean, one.robust) != (other.clean, other.robust)


def tune(
    model: str | Path | VLM,
    adapter: str | Path | Adapter,
    *,
    data: str | Path | Dataset | Sequence[str | Path | Dataset] = ("shapes", "colours"),
    n: int = 100,
    attack: str | Attack = "apgd-ensemble",
    eps: float | str | None = None,
    norm: Norm | None = None,
    options: Mapping[str, object] | None = None,
    alphas: float | Iterable[float] | None = None,
    cutoffs: float | Iterable[float | None] | None = None,
    d0s: float | Iterable[float] | None = None,
    shares: float | Iterable[float] | Mapping[str, float | Iterable[float]] | None = None,
    trials: int = 64,
    weight: float = 0.5,
    results: str | Path | Results = "tuning.sqlite",
    seed: int = 0,
    batch_size: int = 32,
    quiet: bool = False,
    **loading: Any,
) -> Tuned:
    """Try every alpha with every cut-off and every share of the deltas, and keep the best.

    The score is ``(1 - weight) clean + weight robust``, where robust is the accuracy under a white-box attack (the
    attacker sees the adapter); ``Tuned.pareto_front`` has what no other setting beats in both. Nothing is trained
    again. An interrupted call continues, and one with another ``weight`` or more settings measures only what is new.
    Trials run without the checks of the attacks: judge what wins on test, with :func:`radapt.evaluate`.

    Args:
        model: the model, without an adapter, or its name.
        adapter: the adapter whose anchor is used, or its folder.
        data: one or several sets, by name, whose validation split is then used, or as objects; a test split is refused.
        n: images of each dataset by name.
        attack: the white-box attack by name, or the attack itself, with its own settings.
        eps: radius of an attack by name, in pixel units; None: 4/255.
        norm, options: norm and other settings of an attack by name, as for :func:`radapt.evaluate`.
        alphas: weights of the anchor to try; by default 0.2, 0.4... 1.2, and 0 for an adapter without one.
        cutoffs: cut-offs to try, in cycles per pixel; by default the adapter's own.
        d0s: the same as the paper's D0 at 224 pixels (0: no filter); give one of the two.
        shares: how much of its deltas the adapter keeps: some numbers from 0 to 1 for all of them, or some for each of
            several parts, in the words of :func:`radapt.models.parts`; other parts keep theirs whole.
        trials: settings that are tried at most; of more, so many are drawn.
        weight: weight of the robust accuracy in the score, 0 to 1.
        results: a results file, open or by its path, for the results of all trials; what it holds is not
            measured again.
        seed: seed of the attack, and of the draw.
        batch_size: images per pass of the model at most.
        quiet: no progress bar.
        loading: ``device``, ``dtype`` and whatever else :func:`radapt.load` takes, for a model by name.

    Raises:
        SettingsError: a test split, nothing to try, shares for an adapter without deltas, a setting out of range, an
            unknown keyword, or a model that carries an adapter.
        AdapterError: the adapter is for another tower.
        ResultsError: the results file cannot be used.
    """
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1:
        raise SettingsError(f"weight must lie in [0, 1], got {weight!r}")
    check_loading(tune, loading, (model,))
    check_seed(seed)
    check_batch_size(batch_size)
    whole("n", n)
    whole("trials", trials)
    radius = fraction(eps) if eps is not None else 4 / 255 if isinstance(attack, str) else None
    threat = Threat(attack=attack, eps=radius, norm=norm, source="self", options=options)
    filters = _cutoffs(cutoffs, d0s)
    start = adapter if isinstance(adapter, Adapter) else Adapter.from_pretrained(adapter)
    weights = (_ALPHAS if start.anchor is not None else (0.0,)) if alphas is None else several("alphas", alphas)
    kept = [start.settings.cutoff] if filters is None else filters
    combined = _combinations(start, shares)
    every = [(a, c, s) for c in kept for a in weights for s in combined]
    for alpha, cutoff, _ in every:
        start.change(alpha=alpha, cutoff=cutoff)  # refuses what is out of range
    vlm = model if isinstance(model, VLM) else load(model, **loading)
    vlm.check_bare()
    given = listed(data)
    check_datasets(given)
    size = vlm.image_size[0]
    sets = [
        each if isinstance(each, Dataset) else load_dataset(each, split="validation", n=n, size=size, quiet=quiet)
        for each in given
    ]
    on_test = [each.name for each in sets if each.split == "test"]
    if on_test:
        raise SettingsError(f"settings are never tuned on a test split ({', '.join(on_test)}); load split='validation'")
    if not every:
        raise SettingsError("nothing to try: give at least one alpha, and one cut-off if any are given")
    chosen = every if len(every) <= trials else random.Random(seed).sample(every, trials)

    def changed(alpha: float, cutoff: float | None, portions: Mapping[str, float]) -> Adapter:
        return with_shares(start.change(alpha=alpha, cutoff=cutoff), vlm, portions)

    changed(*chosen[0])  # refuses parts that are none
    tried = []
    with ExitStack() as stack:
        file = results if isinstance(results, Results) else stack.enter_context(Results(results))
        for alpha, cutoff, portions in track(chosen, description="tune", disable=quiet, transient=True):
            found = evaluate(
                Candidate(method=_name(alpha, cutoff, portions), model=vlm, adapter=changed(alpha, cutoff, portions)),
                data=sets,
                threats=[threat],
                results=file,
                seed=seed,
                batch_size=batch_size,
                sanity=False,
                quiet=True,
            )
            (clean, *around), (robust, *about) = means_of(file, found)
            tried.append(
                TuningTrial(
                    alpha=alpha,
                    cutoff=cutoff,
                    shares=portions,
                    clean=clean,
                    robust=robust,
                    score=(1 - weight) * clean + weight * robust,
                    clean_interval=(around[0], around[1]),
                    robust_interval=(about[0], about[1]),
                )
            )
    tried = best_first(tried)
    best = tried[0]
    return Tuned(adapter=changed(best.alpha, best.cutoff, best.shares), trials=tuple(tried))


def means_of(store: Results, results: Sequence[Result]) -> tuple[Interval, Interval]:
    """Means over the datasets of their main metrics, with intervals: clean, and under the attack that was asked for."""
    shared, places = shared_images(store, results), places_of([each.setting for each in results])

    def mean(kind: Kind) -> Interval:
        return shared.mean(
            [
                (place, (each.percent, each.low, each.high), each.n)
                for place, each in zip(places, results, strict=True)
                if each.kind == kind and each.main and each.setting.attack != WORST_CASE
            ]
        )

    return mean("clean"), mean("white-box")


def _cutoffs(
    cutoffs: float | Iterable[float | None] | None, d0s: float | Iterable[float] | None
) -> list[float | None] | None:
    """The cut-offs to try, however they are given; None: the adapter's own."""
    if d0s is None:
        return None if cutoffs is None else several("cutoffs", cutoffs)
    if cutoffs is not None:
        raise SettingsError("give the cut-offs as cutoffs or as d0s, not both")
    listed = several("d0s", d0s)
    for d0 in listed:
        number("d0", d0, 0)
    return [cutoff_from_d0(d0) if d0 else None for d0 in listed]


def _name(alpha: float, cutoff: float | None, portions: Mapping[str, float]) -> str:
    """What a trial is called in the results file."""
    shares = [f"{share:g} of {part}" for part, share in portions.items()]
    return ", ".join([f"alpha {alpha:g}", "no filter" if cutoff is None else f"cut-off {cutoff:g}", *shares])


def _combinations(
    adapter: Adapter, shares: float | Iterable[float] | Mapping[str, float | Iterable[float]] | None
) -> list[dict[str, float]]:
    """Every combination of shares by part."""
    if shares is None:
        return [{}]
    if not adapter.deltas:
        raise SettingsError("shares are of an adapter's deltas, and this one has none")
    given = shares if isinstance(shares, Mapping) else {"all": shares}
    parts_ = {part: several(f"the shares of {part}", values) for part, values in given.items()}
    for part, values in parts_.items():
        for value in values:
            number(f"the share of {part}", value, 0, 1)
    return [dict(zip(parts_, each, strict=True)) for each in itertools.product(*parts_.values())]
