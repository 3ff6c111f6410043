"""What an attack found, and how the findings of several stages become one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import final

import torch
from torch import Tensor

from radapt.types import Flags, Index, Labels, PerSample, Pixels

__all__ = ["Outcome", "Stage", "chain", "merged", "untouched"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What an attack found: the adversarial images and, per sample, what they are worth and what they cost.

    Args:
        pixels: adversarial images, float32, in [0, 1] and in the ball; the clean image where it was fooled already
            or where no point with a larger loss was found.
        fooled: whether the image fools, judged by a forward pass of its own.
        stage: which stage of an ensemble made the image, from 0 on.
        unconfirmed: the attack saw the image fool, but the fresh pass did not (random or half-precision models);
            such a sample counts as not fooled.
        failed: the objective gave a loss or a gradient that is not finite, and the search ended there. For a
            classifier an image whose logits are NaN is misclassified, and fools.
        unfinished: time ran out before the search ended.
        given_up: a search was ended early, as it had no prospect of success, and no other fooled the sample.
        audited: a search that had no prospect went on all the same, as a check.
        misjudged: such a search succeeded after all.
        gradient_free: the search that made the image uses no gradients.
        fooled_8bit: whether the image still fools when rounded to 8 bits per channel, as a file holds it.
        loss: loss of the image, from the fresh pass.
        clean_loss: loss of the clean image.
        loss_rose: whether ``loss`` is above ``clean_loss``.
        distance: distance from the clean image in the attack's norm, in pixel units.
        iterations: steps taken; 0 where the clean image was fooled already.
        forwards: forward passes, those of the clean image and of the final checks included.
        backwards: backward passes.
        zero_gradient: share of the backward passes whose gradient was zero (largest entry at most 1e-10).
    """

    pixels: Pixels
    fooled: Flags
    stage: Labels
    unconfirmed: Flags
    failed: Flags
    unfinished: Flags
    given_up: Flags
    audited: Flags
    misjudged: Flags
    gradient_free: Flags
    fooled_8bit: Flags
    loss: PerSample
    clean_loss: PerSample
    loss_rose: Flags
    distance: PerSample
    iterations: Labels
    forwards: Labels
    backwards: Labels
    zero_gradient: PerSample

    @property
    def robust_accuracy(self) -> float:
        """Share of the samples that are not fooled, from 0 to 1."""
        return float((~self.fooled).double().mean())

    @property
    def adversarial(self) -> Pixels:
        """The adversarial images: another name of ``pixels``."""
        return self.pixels

    def __repr__(self) -> str:
        """The outcome in one line."""
        passes = int(self.forwards.sum() + self.backwards.sum())
        counts = f"n={len(self.fooled)}, fooled={int(self.fooled.sum())}"
        counts += f", failed={int(self.failed.sum())}" if self.failed.any() else ""
        return f"Outcome({counts}, robust_accuracy={self.robust_accuracy:.4f}, attack_passes={passes})"


Stage = Callable[[Index], Outcome]
"""Attacks the samples at some positions."""


def chain(stages: Sequence[Stage], size: int) -> Outcome:
    """The per-sample worst case of several stages: each attacks what those before it did not fool.

    A sample that nothing fools keeps the image of the first stage. Costs add up; ``failed``, ``unconfirmed`` and
    ``given_up`` hold when they held in any stage and no later one fooled the sample; ``failed`` also where the stage
    that fooled it failed.
    """
    total = stages[0](torch.arange(size, device="cpu"))
    for number, stage in enumerate(stages[1:], 1):
        left = (~total.fooled).nonzero().flatten()
        if len(left):
            later = stage(left.cpu())
            total = merged(total, later, left, number, later.fooled)
    return total


def untouched(pixels: Pixels, fooled: Flags) -> Outcome:
    """What there is before the first attack: clean images, some of which fool already."""
    zero, none = torch.zeros_like(pixels[:, 0, 0, 0]), torch.zeros_like(fooled)
    flags = {field.name: none for field in fields(Outcome) if field.type == "Flags"}
    counts = {field.name: none.long() for field in fields(Outcome) if field.type == "Labels"}
    values = {field.name: zero for field in fields(Outcome) if field.type == "PerSample"}
    return Outcome(**{**flags, **counts, **values, "pixels": pixels, "fooled": fooled, "fooled_8bit": fooled})


def merged(total: Outcome, later: Outcome, rows: Index, number: int, won: Flags) -> Outcome:
    """An outcome to which a later stage is added.

    Args:
        total: what the stages before it found.
        later: what it found on some samples.
        rows: which samples these are.
        number: of the stage.
        won: on which of them its images replace the earlier ones.
    """
    part = {field.name: getattr(total, field.name)[rows] for field in fields(Outcome)}
    new = {field.name: getattr(later, field.name) for field in fields(Outcome)}
    new["stage"] = torch.full_like(later.stage, number)
    passes = (part["backwards"] + later.backwards).clamp(min=1)
    vanished = part["zero_gradient"] * part["backwards"] + later.zero_gradient * later.backwards
    rules: dict[str, Tensor] = {
        **{name: part[name] + new[name] for name in ("iterations", "forwards", "backwards")},
        **{name: (part[name] | new[name]) & ~later.fooled for name in ("unconfirmed", "given_up")},
        "failed": (part["failed"] & ~later.fooled) | new["failed"],
        **{name: part[name] | new[name] for name in ("audited", "misjudged")},
        "unfinished": later.unfinished,
        "loss_rose": part["loss_rose"] | later.loss_rose,
        "zero_gradient": vanished / passes,
        "clean_loss": part["clean_loss"],
    }
    changed = {}
    for name, values in new.items():
        better = won.view(-1, *[1] * (values.ndim - 1))
        value = rules[name] if name in rules else torch.where(better, values, part[name])
        changed[name] = getattr(total, name).index_copy(0, rows, value.to(part[name].dtype))
    return replace(total, **changed)
