"""Choosing alpha and the cut-off on a validation split, by the white-box figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from radapt.attacks import Attack, ClassificationObjective
from radapt.data import Dataset
from radapt.errors import SettingsError
from radapt.models import VLM

from .adapter import Adapter

__all__ = ["Trial", "Tuned", "tune"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One setting and its accuracies in per cent, mean over the data sets; ``robust`` is white-box."""

    alpha: float
    cutoff: float | None
    clean: float
    robust: float
    score: float


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The best adapter and every trial, best first."""

    adapter: Adapter
    trials: tuple[Trial, ...]


def tune(
    model: VLM,
    adapter: Adapter,
    *,
    datasets: Sequence[Dataset],
    attack: Attack,
    alphas: Sequence[float] = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2),
    cutoffs: Sequence[float | None] | None = None,
    weight: float = 0.5,
    seed: int = 0,
) -> Tuned:
    """Try every alpha with every cut-off and keep the best.

    The score is ``(1 - weight) clean + weight robust``, where robust is the accuracy under a white-box attack (the
    attacker sees the adapter). The anchor itself is not trained again.

    Args:
        model: the model, without an adapter.
        adapter: the adapter whose anchor is used.
        datasets: zero-shot sets of a validation split; a test split is refused.
        attack: the attack, e.g. ``radapt.attacks.make("pgd", eps=4/255, steps=10)``.
        alphas: weights of the anchor to try.
        cutoffs: cut-offs to try, in cycles per pixel; by default the adapter's own.
        weight: weight of the robust accuracy in the score, 0 to 1.
        seed: seed of the attack.

    Raises:
        SettingsError: a test split, nothing to try, or a weight outside [0, 1].
    """
    on_test = [data.name for data in datasets if data.split == "test"]
    if on_test:
        raise SettingsError(f"settings are never tuned on a test split ({', '.join(on_test)}); load split='validation'")
    if not 0 <= weight <= 1:
        raise SettingsError(f"weight must lie in [0, 1], got {weight}")
    pairs = [(a, c) for c in (cutoffs or (adapter.settings.cutoff,)) for a in alphas]
    if not pairs or not datasets:
        raise SettingsError("nothing to try: give at least one alpha and one data set")
    trials = []
    for alpha, cutoff in pairs:
        with adapter.change(alpha=alpha, cutoff=cutoff).attach(model):
            accuracies = [_accuracies(model, data, attack, seed) for data in datasets]
        clean, robust = (sum(values) / len(values) for values in zip(*accuracies, strict=True))
        score = (1 - weight) * clean + weight * robust
        trials.append(Trial(alpha=alpha, cutoff=cutoff, clean=clean, robust=robust, score=score))
    trials.sort(key=lambda trial: -trial.score)
    return Tuned(adapter=adapter.change(alpha=trials[0].alpha, cutoff=trials[0].cutoff), trials=tuple(trials))


def _accuracies(model: VLM, data: Dataset, attack: Attack, seed: int) -> tuple[float, float]:
    classifier = model.classifier(data.prompts)
    objective = ClassificationObjective(lambda x: model.logits(x, classifier), data.labels, len(classifier))
    pixels = data.pixels(range(len(data))).to(model.device)
    with torch.no_grad():
        fooled = torch.cat([objective(p, i).fooled for p, i in _batches(pixels)])
    outcome = attack(objective, pixels, keys=data.keys, seed=seed)
    return 100 * float((~fooled).float().mean()), 100 * float((~outcome.fooled).float().mean())


def _batches(pixels: torch.Tensor, size: int = 128) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(pixels.split(size), torch.arange(len(pixels)).split(size), strict=True))
