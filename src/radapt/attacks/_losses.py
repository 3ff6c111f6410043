"""The losses of a classifier: their formulas, whether they go for a class, and how many classes they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F

from radapt.types import Index, Labels, Logits, PerSample

__all__ = ["LOSSES", "Loss", "best_wrong", "is_targeted", "margin", "of_class"]

_TINY = 1e-12


def of_class(logits: Logits, classes: Labels) -> PerSample:
    """``z[c]``: the logit of one class per sample."""
    return logits.gather(1, classes[:, None]).squeeze(1)


def best_wrong(logits: Logits, label: Labels) -> PerSample:
    """The largest logit of the other classes."""
    return logits.scatter(1, label[:, None], -torch.inf).amax(1)


def margin(logits: Logits, label: Labels, target: Index | None = None) -> PerSample:
    """``z[target] - z[label]``, or without a target that of the best wrong class (Carlini & Wagner 2017)."""
    goal = best_wrong(logits, label) if target is None else of_class(logits, target)
    return goal - of_class(logits, label)


def _cross_entropy(logits: Logits, label: Labels, target: Index | None) -> PerSample:
    return F.cross_entropy(logits, label, reduction="none")


def _targeted_cross_entropy(logits: Logits, label: Labels, target: Index | None) -> PerSample:
    return of_class(logits, label if target is None else target) - logits.logsumexp(1)


def _dlr(logits: Logits, label: Labels, target: Index | None) -> PerSample:
    first, _, third = logits.topk(3, 1).values.unbind(1)
    return margin(logits, label, target) / (first - third + _TINY)


def _targeted_dlr(logits: Logits, label: Labels, target: Index | None) -> PerSample:
    first, _, third, fourth = logits.topk(4, 1).values.unbind(1)
    return margin(logits, label, target) / (first - (third + fourth) / 2 + _TINY)


@final
@dataclass(frozen=True)
class Loss:
    """One loss of a classifier.

    Args:
        value: the loss per sample, from logits, labels and, for a targeted one, target classes.
        least_classes: how many classes it needs.
        targeted: whether it goes for a target class.
    """

    value: Callable[[Logits, Labels, Index | None], PerSample]
    least_classes: int
    targeted: bool = False


LOSSES: Mapping[str, Loss] = {
    "ce": Loss(_cross_entropy, 2),
    "margin": Loss(margin, 2),
    "dlr": Loss(_dlr, 3),
    "ce-targeted": Loss(_targeted_cross_entropy, 2, targeted=True),
    "margin-targeted": Loss(margin, 2, targeted=True),
    "dlr-targeted": Loss(_targeted_dlr, 4, targeted=True),
}
"""The losses by name; the first is the default."""


def is_targeted(name: str) -> bool:
    """Whether a loss goes for a target class; one that is not in the table (an objective's own) does not."""
    return name in LOSSES and LOSSES[name].targeted
