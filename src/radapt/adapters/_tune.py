"""Choosing alpha and the cut-off on a validation split, by white-box accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from radapt.attacks import Attack, ClassificationObjective, make
from radapt.data import Dataset, load_dataset
from radapt.errors import SettingsError
from radapt.io import fraction
from radapt.models import VLM, load, zero_shot
from radapt.numbers import check_seed, number, whole

from ._adapter import Adapter
from ._gaussian import cutoff_from_d0
from ._settings import check_settings

__all__ = ["Trial", "Tuned", "tune"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One setting and its accuracies in per cent, mean over the datasets; ``robust`` is white-box."""

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
    model: str | Path | VLM,
    adapter: str | Path | Adapter,
    *,
    data: str | Path | Dataset | Sequence[str | Path | Dataset] = ("shapes", "colours"),
    n: int = 100,
    attack: str | Attack = "pgd",
    eps: float | str = 4 / 255,
    steps: int = 10,
    alphas: Sequence[float] = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2),
    cutoffs: Sequence[float | None] | None = None,
    d0s: Sequence[float] | None = None,
    weight: float = 0.5,
    seed: int = 0,
) -> Tuned:
    """Try every alpha with every cut-off and keep the best.

    The score is ``(1 - weight) clean + weight robust``, where robust is the accuracy under a white-box attack (the
    attacker sees the adapter). The anchor itself is not trained again.

    Args:
        model: the model, without an adapter, or its name.
        adapter: the adapter whose anchor is used, or its folder.
        data: one or several zero-shot sets, by name, whose validation split is then used, or as objects; a test split
            is refused.
        n: images of each dataset by name.
        attack: the white-box attack by name, or the attack itself, with its own settings.
        eps, steps: radius in pixel units, and steps, of an attack by name.
        alphas: weights of the anchor to try.
        cutoffs: cut-offs to try, in cycles per pixel; by default the adapter's own.
        d0s: the same as the paper's D0 at 224 pixels (0: no filter); give one of the two.
        weight: weight of the robust accuracy in the score, 0 to 1.
        seed: seed of the attack.

    Raises:
        SettingsError: a test split, nothing to try, or a setting out of range.
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
    for alpha in alphas:
        check_settings(None, alpha)
    for cutoff in cutoffs or ():
        check_settings(cutoff, 0)
    vlm = model if isinstance(model, VLM) else load(model)
    start = adapter if isinstance(adapter, Adapter) else Adapter.from_pretrained(adapter)
    given = [data] if isinstance(data, str | Path | Dataset) else data
    size = vlm.image_size[0]
    sets = [
        each if isinstance(each, Dataset) else load_dataset(each, split="validation", n=n, size=size) for each in given
    ]
    on_test = [each.name for each in sets if each.split == "test"]
    if on_test:
        raise SettingsError(f"settings are never tuned on a test split ({', '.join(on_test)}); load split='validation'")
    chosen = make(attack, eps=fraction(eps), steps=steps) if isinstance(attack, str) else attack
    pairs = [(a, c) for c in ((start.settings.cutoff,) if cutoffs is None else cutoffs) for a in alphas]
    if not pairs or not sets:
        raise SettingsError("nothing to try: give at least one alpha, one cut-off (if any are given) and one dataset")
    trials = []
    for alpha, cutoff in pairs:
        with start.change(alpha=alpha, cutoff=cutoff).attach(vlm):
            accuracies = [_accuracies(vlm, each, chosen, seed) for each in sets]
        clean, robust = (sum(values) / len(values) for values in zip(*accuracies, strict=True))
        score = (1 - weight) * clean + weight * robust
        trials.append(Trial(alpha=alpha, cutoff=cutoff, clean=clean, robust=robust, score=score))
    trials.sort(key=lambda trial: -trial.score)
    return Tuned(adapter=start.change(alpha=trials[0].alpha, cutoff=trials[0].cutoff), trials=tuple(trials))


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
