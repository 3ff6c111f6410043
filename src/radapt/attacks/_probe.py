"""One pass of an objective: what an attack may learn at some points, checked for shape and gradient."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from radapt.attacks._objective import Objective, Score
from radapt.attacks._outlook import margins
from radapt.attacks._search import Evaluation, Search, State
from radapt.errors import InputError, RadaptError
from radapt.types import Index, Pixels

__all__ = ["Probe", "out_of_memory"]

_SCALE = 2.0**10
"""Factor of the loss in float16, where the gradients of pixels would vanish below 6e-8."""


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, a device's or the host's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


class Probe:
    """Evaluates points for a search.

    Args:
        search: the attack's own part, which says what it needs.
        objective: what is maximised.
        keys: names of the samples, for messages.
        precision: what gradients are computed in (``torch.bfloat16``, ``torch.float16``); None: as the model is.
    """

    def __init__(
        self, search: Search, objective: Objective, keys: Sequence[str], precision: torch.dtype | None = None
    ) -> None:
        self.search, self.keys, self.precision = search, keys, precision
        self._objective: Any = objective
        # An objective that never says fooled wants whole searches, and a view says little about its point.
        plain = type(search).view is Search.view
        self.gives_up = search.growth is not None and plain and getattr(objective, "stop", False)

    def judge(self, points: Pixels, index: Index) -> Evaluation:
        """Loss and verdict, by a forward pass; the loss of a targeted search is the margin of the best wrong class."""
        with torch.no_grad():
            score = self._score(points, index, "" if self.search.targeted else self.search.loss)
        at = Evaluation(points, score.loss, score.fooled, points.new_empty(0), score.logits)
        return _by_margin(at, self._logits(score), None) if self.search.targeted else at

    def learn(
        self, points: Pixels, index: Index, target: Index, label: Index | None, state: State, iteration: Index
    ) -> tuple[Evaluation, Evaluation]:
        """Loss, verdict and what gradients the search needs; and the same with the loss that ``judge`` gives.

        ``target`` and ``label`` are for targeted searches; ``label`` is None in any other. ``state`` and ``iteration``
        are for the search's view; a view that is not the points themselves has no verdict, and the least loss.
        """
        needs, towards = self.search.needs_gradient, {} if label is None else {"target": target}
        leaves = points.detach().requires_grad_(needs)
        device = points.device.type
        mixed = nullcontext() if self.precision is None else torch.autocast(device, self.precision)
        with torch.set_grad_enabled(needs), mixed:
            seen = self.search.view(leaves, state, iteration)
            score = self._score(seen, index, self.search.loss, **towards)
            gradient = self._gradient(score, leaves) if needs else points.new_empty(0)
        logits = None if score.logits is None else score.logits.detach()
        at = Evaluation(leaves.detach(), score.loss.detach(), score.fooled, gradient, logits)
        if seen is not leaves:
            at = at._replace(fooled=torch.zeros_like(at.fooled))
            return at, at._replace(loss=torch.full_like(at.loss, -torch.inf))
        return at, at if label is None else _by_margin(at, self._logits(score).detach(), label)

    def _gradient(self, score: Score, points: Pixels) -> Tensor:
        outputs = self._logits(score).unbind(1) if self.search.needs_jacobian else (score.loss,)
        half, gradients = self.precision == torch.float16, []
        for done, output in enumerate(outputs, 1):
            gradient = None
            if output.requires_grad:
                more = done < len(outputs)
                total = output.sum() * (_SCALE if half else 1)
                (gradient,) = torch.autograd.grad(total, points, allow_unused=True, retain_graph=more)
            if gradient is None:
                raise InputError(
                    f"the loss has no gradient with respect to the pixels, which {self.search.name} needs; compute it "
                    "with differentiable operations and without torch.no_grad, or use an attack that needs no gradient"
                )
            gradients.append(gradient / _SCALE if half else gradient)
        return torch.stack(gradients, 1) if self.search.needs_jacobian else gradients[0]

    def _logits(self, score: Score) -> Tensor:
        if score.logits is None:
            raise InputError(f"{self.search.name} needs an objective whose scores have logits: that of a classifier")
        return score.logits

    def _score(self, points: Pixels, index: Index, loss: str, **towards: Index) -> Score:
        try:
            score: Score = self._objective(points, index, loss=loss, **towards)
        except RadaptError:
            raise
        except Exception as error:
            if out_of_memory(error):
                raise
            names = ", ".join(repr(self.keys[sample]) for sample in sorted(set(index.tolist()))[:8])
            raise InputError(f"the objective failed on samples {names}: {type(error).__name__}: {error}") from error
        loss_, fooled = score.loss, score.fooled
        if loss_.shape != (len(points),) or fooled.shape != loss_.shape or fooled.dtype != torch.bool:
            raise InputError(
                f"an objective must give one loss and one flag per sample, got shapes {tuple(loss_.shape)} and "
                f"{tuple(fooled.shape)} ({fooled.dtype}) for {len(points)} samples"
            )
        return Score(loss_.float().to(points.device), fooled.to(points.device), score.logits)


def _by_margin(at: Evaluation, logits: Tensor, label: Index | None) -> Evaluation:
    """The evaluation with the margin of the best other class as its loss, which is comparable between targets."""
    label = logits.argmax(1) if label is None else label.to(logits.device)
    return at._replace(loss=margins(logits, label).to(at.points.device))
