"""What an attack supplies: where a search starts, and how it goes from point to point."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from radapt.types import Flags, Index, PerSample, Pixels

__all__ = ["Evaluation", "Search", "State"]

State = dict[str, Tensor]
"""Whatever a search remembers, one row per slot."""


class Evaluation(NamedTuple):
    """Points and what the objective says about them.

    ``gradient`` is of the loss, slots x 3 x height x width; of every logit, slots x classes x 3 x height x width, in a
    search that needs the Jacobian; and empty in a search without gradients. ``logits`` are there if the objective
    gives them.
    """

    points: Pixels
    loss: PerSample
    fooled: Flags
    gradient: Tensor
    logits: Tensor | None = None


class Search(ABC):
    """What an attack supplies to the active set; every method is vectorised over slots, one row per slot.

    A row of a result may depend on the same row of the arguments only.

    A search whose ``loss`` ends in ``-targeted`` goes in its restarts for one wrong class after the other, from the
    most likely one on the clean image down; ``drawn`` then has ``label`` and ``target``, one class number per row.

    A search with a ``growth`` is given up where it would not succeed although its progress went on growing like
    ``iteration ** growth``. How large it must be hangs on how even the progress is: that of a random search leaps.
    """

    name: ClassVar[str]
    needs_gradient: ClassVar[bool] = True
    needs_jacobian: ClassVar[bool] = False
    stops_when_fooled: ClassVar[bool] = True
    steps: int
    restarts: int
    loss: str
    growth: float | None = None

    @property
    def targeted(self) -> bool:
        """Whether each restart goes for a class of its own."""
        return self.loss.endswith("-targeted")

    @abstractmethod
    def draw(self, shape: Sequence[int], generator: torch.Generator) -> State:
        """All random numbers of one sample (of shape 3 x height x width) and one restart, on the CPU."""

    @abstractmethod
    def start(self, clean: Pixels, drawn: State) -> tuple[Pixels, State]:
        """First points and first state; rows that are not starting have ``drawn`` zero and are discarded."""

    @abstractmethod
    def step(self, clean: Pixels, at: Evaluation, state: State, iteration: Index) -> tuple[Pixels, State]:
        """Next points and next state, given the points reached after ``iteration`` (at most ``steps``) steps."""

    def view(self, points: Pixels, state: State, iteration: Index) -> Pixels:
        """What the objective sees of the points in a pass with gradients, which flow back through it.

        What such a pass says of a view is no verdict on the point: a search that transforms its points keeps and
        returns only what a plain pass has judged, the last point of each restart.
        """
        return points

    def succeeded(self, clean: Pixels, at: Evaluation) -> Flags:
        """Which points count as a success; a search that leaves the ball on its way must look at the distance too."""
        return at.fooled

    def value(self, clean: Pixels, at: Evaluation) -> PerSample:
        """What the best point is the largest of, among equally fooled ones."""
        return at.loss

    def reach(self, clean: Pixels, at: Evaluation, margin: PerSample, clean_margin: PerSample) -> PerSample:
        """How far points have come on the way to a success: 0 at the clean image, 1 or more at a success.

        By default the share of the clean image's margin (to the class gone for, or the best wrong one) that is gone.
        """
        return 1 - margin / clean_margin
