"""Auto-PGD: projected gradient descent with momentum that adapts its step size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, final

import torch
from torch import Tensor

from radapt.caching import cached
from radapt.errors import SettingsError
from radapt.types import Index, Pixels

from ._search import Evaluation, State, Stoppable
from ._search_attack import SearchAttack
from ._settings import check_growth, shown

__all__ = ["APGD", "ATTACK", "checkpoints"]

_MOMENTUM = 0.75


@final
@dataclass(frozen=True, kw_only=True)
class APGD(SearchAttack, Stoppable):
    """Auto-PGD (Croce & Hein 2020, arXiv:2003.01690, algorithm 1).

    ``z[k+1] = P(x[k] + eta d(grad L(x[k])))`` and ``x[k+1] = P(x[k] + a (z[k+1] - x[k]) + (1 - a) (x[k] - x[k-1]))``
    with ``a = 0.75`` (1 in the first step), ``eta`` first 2 eps, ``P`` and ``d`` as in PGD. At a checkpoint ``w[j]``
    the step size of a sample is halved and its search goes back to its best point when

    1. the loss rose in fewer than ``rho (w[j] - w[j-1])`` of the steps since the last checkpoint, or
    2. the last checkpoint did not halve the step size, and the best loss has not changed since.

    It starts on the boundary of the ball: at ``eps t / max|t|`` with ``t`` uniform in [-1, 1] (``linf``), or at
    ``eps t / |t|`` with ``t`` normal (``l2``), cut to [0, 1].

    Args:
        norm: ``linf`` or ``l2``.
        eps: radius of the ball in pixel units (4/255); at most 1 for ``linf``.
        steps: steps per restart.
        restarts: how often a sample that is not fooled starts again, the first time included.
        loss: one of the objective's losses; empty for its first (cross-entropy for a classifier: APGD-CE).
        rho: share of the steps that must raise the loss for the step size to stay.
        growth: where progress that grows like ``iteration ** growth`` from now on would not suffice, a search is given
            up; one sample in sixteen goes on, as a check. None: every search goes on to its end.

    Raises:
        SettingsError: a setting is out of range.
    """

    name: ClassVar[str] = "apgd"
    steps: int = 100
    rho: float = 0.75
    growth: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_growth(self.growth)
        if not isinstance(self.rho, float) or not 0 < self.rho < 1:
            raise SettingsError(f"rho must lie between 0 and 1, got {shown(self.rho)}")

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> State:
        """A direction from the clean image."""
        return {"direction": self.ball.draw(shape, generator)}

    def start(self, clean: Pixels, drawn: State) -> tuple[Pixels, State]:
        """A point on the boundary of the ball, and a memory of nothing yet."""
        direction = self.ball.unit(drawn["direction"])
        ones = clean.new_ones(len(clean))
        state = {
            "step_size": 2 * self.eps * ones,
            "previous": clean,
            "best": clean,
            "best_gradient": torch.zeros_like(clean),
            "best_loss": -torch.inf * ones,
            "loss": -torch.inf * ones,
            "rises": torch.zeros_like(ones),
            "halved": torch.zeros_like(ones, dtype=torch.bool),
            "mark": -torch.inf * ones,
        }
        return self.ball.project(clean + self.eps * direction, clean), state

    def step(self, clean: Pixels, current: Evaluation, state: State, iteration: Index) -> tuple[Pixels, State]:
        """Remember the point, halve the step size where it is due, and take a step with momentum."""
        first = iteration == 0
        better = current.loss > state["best_loss"]
        best = torch.where(_wide(better), current.points, state["best"])
        best_gradient = torch.where(_wide(better), current.gradient, state["best_gradient"])
        best_loss = torch.where(better, current.loss, state["best_loss"])
        rises = state["rises"] + (~first & (current.loss > state["loss"]))
        mark = torch.where(first, current.loss, state["mark"])

        span = _spans(self.steps, clean.device)[iteration]
        due = span > 0
        stuck = (rises < self.rho * span) | (~state["halved"] & (best_loss == mark))
        halve = due & stuck
        step_size = torch.where(halve, state["step_size"] / 2, state["step_size"])
        points = torch.where(_wide(halve), best, current.points)
        gradient = torch.where(_wide(halve), best_gradient, current.gradient)

        previous = torch.where(_wide(first), points, state["previous"])
        share = _wide(torch.where(first, 1.0, _MOMENTUM)).to(clean)
        ahead = self.ball.project(points + _wide(step_size) * self.ball.ascent(gradient), clean)
        ahead = self.ball.project(points + share * (ahead - points) + (1 - share) * (points - previous), clean)
        return ahead, {
            "step_size": step_size,
            "previous": points,
            "best": best,
            "best_gradient": best_gradient,
            "best_loss": best_loss,
            "loss": torch.where(halve, best_loss, current.loss),
            "rises": torch.where(due, 0.0, rises),
            "halved": torch.where(due, halve, state["halved"]),
            "mark": torch.where(due, best_loss, mark),
        }


def checkpoints(steps: int) -> list[int]:
    """Iterations at which the step size is reconsidered, 0 included (Croce & Hein 2020, section 3.2).

    ``w[j] = ceil(p[j] steps)`` with ``p[0] = 0``, ``p[1] = 0.22``, ``p[j+1] = p[j] + max(p[j] - p[j-1] - 0.03, 0.06)``.
    """
    # In whole hundredths: in floating point, 0.41 * 100 may round up to 42.
    shares, gap = [0], 22
    while shares[-1] + gap <= 100:
        shares.append(shares[-1] + gap)
        gap = max(gap - 3, 6)
    return sorted({-(-share * steps // 100) for share in shares})


@cached(maxsize=128)
def _spans(steps: int, device: torch.device) -> Tensor:
    """For every iteration the distance to the checkpoint before, 0 where there is no checkpoint."""
    spans = torch.zeros(steps + 1, dtype=torch.float32, device="cpu")
    for previous, checkpoint in pairwise(checkpoints(steps)):
        spans[checkpoint] = checkpoint - previous
    return spans.to(device)


def _wide(flags: Tensor) -> Tensor:
    return flags[:, None, None, None]


ATTACK = APGD
