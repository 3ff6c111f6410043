"""The losses of a classifier: their formulas, whether they go for a class, and how many classes they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from radapt.types import Flags, Index, Labels, Logits, PerSample

__all__ = ["LOSSES", "Loss", "best_wrong", "excluded", "finite", "is_targeted", "margin", "of_class", "wrong"]

_TINY = 1e-12
_LARGEST = 1e30
"""A class whose logit is minus this or less is excluded by the model: masks are -inf, or the least number there is."""


def finite(logits: Logits) -> Logits:
    """Logits with infinite ones cut to numbers with which losses are finite; NaN stays NaN."""
    return logits.clamp(-_LARGEST, _LARGEST)


def excluded(logits: Logits) -> Bool[Tensor, "batch classes"]:
    """Which classes a model excludes."""
    return logits <= -_LARGEST


def wrong(logits: Logits, label: Labels) -> Flags:
    """Whether the largest logit is not the label's; so it is in a tie, and where logits are NaN: that is no answer."""
    return ~(of_class(logits, label) > best_wrong(logits, label))


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
    return margin(logits, label, target) / _scale(first - third, third)


def _targeted_dlr(logits: Logits, label: Labels, target: Index | None) -> PerSample:
    first, _, third, fourth = logits.topk(4, 1).values.unbind(1)
    return margin(logits, label, target) / _scale(first - (third + fourth) / 2, fourth)


def _scale(difference: PerSample, lowest: PerSample) -> PerSample:
    """What a margin is divided by: 1 where too few classes are left, or all are equal, and there is no scale."""
    return (difference + _TINY).where((lowest > -_LARGEST) & (difference > 0), 1.0)


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
