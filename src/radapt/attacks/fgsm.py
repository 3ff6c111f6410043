"""The fast gradient method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch

from radapt.errors import SettingsError
from radapt.types import Index, Pixels

from ._search import Evaluation, State
from ._search_attack import SearchAttack

__all__ = ["ATTACK", "FGSM"]


@final
@dataclass(frozen=True, kw_only=True)
class FGSM(SearchAttack):
    """Fast gradient sign method (Goodfellow et al. 2015, arXiv:1412.6572, section 4).

    ``x' = P(x + eps d(grad L(x)))`` with ``P`` the projection onto the ball and [0, 1]; ``d`` is the sign for
    ``linf``, and the gradient over its length for ``l2``. One step, from the clean image. With more, each of length
    eps / steps, it is the basic iterative method (Kurakin et al. 2017, arXiv:1607.02533, section 2.2). Nothing is
    random.

    Args:
        norm: ``linf`` or ``l2``.
        eps: radius of the ball in pixel units (4/255); at most 1 for ``linf``.
        steps: steps that the way to the boundary is cut into.
        restarts: more than one for a targeted loss only, which has a class of its own in each.
        loss: one of the objective's losses; empty for its first (cross-entropy for a classifier).

    Raises:
        SettingsError: a setting is out of range.
    """

    name: ClassVar[str] = "fgsm"
    steps: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.restarts > 1 and not self.targeted:
            raise SettingsError("restarts of fgsm are all the same; leave them out, or use pgd with its random starts")

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> State:
        """Nothing."""
        return {}

    def start(self, clean: Pixels, drawn: State) -> tuple[Pixels, State]:
        """The clean image."""
        return clean, {}

    def step(self, clean: Pixels, current: Evaluation, state: State, iteration: Index) -> tuple[Pixels, State]:
        """``x[t+1] = P(x[t] + eps / steps * d(grad L(x[t])))``."""
        step = self.eps / self.steps * self.ball.ascent(current.gradient)
        return self.ball.project(current.points + step, clean), state


ATTACK = FGSM
