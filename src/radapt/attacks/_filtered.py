"""Auto-PGD on the coefficients of a perturbation that passes through a filter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from radapt.types import Index, Pixels

from ._search import Evaluation, State
from ._search_attack import SearchAttack
from ._settings import LARGEST
from .apgd import APGD

__all__ = ["FilteredAPGD"]


@dataclass(frozen=True, kw_only=True)
class FilteredAPGD(SearchAttack, ABC):
    """``x = P(x0 + G w)`` with a symmetric linear filter ``G`` and ``P`` the projection onto the ball and [0, 1].

    The coefficients ``w`` take APGD's steps, along ``G grad L(x)``, in a ball of their own around zero, larger than
    that of the images by what the filter takes away.

    Args:
        norm, eps, steps, restarts, loss: as in every attack.

    Raises:
        SettingsError: a setting is out of range.
    """

    steps: int = 100

    @abstractmethod
    def _widening(self, size: Sequence[int]) -> float:
        """Radius of the coefficients' ball over eps, for images of (height, width)."""

    @abstractmethod
    def _filter(self, images: Pixels) -> Pixels:
        """The filter; symmetric, so that it is its own gradient."""

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> State:
        """A direction for the coefficients."""
        return _coefficients(self, *shape[-2:]).draw(shape, generator)

    def start(self, clean: Pixels, drawn: State) -> tuple[Pixels, State]:
        """Coefficients on the boundary of their ball, filtered; the state has the unfiltered image."""
        unfiltered, state = _coefficients(self, *clean.shape[-2:]).start(clean, drawn)
        return self._placed(clean, unfiltered, state)

    def step(self, clean: Pixels, current: Evaluation, state: State, iteration: Index) -> tuple[Pixels, State]:
        """APGD's step on the coefficients, whose gradient is the filtered one, as the filter is symmetric."""
        # A point from elsewhere, a warm start, has no coefficients: its own change stands in for them.
        foreign = (current.points != state["points"]).flatten(1).any(1)[:, None, None, None]
        unfiltered = torch.where(foreign, current.points, state["unfiltered"])
        inner = current._replace(points=unfiltered, gradient=self._filter(current.gradient))
        apgd = _coefficients(self, *clean.shape[-2:])
        return self._placed(clean, *apgd.step(clean, inner, state, iteration))

    def _placed(self, clean: Pixels, unfiltered: Pixels, state: State) -> tuple[Pixels, State]:
        points = self.ball.project(clean + self._filter(unfiltered - clean), clean)
        return points, {**state, "unfiltered": unfiltered, "points": points}


@lru_cache(maxsize=64)
def _coefficients(attack: FilteredAPGD, height: int, width: int) -> APGD:
    """The search of an attack for the coefficients, for images of a size; made once."""
    radius, largest = attack._widening((height, width)) * attack.eps, 1.0 if attack.norm == "linf" else LARGEST
    return APGD(norm=attack.norm, eps=min(radius, largest), steps=attack.steps)
