"""What an attack maximises: a function of pixels that hides the model, the labels and the task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch

from radapt.classifier import AnyClassifier
from radapt.errors import InputError, SettingsError
from radapt.registry import nearest
from radapt.types import Embeddings, Flags, Index, Labels, Logits, PerSample, Pixels

from ._inputs import TensorLike, labels_of
from ._losses import LOSSES, finite, wrong

__all__ = [
    "AnswerObjective",
    "ClassificationObjective",
    "EmbeddingObjective",
    "Objective",
    "Score",
    "Subset",
    "checked",
    "labels_in",
]


class Score(NamedTuple):
    """Result of one forward pass: the loss that the attack maximises, and whether each sample is fooled.

    A classifier adds its logits, batch x classes: targeted attacks take their classes from them.
    """

    loss: PerSample
    fooled: Flags
    logits: Logits | None = None


class Objective(Protocol):
    """Maps pixels of chosen samples to per-sample loss and verdict, in one forward pass.

    Derive from this class to write an objective: ``stop`` and ``classes`` then have defaults. ``index`` says which
    samples the pixels belong to (positions in ``0 .. size - 1``), so that an attack may stream samples in any order and
    any grouping. ``loss`` names one of ``losses``; empty is the first. The losses ``ce-targeted``, ``margin-targeted``
    and ``dlr-targeted`` are called with one more keyword, ``target``: the class to go for, one per row. They take the
    class that a sample is to lose from ``labels``, where an objective has them, else from the clean image.

    Attributes:
        size: number of samples.
        losses: names of the losses; the first is the default.
        stop: whether it only matters which samples are fooled. Where it does not, as in adversarial training, whole
            searches are wanted, and none is given up early. A sample that a score calls fooled is done in any case.
        classes: number of classes, that is of logits in a score; None where scores have no logits.
        passes_per_call: how often an image goes through the model in one call.
    """

    size: int
    losses: tuple[str, ...]
    stop: bool = False
    classes: int | None = None
    passes_per_call: int = 1

    def __call__(self, pixels: Pixels, index: Index, *, loss: str = "") -> Score: ...


def checked(objective: Any) -> Objective:
    """An objective that has what attacks ask of one.

    Raises:
        InputError: it lacks an attribute.
    """
    lacking = [
        name for name in ("size", "losses", "stop", "classes", "passes_per_call") if not hasattr(objective, name)
    ]
    if lacking:
        raise InputError(
            f"the objective {type(objective).__name__} lacks {', '.join(lacking)}; derive it from "
            "radapt.attacks.Objective, which has defaults for all but size and losses"
        )
    return objective  # type: ignore[no-any-return]


def labels_in(objective: Objective) -> Labels | None:
    """The labels of an objective that has some."""
    labels: Labels | None = getattr(objective, "labels", None)
    return labels


def _known(loss: str, losses: tuple[str, ...]) -> str:
    """The name of a loss, the first one for an empty name."""
    if loss and loss not in losses:
        raise SettingsError(f"unknown loss {loss!r}{nearest(loss, losses)}")
    return loss or losses[0]


class ClassificationObjective:
    """Objective of a classifier: fooled when the largest logit is not the label's, or when logits are NaN.

    Classes that a model excludes, with a logit of -inf or the like, count for nothing; where too few are left for a
    ``dlr`` loss, the divisor is 1.

    With ``z`` the logits, ``y`` the label, ``t`` a target and ``s`` the logits from the largest down, the losses are

    - ``ce``: cross-entropy, ``log sum exp z - z[y]``;
    - ``margin``: ``max of the others - z[y]`` (Carlini & Wagner 2017);
    - ``dlr``: ``margin / (s[1] - s[3])`` (Croce & Hein 2020, eq. 6), from three classes on;
    - ``ce-targeted``: ``z[t] - log sum exp z``;
    - ``margin-targeted``: ``z[t] - z[y]``;
    - ``dlr-targeted``: ``margin-targeted / (s[1] - (s[3] + s[4]) / 2)`` (eq. 7), from four classes on.

    Args:
        logits: maps pixels in [0, 1] to logits, differentiably: see :class:`radapt.classifier.AnyClassifier`.
        labels: true classes of all samples: whole numbers in a tensor, an array or a list, or one-hot rows.
        classes: number of classes.
        stop: whether a misclassified sample counts as fooled and is done; without, an attack takes all its steps on
            every sample, as adversarial training needs it.

    Raises:
        InputError: labels are of another form or out of range, or there are fewer than two classes.
    """

    passes_per_call: int = 1

    def __init__(self, logits: Callable[[Pixels], Any], labels: TensorLike, classes: int, *, stop: bool = True) -> None:
        if classes < 2:
            raise InputError(f"a classifier needs at least two classes, got {classes}")
        self._logits = logits if isinstance(logits, AnyClassifier) else AnyClassifier(logits)
        self.labels: Labels = labels_of(labels, classes=classes)
        self.size, self.stop = len(self.labels), stop
        self.classes: int | None = classes
        self.losses = tuple(name for name, loss in LOSSES.items() if classes >= loss.least_classes)

    def __call__(self, pixels: Pixels, index: Index, *, loss: str = "", target: Index | None = None) -> Score:
        logits = finite(self._logits(pixels))
        self.labels = self.labels.to(index.device)  # once: at every pass, the host would wait for the copy
        labels = self.labels[index].to(logits.device)
        name = _known(loss, self.losses)
        if target is None and LOSSES[name].targeted:
            raise SettingsError(f"the loss {name!r} needs a target class per sample")
        value = LOSSES[name].value(logits, labels, None if target is None else target.to(logits.device))
        return Score(value, wrong(logits, labels).detach() & self.stop, logits)


class EmbeddingObjective:
    """Label-free objective: squared L2 distance of the embedding from a reference (FARE, Schlarmann 2024, eq. 3).

    No sample is ever fooled, so an attack takes all its steps.

    Args:
        encode: maps pixels in [0, 1] to embeddings, differentiably.
        reference: embeddings of the clean samples.
    """

    losses: tuple[str, ...] = ("l2",)
    passes_per_call: int = 1
    stop: bool = False
    classes: int | None = None

    def __init__(self, encode: Callable[[Pixels], Embeddings], reference: Embeddings) -> None:
        self._encode, self.reference, self.size = encode, reference, len(reference)

    def __call__(self, pixels: Pixels, index: Index, *, loss: str = "") -> Score:
        _known(loss, self.losses)
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
        targeted: whether the model is to give the answers, rather than not to give them.
        stop: samples that are done once that is reached; None: attacks take all their steps on all.
    """

    losses: tuple[str, ...] = ("nll",)
    passes_per_call: int = 1
    classes: int | None = None

    def __init__(
        self,
        read: Callable[[Pixels, Index], tuple[PerSample, Flags]],
        size: int,
        *,
        targeted: bool = False,
        stop: Flags | None = None,
    ) -> None:
        self._read, self.size, self._targeted, self._decisive = read, size, targeted, stop
        self.stop = stop is not None

    def __call__(self, pixels: Pixels, index: Index, *, loss: str = "") -> Score:
        _known(loss, self.losses)
        value, given = self._read(pixels, index)
        reached = given if self._targeted else ~given
        if self._decisive is None:
            decisive = torch.zeros_like(given)
        else:
            self._decisive = self._decisive.to(index.device)
            decisive = self._decisive[index].to(given.device)
        return Score(-value if self._targeted else value, reached & decisive)


class Subset:
    """An objective on some of its samples.

    Args:
        objective: the whole.
        rows: positions of the samples in it.
    """

    def __init__(self, objective: Objective, rows: Index) -> None:
        self._objective, self._rows = checked(objective), rows
        self.size, self.losses = len(rows), objective.losses
        self.stop, self.classes, self.passes_per_call = objective.stop, objective.classes, objective.passes_per_call
        labels = labels_in(objective)
        self.labels = None if labels is None else labels[rows.to(labels.device)]

    def __call__(self, pixels: Pixels, index: Index, *, loss: str = "", **towards: Index) -> Score:
        self._rows = self._rows.to(index.device)
        return self._objective(pixels, self._rows[index], loss=loss, **towards)
