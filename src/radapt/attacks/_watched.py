"""An attack that somebody watches, and may end."""

from __future__ import annotations

from collections.abc import Callable

from radapt.types import Index, Pixels

from ._objective import Objective, Score, checked, labels_in

__all__ = ["Watched"]


class Watched(Objective):
    """An objective that shows every pass of an attack to somebody, who may end it.

    The attack itself is the same, bit for bit. It makes passes for its steps, and some before and after them: on the
    clean images, and to judge what it has found.

    Args:
        objective: what is maximised.
        watch: called after each pass with the pixels, the numbers of their samples and the score, all three without
            gradients, and with whether the attack takes the gradient of this pass. A ``RadaptError`` that it raises
            ends the attack, and comes out of it as it is.
    """

    def __init__(self, objective: Objective, watch: Callable[[Pixels, Index, Score, bool], None]) -> None:
        self._objective, self._watch = checked(objective), watch
        self.size, self.losses = objective.size, objective.losses
        self.stop, self.classes, self.passes_per_call = objective.stop, objective.classes, objective.passes_per_call
        self.labels = labels_in(objective)

    def __call__(self, pixels: Pixels, index: Index, *, loss: str = "", **towards: Index) -> Score:
        """One pass of the objective, which is then shown."""
        score = self._objective(pixels, index, loss=loss, **towards)
        shown = Score(score.loss.detach(), score.fooled, None if score.logits is None else score.logits.detach())
        self._watch(pixels.detach(), index, shown, score.loss.requires_grad)
        return score
