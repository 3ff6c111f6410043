"""One pass of an objective: what an attack may learn at some points, checked for shape and gradient."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from radapt.errors import InputError, RadaptError
from radapt.types import Index, Labels, Logits, Pixels

from ._losses import margin
from ._objective import Objective, Score, labels_in
from ._search import Evaluation, Search, Stoppable
from ._slots import SlotState

__all__ = ["SCALE", "Evaluator", "out_of_memory"]

SCALE = 2.0**10
"""Factor of the loss: in float16, of autocast or of the model, the gradients of pixels would vanish below 6e-8."""


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, a device's or the host's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


class Evaluator:
    """Evaluates points for a search.

    Args:
        search: the attack, which says what it needs.
        objective: what is maximised.
        keys: names of the samples, for messages.
        precision: what gradients are computed in (``torch.bfloat16``, ``torch.float16``); None: as the model is.
        scale: factor of the loss, by which gradients are divided again.
    """

    def __init__(
        self,
        search: Search,
        objective: Objective,
        keys: Sequence[str],
        precision: torch.dtype | None = None,
        scale: float = SCALE,
    ) -> None:
        self.search, self.keys, self.precision = search, keys, precision
        self._objective: Any = objective
        self._scale = scale

    @property
    def labels(self) -> Labels | None:
        """The class that each sample is to lose, where the objective says it."""
        return labels_in(self._objective)

    @property
    def passes(self) -> int:
        """Forward passes of an image through the model that one pass of the objective is."""
        return int(self._objective.passes_per_call)

    @property
    def backwards(self) -> int:
        """Backward passes of an image in :meth:`gradient_pass`: one per logit where the search needs the Jacobian."""
        if not self.search.needs_gradient:
            return 0
        return self.passes * ((self._objective.classes or 1) if self.search._needs_jacobian else 1)

    @property
    def may_stop_early(self) -> bool:
        """Whether hopeless searches may be given up: not where whole searches are wanted, and there must be logits.

        Nor where the model sees the points through a view, which says little about them.
        """
        plain = type(self.search)._view is Search._view
        wanted = self._objective.stop and self._objective.classes is not None
        return isinstance(self.search, Stoppable) and plain and wanted

    def forward_pass(self, points: Pixels, index: Index, label: Index | None = None) -> Evaluation:
        """Loss and verdict without gradients; the loss of a targeted search is the margin of the best wrong class.

        Args:
            points: points to evaluate.
            index: positions of their samples.
            label: the classes that they are to lose; None: those that they have.
        """
        with torch.no_grad():
            score = self._score(points, index, "" if self.search.targeted else self.search.loss)
        evaluation = Evaluation(points, score.loss, score.fooled, points.new_empty(0), score.logits)
        return _with_margin(evaluation, self._logits(score), label) if self.search.targeted else evaluation

    def gradient_pass(self, slots: SlotState) -> tuple[Evaluation, Evaluation]:
        """Loss, verdict and what gradients the search needs; and the same with the loss of :meth:`forward_pass`.

        A view that is not the points themselves has no verdict, and the least loss.
        """
        search, points = self.search, slots.points
        needs_gradient, towards = search.needs_gradient, {"target": slots.target} if search.targeted else {}
        leaves = points.detach().requires_grad_(needs_gradient)
        mixed = nullcontext() if self.precision is None else torch.autocast(points.device.type, self.precision)
        with torch.set_grad_enabled(needs_gradient), mixed:
            view = search._view(leaves, slots.state, slots.iteration)
            score = self._score(view, slots.sample, search.loss, **towards)
            gradient = self._gradient(score, leaves) if needs_gradient else points.new_empty(0)
        logits = None if score.logits is None else score.logits.detach()
        # What overflows in half precision only is no answer of the model's own.
        fooled = score.fooled if self.precision is None else score.fooled & ~score.loss.isnan()
        evaluation = Evaluation(leaves.detach(), score.loss.detach(), fooled, gradient, logits)
        if view is not leaves:
            evaluation = evaluation._replace(fooled=torch.zeros_like(evaluation.fooled))
            return evaluation, evaluation._replace(loss=torch.full_like(evaluation.loss, -torch.inf))
        if not search.targeted:
            return evaluation, evaluation
        return evaluation, _with_margin(evaluation, self._logits(score).detach(), slots.label)

    def _gradient(self, score: Score, points: Pixels) -> Tensor:
        outputs = self._logits(score).unbind(1) if self.search._needs_jacobian else (score.loss,)
        gradients = []
        for number, output in enumerate(outputs, 1):
            gradient = None
            if output.requires_grad:
                more = number < len(outputs)
                gradient = self._differentiated(output.sum() * self._scale, points, more)
            if gradient is None:
                raise InputError(
                    f"the loss has no gradient with respect to the pixels, which {self.search.name} needs; compute it "
                    "with differentiable operations and without torch.no_grad, wrap a step that has no gradient (JPEG, "
                    "rounding) in radapt.attacks.bpda, or take an attack that needs none, such as square"
                )
            gradients.append(gradient / self._scale)
        return torch.stack(gradients, 1) if self.search._needs_jacobian else gradients[0]

    def _differentiated(self, value: Tensor, points: Pixels, again: bool) -> Tensor | None:
        """The gradient of a value; ``again``: another one is taken through the same graph."""
        try:
            return torch.autograd.grad(value, points, allow_unused=True, retain_graph=again)[0]
        except Exception as error:
            if out_of_memory(error) or isinstance(error, RadaptError):
                raise
            raise InputError(
                f"the gradient of the objective, which {self.search.name} needs, cannot be computed: "
                f"{type(error).__name__}: {error}. Take differentiable operations that change nothing in place, give "
                "radapt.attacks.bpda a backward of the shape of the images, or take square, which needs no gradient"
            ) from error

    def _logits(self, score: Score) -> Logits:
        if score.logits is None:
            raise InputError(f"{self.search.name} needs an objective whose scores have logits: that of a classifier")
        return score.logits

    def _score(self, points: Pixels, index: Index, loss: str, **towards: Index) -> Score:
        try:
            # Copies, which a model may overwrite.
            score: Score = self._objective(points.clone(), index.clone(), loss=loss, **towards)
        except RadaptError:
            raise
        except Exception as error:
            if out_of_memory(error):
                raise
            names = ", ".join(repr(self.keys[sample]) for sample in sorted(set(index.tolist()))[:8])
            raise InputError(f"the objective failed on samples {names}: {type(error).__name__}: {error}") from error
        value, fooled = score.loss, score.fooled
        if value.shape != (len(points),) or fooled.shape != value.shape or fooled.dtype != torch.bool:
            raise InputError(
                f"an objective must give one loss and one flag per sample, got shapes {tuple(value.shape)} and "
                f"{tuple(fooled.shape)} ({fooled.dtype}) for {len(points)} samples"
            )
        return Score(value.float().to(points.device), fooled.to(points.device), score.logits)


def _with_margin(evaluation: Evaluation, logits: Logits, label: Index | None) -> Evaluation:
    """The evaluation with the margin of the best other class as its loss, which is comparable between targets."""
    label = logits.argmax(1) if label is None else label.to(logits.device)
    return evaluation._replace(loss=margin(logits, label).to(evaluation.points.device))
