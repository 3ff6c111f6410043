"""What an attack maximises: a function of pixels that hides the model, the labels and the task."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F

from radapt.errors import InputError, SettingsError
from radapt.find import nearest
from radapt.types import Embeddings, Flags, Index, Labels, Logits, PerSample, Pixels

__all__ = ["ClassificationObjective", "EmbeddingObjective", "Objective", "Score"]


class Score(NamedTuple):
    """Result of one forward pass: the loss that the attack maximises, and whether each sample is fooled."""

    loss: PerSample
    fooled: Flags


class Objective(Protocol):
    """Maps pixels of chosen samples to per-sample loss and verdict, in one forward pass.

    ``index`` says which samples the pixels belong to (positions in ``0 .. size - 1``), so that an attack may
    stream samples in any order and any grouping. ``loss`` names one of ``losses``; the first is the default.
    """

    size: int
    losses: tuple[str, ...]

    def __call__(self, pixels: Pixels, index: Index, *, loss: str = "") -> Score: ...


class ClassificationObjective:
    """Untargeted objective of a classifier: fooled when the largest logit is not the label's.

    Losses: ``ce`` is cross-entropy; ``margin`` is the largest wrong logit minus the label's (Carlini & Wagner 2017).

    Args:
        logits: maps pixels in [0, 1] to logits, differentiably.
        labels: true classes of all samples.
        classes: number of classes.
        stop: whether a misclassified sample counts as fooled; without, an attack spends its whole budget on every
            sample, as adversarial training wants it.

    Raises:
        InputError: a label is out of range.
    """

    losses: tuple[str, ...] = ("ce", "margin")

    def __init__(self, logits: Callable[[Pixels], Logits], labels: Labels, classes: int, *, stop: bool = True) -> None:
        if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= classes):
            raise InputError(f"labels must lie in 0..{classes - 1}, got {int(labels.min())}..{int(labels.max())}")
        self._logits, self.labels, self.size, self._stop = logits, labels, len(labels), stop

    def __call__(self, pixels: Pixels, index: Index, *, loss: str = "") -> Score:
        logits = self._logits(pixels).float()
        labels = self.labels.to(index.device)[index].to(logits.device)
        wrong = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
        right = logits.gather(1, labels[:, None]).squeeze(1)
        kind = loss or self.losses[0]
        if kind == "ce":
            value = F.cross_entropy(logits, labels, reduction="none")
        elif kind == "margin":
            value = wrong - right
        else:
            raise SettingsError(f"unknown loss {loss!r}{nearest(loss, self.losses)}")
        return Score(value, (wrong >= right).detach() & self._stop)


class EmbeddingObjective:
    """Label-free objective: squared L2 distance of the embedding from a reference (FARE, Schlarmann 2024, eq. 3).

    No sample is ever fooled, so an attack spends its whole budget.

    Args:
        encode: maps pixels in [0, 1] to embeddings, differentiably.
        reference: embeddings of the clean samples.
    """

    losses: tuple[str, ...] = ("l2",)

    def __init__(self, encode: Callable[[Pixels], Embeddings], reference: Embeddings) -> None:
        self._encode, self.reference, self.size = encode, reference, len(reference)

    def __call__(self, pixels: Pixels, index: Index, *, loss: str = "") -> Score:
        if loss not in ("", *self.losses):
            raise SettingsError(f"unknown loss {loss!r}{nearest(loss, self.losses)}")
        embedding = self._encode(pixels).float()
        distance = (embedding - self.reference[index].to(embedding)).square().sum(1)
        return Score(distance, torch.zeros(len(distance), dtype=torch.bool, device=distance.device))
