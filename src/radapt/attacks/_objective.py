"""What an attack maximises: a function of pixels that hides the model, the labels and the task."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F

from radapt.errors import InputError, SettingsError
from radapt.find import nearest
from radapt.types import Embeddings, Flags, Index, Labels, Logits, PerSample, Pixels

__all__ = ["AnswerObjective", "ClassificationObjective", "EmbeddingObjective", "Objective", "Score", "Subset"]

_LEAST_CLASSES = {"ce": 2, "margin": 2, "dlr": 3, "ce-targeted": 2, "margin-targeted": 2, "dlr-targeted": 4}
_TINY = 1e-12


class Score(NamedTuple):
    """Result of one forward pass: the loss that the attack maximises, and whether each sample is fooled.

    A classifier adds its logits, batch x classes: targeted attacks take their classes from them.
    """

    loss: PerSample
    fooled: Flags
    logits: Logits | None = None


class Objective(Protocol):
    """Maps pixels of chosen samples to per-sample loss and verdict, in one forward pass.

    ``index`` says which samples the pixels belong to (positions in ``0 .. size - 1``), so that an attack may
    stream samples in any order and any grouping. ``loss`` names one of ``losses``; the first is the default. A loss
    whose name ends in ``-targeted`` is called with one more keyword, ``target``: the class to go
    for, one per row.
    """

    size: int
    losses: tuple[str, ...]

    def __call__(self, pixels: Pixels, index: Index, *, loss: str = "") -> Score: ...


class ClassificationObjective:
    """Untargeted objective of a classifier: fooled when the largest logit is not the label's.

    With ``z`` the logits, ``y`` the label, ``t`` a target and ``s`` the logits from the largest down, the losses are

    - ``ce``: cross-entropy, ``log sum exp z - z[y]``;
    - ``margin``: ``max of the others - z[y]`` (Carlini & Wagner 2017);
    - ``dlr``: ``margin / (s[1] - s[3])`` (Croce & Hein 2020, eq. 6), from three classes on;
    - ``ce-targeted``: ``z[t] - log sum exp z``;
    - ``margin-targeted``: ``z[t] - z[y]``;
    - ``dlr-targeted``: ``margin-targeted / (s[1] - (s[3] + s[4]) / 2)`` (eq. 7), from four classes on.

    Args:
        logits: maps pixels in [0, 1] to logits, differentiably.
        labels: true classes of all samples.
        classes: number of classes.
        stop: whether a misclassified sample counts as fooled; without, an attack spends its whole budget on every
            sample, as adversarial training wants it.

    Raises:
        InputError: a label is out of range, or there are fewer than two classes.
    """

    def __init__(self, logits: Callable[[Pixels], Logits], labels: Labels, classes: int, *, stop: bool = True) -> None:
        if classes < 2:
            raise InputError(f"a classifier needs at least two classes, got {classes}")
        if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= classes):
            raise InputError(f"labels must lie in 0..{classes - 1}, got {int(labels.min())}..{int(labels.max())}")
        self._logits, self.labels, self.size, self.stop = logits, labels, len(labels), stop
        self.classes = classes
        self.losses = tuple(name for name, least in _LEAST_CLASSES.items() if classes >= least)

    def __call__(self, pixels: Pixels, index: Index, *, loss: str = "", target: Index | None = None) -> Score:
        logits = self._logits(pixels).float()
        labels = self.labels.to(index.device)[index].to(logits.device)
        kind = loss or self.losses[0]
        if kind not in self.losses:
            raise SettingsError(f"unknown loss {loss!r}{nearest(loss, self.losses)}")
        if target is None and kind.endswith("-targeted"):
            raise SettingsError(f"the loss {kind!r} needs a target class per sample")
        wrong = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
        right = _at(logits, labels)
        goal = wrong if target is None else _at(logits, target.to(logits.device))
        if kind == "ce":
            value = F.cross_entropy(logits, labels, reduction="none")
        elif kind == "ce-targeted":
            value = goal - logits.logsumexp(1)
        elif kind.startswith("margin"):
            value = goal - right
        else:
            first, _, third, *fourth = logits.topk(3 if kind == "dlr" else 4, 1).values.unbind(1)
            lower = (third + fourth[0]) / 2 if fourth else third
            value = (goal - right) / (first - lower + _TINY)
        return Score(value, (wrong >= right).detach() & self.stop, logits)


def _at(logits: Logits, labels: Labels) -> PerSample:
    return logits.gather(1, labels[:, None]).squeeze(1)


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


class AnswerObjective:
    """Objective on what a generative model answers: one given answer per sample.

    Untargeted, the loss is the answer's negative log-likelihood, and the attack drives the model away from it;
    targeted, it is the log-likelihood, and the attack drives the model towards it.

    Args:
        read: maps pixels and the numbers of their samples to the negative log-likelihood of the answers, and to whether
            greedy decoding gives them.
        size: number of samples.
        targeted: whether the answers are to be said, rather than not to be said.
        stop: samples that are done once that is reached; None: attacks spend their whole budget on all.
    """

    losses: tuple[str, ...] = ("nll",)

    def __init__(
        self,
        read: Callable[[Pixels, Index], tuple[PerSample, Flags]],
        size: int,
        *,
        targeted: bool = False,
        stop: Flags | None = None,
    ) -> None:
        self._read, self.size, self._targeted, self._stop = read, size, targeted, stop

    def __call__(self, pixels: Pixels, index: Index, *, loss: str = "") -> Score:
        if loss not in ("", *self.losses):
            raise SettingsError(f"unknown loss {loss!r}{nearest(loss, self.losses)}")
        value, said = self._read(pixels, index)
        reached = said if self._targeted else ~said
        stop = torch.zeros_like(said) if self._stop is None else self._stop.to(index.device)[index].to(said.device)
        return Score(-value if self._targeted else value, reached & stop)


class Subset:
    """An objective on some of its samples.

    Args:
        objective: the whole.
        rows: positions of the samples in it.
    """

    def __init__(self, objective: Objective, rows: Index) -> None:
        self._objective, self._rows = objective, rows
        self.size, self.losses = len(rows), objective.losses
        self.stop = getattr(objective, "stop", False)
        if hasattr(objective, "classes"):
            self.classes = objective.classes

    def __call__(self, pixels: Pixels, index: Index, *, loss: str = "", **towards: Index) -> Score:
        return self._objective(pixels, self._rows.to(index.device)[index], loss=loss, **towards)
