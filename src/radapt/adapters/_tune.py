"""Choosing alpha, the cut-off and the shares of deltas on a validation split, by clean and white-box accuracy."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from rich.progress import track

from radapt.attacks import Attack, ClassificationObjective, make
from radapt.data import Dataset, load_dataset
from radapt.errors import SettingsError
from radapt.io import fraction
from radapt.models import VLM, Delta, load, parts, scaled, zero_shot
from radapt.numbers import check_seed, number, whole

from ._adapter import Adapter
from ._gaussian import cutoff_from_d0
from ._settings import check_settings

__all__ = ["Trial", "Tuned", "front", "tune", "with_shares"]

_ALPHAS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One setting and its accuracies in per cent, mean over the datasets; ``robust`` is white-box."""

    alpha: float
    cutoff: float | None
    shares: Mapping[str, float] = field(default_factory=dict)
    clean: float
    robust: float
    score: float


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The best adapter and every trial, best first."""

    adapter: Adapter
    trials: tuple[Trial, ...]

    @property
    def front(self) -> tuple[Trial, ...]:
        """The trials that no other one beats both clean and white-box, by clean accuracy."""
        return tuple(front(self.trials))


class _Compared(Protocol):
    @property
    def clean(self) -> float: ...

    @property
    def robust(self) -> float: ...


_Kind = TypeVar("_Kind", bound=_Compared)


def front(trials: Sequence[_Kind]) -> list[_Kind]:
    """The trials that no other one beats both clean and white-box, by clean accuracy."""
    best = [a for a in trials if not any(_beats(b, a) for b in trials)]
    return sorted(best, key=lambda trial: (-trial.clean, -trial.robust))


def _beats(one: _Compared, other: _Compared) -> bool:
    ahead = one.clean >= other.clean and one.robust >= other.robust
    return ahead and (one.clean, one.robust) != (other.clean, other.robust)


def tune(
    model: str | Path | VLM,
    adapter: str | Path | Adapter,
    *,
    data: str | Path | Dataset | Sequence[str | Path | Dataset] = ("shapes", "colours"),
    n: int = 100,
    attack: str | Attack = "pgd",
    eps: float | str = 4 / 255,
    steps: int = 10,
    alphas: Sequence[float] | None = None,
    cutoffs: Sequence[float | None] | None = None,
    d0s: Sequence[float] | None = None,
    shares: Sequence[float] | Mapping[str, Sequence[float]] | None = None,
    trials: int = 64,
    weight: float = 0.5,
    seed: int = 0,
    device: str = "cpu",
    dtype: str = "float32",
    device_map: str | None = None,
    quiet: bool = False,
) -> Tuned:
    """Try every alpha with every cut-off and every share of the deltas, and keep the best.

    The score is ``(1 - weight) clean + weight robust``, where robust is the accuracy under a white-box attack (the
    attacker sees the adapter); ``Tuned.front`` has what no other setting beats in both. Nothing is trained again.

    Args:
        model: the model, without an adapter, or its name.
        adapter: the adapter whose anchor is used, or its folder.
        data: one or several zero-shot sets, by name, whose validation split is then used, or as objects; a test split
            is refused.
        n: images of each dataset by name.
        attack: the white-box attack by name, or the attack itself, with its own settings.
        eps, steps: radius in pixel units, and steps, of an attack by name.
        alphas: weights of the anchor to try; by default 0.2, 0.4... 1.2, and 0 for an adapter without one.
        cutoffs: cut-offs to try, in cycles per pixel; by default the adapter's own.
        d0s: the same as the paper's D0 at 224 pixels (0: no filter); give one of the two.
        shares: how much of its deltas the adapter keeps: some numbers from 0 to 1 for all of them, or some for each of
            several parts, in the words of :func:`radapt.models.parts`; other parts keep theirs whole.
        trials: settings that are tried at most; of more, so many are drawn.
        weight: weight of the robust accuracy in the score, 0 to 1.
        seed: seed of the attack, and of the draw.
        device, dtype, device_map: for a model by name; see :func:`radapt.load`.
        quiet: no progress bar.

    Raises:
        SettingsError: a test split, nothing to try, shares for an adapter without deltas, or a setting out of range.
        AdapterError: the model carries an adapter, or the adapter is for another tower.
    """
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1:
        raise SettingsError(f"weight must lie in [0, 1], got {weight!r}")
    check_seed(seed)
    whole("n", n)
    if d0s is not None:
        if cutoffs is not None:
            raise SettingsError("give the cut-offs as cutoffs or as d0s, not both")
        for d0 in d0s:
            number("d0", d0, 0)
        cutoffs = [cutoff_from_d0(d0) if d0 else None for d0 in d0s]
    whole("trials", trials)
    for alpha in alphas or ():
        check_settings(None, alpha)
    for cutoff in cutoffs or ():
        check_settings(cutoff, 0)
    vlm = model if isinstance(model, VLM) else load(model, device=device, dtype=dtype, device_map=device_map)
    start = adapter if isinstance(adapter, Adapter) else Adapter.from_pretrained(adapter)
    given = [data] if isinstance(data, str | Path | Dataset) else data
    size = vlm.image_size[0]
    sets = [
        each if isinstance(each, Dataset) else load_dataset(each, split="validation", n=n, size=size, quiet=quiet)
        for each in given
    ]
    on_test = [each.name for each in sets if each.split == "test"]
    if on_test:
        raise SettingsError(f"settings are never tuned on a test split ({', '.join(on_test)}); load split='validation'")
    chosen = make(attack, eps=fraction(eps), steps=steps) if isinstance(attack, str) else attack
    weights = (_ALPHAS if start.anchor is not None else (0.0,)) if alphas is None else alphas
    kept = [start.settings.cutoff] if cutoffs is None else cutoffs
    every = [(a, c, s) for c in kept for a in weights for s in _combinations(start, shares)]
    if not every or not sets:
        raise SettingsError("nothing to try: give at least one alpha, one cut-off (if any are given) and one dataset")
    chosen_ones = every if len(every) <= trials else random.Random(seed).sample(every, trials)
    tried = []
    for alpha, cutoff, portions in track(chosen_ones, description="tune", disable=quiet, transient=True):
        with with_shares(start.change(alpha=alpha, cutoff=cutoff), vlm, portions).attach(vlm):
            accuracies = [_accuracies(vlm, each, chosen, seed) for each in sets]
        clean, robust = (sum(values) / len(values) for values in zip(*accuracies, strict=True))
        score = (1 - weight) * clean + weight * robust
        tried.append(Trial(alpha=alpha, cutoff=cutoff, shares=portions, clean=clean, robust=robust, score=score))
    tried.sort(key=lambda trial: -trial.score)
    best = tried[0]
    found = with_shares(start.change(alpha=best.alpha, cutoff=best.cutoff), vlm, best.shares)
    return Tuned(adapter=found, trials=tuple(tried))


def _combinations(
    adapter: Adapter, shares: Sequence[float] | Mapping[str, Sequence[float]] | None
) -> list[dict[str, float]]:
    """Every combination of shares by part."""
    if shares is None:
        return [{}]
    if not adapter.deltas:
        raise SettingsError("shares are of an adapter's deltas, and this one has none")
    parts_ = shares if isinstance(shares, Mapping) else {"all": shares}
    for part, values in parts_.items():
        for value in values:
            number(f"the share of {part}", value, 0, 1)
    return [dict(zip(parts_, each, strict=True)) for each in itertools.product(*parts_.values())]


def with_shares(adapter: Adapter, model: VLM, shares: Mapping[str, float]) -> Adapter:
    """An adapter with a share of its deltas in some parts of the vision encoder, and the others whole.

    Raises:
        SettingsError: an unknown part, or parts that overlap.
    """
    names = {id(parameter): name for name, parameter in model.tower.root.named_parameters()}
    portion = dict[str, float]()
    for part, share in shares.items():
        for parameter in parts(model, part).values():
            name = names.get(id(parameter), "")
            if name in portion:
                raise SettingsError(f"{part!r} and another part both name {name}; give every part its own shares")
            portion |= {name: share} if name else {}
    deltas: dict[str, Delta] = {}
    for name, delta in adapter.deltas.items():
        share = portion.get(name, 1.0)
        if share:
            deltas[name] = scaled(delta, share)
    return Adapter(adapter.settings, adapter.anchor, deltas)


def _accuracies(model: VLM, data: Dataset, attack: Attack, seed: int) -> tuple[float, float]:
    scorer = zero_shot(model)
    classifier = scorer.classifier(data.prompts)
    objective = ClassificationObjective(lambda x: scorer.logits(x, classifier), data.labels, len(classifier))
    pixels = data.pixels(range(len(data))).to(model.device)
    with torch.no_grad():
        fooled = torch.cat([objective(p, i).fooled for p, i in _batches(pixels)])
    outcome = attack(objective, pixels, keys=data.keys, seed=seed)
    return 100 * float((~fooled).float().mean()), 100 * float((~outcome.fooled).float().mean())


def _batches(pixels: torch.Tensor, size: int = 128) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(pixels.split(size), torch.arange(len(pixels), device="cpu").split(size), strict=True))
