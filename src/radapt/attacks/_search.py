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
    """Points and what the objective says about them; ``gradient`` is empty in a search without gradients."""

    points: Pixels
    loss: PerSample
    fooled: Flags
    gradient: Tensor


class Search(ABC):
    """What an attack supplies to the active set; every method is vectorised over slots, one row per slot.

    A row of a result may depend on the same row of the arguments only.
    """

    name: ClassVar[str]
    needs_gradient: ClassVar[bool] = True
    stops_when_fooled: ClassVar[bool] = True
    steps: int
    restarts: int
    loss: str

    @abstractmethod
    def draw(self, shape: Sequence[int], generator: torch.Generator) -> State:
        """All random numbers of one sample (of shape 3 x height x width) and one restart, on the CPU."""

    @abstractmethod
    def start(self, clean: Pixels, drawn: State) -> tuple[Pixels, State]:
        """First points and first state; rows that are not starting have ``drawn`` zero and are discarded."""

    @abstractmethod
    def step(self, clean: Pixels, at: Evaluation, state: State, iteration: Index) -> tuple[Pixels, State]:
        """Next points and next state, given the points reached after ``iteration`` (at most ``steps``) steps."""

    def value(self, clean: Pixels, at: Evaluation) -> PerSample:
        """What the best point is the largest of, among equally fooled ones."""
        return at.loss
