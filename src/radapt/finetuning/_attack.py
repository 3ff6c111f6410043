"""The attack of a training: PGD, with what the authors' codes do otherwise as settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, final

import torch

from radapt.attacks import Evaluation, SearchAttack, State
from radapt.attacks.pgd import PGD
from radapt.errors import SettingsError
from radapt.numbers import number
from radapt.types import Index, PerSample, Pixels

__all__ = ["TrainingPGD"]


@final
@dataclass(frozen=True, kw_only=True)
class TrainingPGD(SearchAttack):
    """PGD from a random start; with ``momentum`` and ``last`` as RobustVLM's training takes it.

    ``v[t+1] = sign(momentum v[t] + sign(grad L(x[t])))`` and ``x[t+1] = P(x[t] + step_size v[t+1])`` with ``v[0] = 0``
    and ``P`` the projection onto the l-inf ball and [0, 1]. As ``v`` is cut to its sign at every step, momentum below 1
    decides only where a gradient is exactly zero. Without it, this is :class:`radapt.attacks.pgd.PGD`, with the same
    random numbers.

    Args:
        eps: l-inf radius in pixel units.
        steps: steps.
        step_size: length of a step in pixel units; None: 2.5 eps / steps.
        momentum: share of the last direction that each step keeps, at least 0 and below 1.
        last: whether the last point is returned, rather than the one with the largest loss.

    Raises:
        SettingsError: a setting is out of range.
    """

    name: ClassVar[str] = "pgd"
    step_size: float | None = None
    momentum: float = 0.0
    last: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self._plain
        number("attack_momentum", self.momentum, 0, 1)
        if self.momentum == 1:
            raise SettingsError("attack_momentum must be below 1: a step against the last direction would be none")

    @cached_property
    def _plain(self) -> PGD:
        return PGD(eps=self.eps, steps=self.steps, step_size=self.step_size)

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> State:
        """Random numbers for one point of the ball."""
        return self._plain.draw(shape, generator)

    def start(self, clean: Pixels, drawn: State) -> tuple[Pixels, State]:
        """A point of the ball, drawn uniformly, and no direction yet."""
        points, state = self._plain.start(clean, drawn)
        return points, state | ({"velocity": torch.zeros_like(clean)} if self.momentum else {})

    def step(self, clean: Pixels, current: Evaluation, state: State, iteration: Index) -> tuple[Pixels, State]:
        """One step along the sign of the gradient, or of what momentum makes of it."""
        if not self.momentum:
            return self._plain.step(clean, current, state, iteration)
        velocity = (self.momentum * state["velocity"] + current.gradient.sign()).sign()
        moved, _ = self._plain.step(clean, current._replace(gradient=velocity), {}, iteration)
        return moved, {"velocity": velocity}

    def _view(self, points: Pixels, state: State, iteration: Index) -> Pixels:
        # What is not the point itself is no candidate: of such a search, the last point alone is judged.
        return points.clone() if self.last else points

    def _value(self, clean: Pixels, current: Evaluation) -> PerSample:
        if not self.last:
            return current.loss
        # The last point is better than the clean image, whatever its loss; those before it were views, with none.
        judged = (current.points != clean).flatten(1).any(1) & ~current.loss.isneginf()
        return torch.where(judged, 0.0, -torch.inf).to(current.loss)
