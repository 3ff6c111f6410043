"""Projected gradient descent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch

from radapt.errors import SettingsError
from radapt.types import Index, Pixels

from ._ball import unit
from ._search import Evaluation, State
from ._search_attack import SearchAttack
from ._settings import check_momentum, flag, number

__all__ = ["ATTACK", "PGD"]


@final
@dataclass(frozen=True, kw_only=True)
class PGD(SearchAttack):
    """Projected gradient descent (Madry et al. 2018, arXiv:1706.06083, eq. 4 and section 3).

    ``x[t+1] = P(x[t] + step_size * d(grad L(x[t])))`` with ``P`` the projection onto the ball and [0, 1]; ``d`` is
    the sign for ``linf``, and the gradient over its length for ``l2``. It starts at a point drawn uniformly from the
    ball, and returns the first point that fools, else the one with the largest loss.

    With ``momentum`` mu, ``d`` is taken of ``g[t+1] = mu g[t] + grad L(x[t]) / |grad L(x[t])|_1`` instead (Dong et al.
    2018, arXiv:1710.06081, eq. 6), with ``g[0] = 0``.

    Args:
        norm: ``linf`` or ``l2``.
        eps: radius of the ball in pixel units (4/255); at most 1 for ``linf``.
        steps: steps per restart.
        restarts: how often a sample that is not fooled starts again, the first time included.
        loss: one of the objective's losses; empty for its first (cross-entropy for a classifier).
        step_size: length of a step in pixel units; by default 2.5 eps / steps, Madry's rule, with which a search can
            reach any point of the ball from any start (2 eps away at most) and still move along the boundary.
        random_start: start at a random point rather than at the clean image.
        momentum: share of the accumulated gradient that each step keeps, from 0 to 1; 0 for the gradient alone.

    Raises:
        SettingsError: a setting is out of range.
    """

    name: ClassVar[str] = "pgd"
    steps: int = 20
    step_size: float | None = None
    random_start: bool = True
    momentum: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step_size is not None:
            if isinstance(self.step_size, int | float) and self.step_size <= 0:
                raise SettingsError(
                    f"step_size must be above 0, got {self.step_size}; leave it out for 2.5 eps / steps"
                )
            number("step_size", self.step_size, 0, above=True)
        flag("random_start", self.random_start)
        check_momentum(self.momentum)
        if self.restarts > 1 and not (self.random_start or self.targeted):
            raise SettingsError("restarts without a random start are all the same; set random_start, or one restart")

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> State:
        """Random numbers for one point of the ball."""
        if not self.random_start:
            return {"radius": torch.zeros((), dtype=torch.float32, device="cpu")}
        if self.norm == "linf":
            return {"uniform": torch.rand(*shape, generator=generator, dtype=torch.float32, device="cpu")}
        normal = torch.randn(*shape, generator=generator, dtype=torch.float32, device="cpu")
        # The volume within radius r of a ball in n dimensions grows as r^n.
        return {
            "normal": normal,
            "radius": torch.rand((), generator=generator, dtype=torch.float32, device="cpu") ** (1 / normal.numel()),
        }

    def start(self, clean: Pixels, drawn: State) -> tuple[Pixels, State]:
        """A point of the ball, drawn uniformly, or the clean image; and no accumulated gradient yet."""
        state = {"accumulated": torch.zeros_like(clean)} if self.momentum else {}
        if not self.random_start:
            return clean, state
        if self.norm == "linf":
            change = 2 * drawn["uniform"] - 1
        else:
            change = unit(drawn["normal"]) * drawn["radius"][:, None, None, None]
        return self.ball.project(clean + self.eps * change, clean), state

    def step(self, clean: Pixels, current: Evaluation, state: State, iteration: Index) -> tuple[Pixels, State]:
        """``x[t+1] = P(x[t] + step_size * d(gradient))``, the gradient being the accumulated one with momentum."""
        gradient = current.gradient
        if self.momentum:
            gradient = self.momentum * state["accumulated"] + _normalised(gradient)
            state = {"accumulated": gradient}
        step_size = 2.5 * self.eps / self.steps if self.step_size is None else self.step_size
        return self.ball.project(current.points + step_size * self.ball.ascent(gradient), clean), state


def _normalised(gradient: Pixels) -> Pixels:
    """Every sample over its L1 norm, divided by its largest entry first, as in ``unit``; zero stays zero."""
    scale = gradient.abs().amax((1, 2, 3), keepdim=True)
    scaled = gradient / scale.where(scale > 0, 1.0)
    return scaled / scaled.abs().flatten(1).sum(1).clamp(min=1)[:, None, None, None]


ATTACK = PGD
