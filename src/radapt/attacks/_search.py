"""The contract of an attack that is one search: where it starts, and how it goes from point to point."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from radapt.types import Flags, Index, PerSample, Pixels

from ._losses import is_targeted

__all__ = ["Evaluation", "Search", "State", "Stoppable", "is_broken"]

State = dict[str, Tensor]
"""What a search draws or remembers, one row per sample."""


class Evaluation(NamedTuple):
    """Points, and what the objective gives for them.

    ``gradient`` is that of the loss, batch x 3 x height x width; of every logit, batch x classes x 3 x height x width,
    in a search that needs the Jacobian; and empty in a search without gradients. ``logits`` are those of a classifier.
    """

    points: Pixels
    loss: PerSample
    fooled: Flags
    gradient: Tensor
    logits: Tensor | None = None


class Search(ABC):
    """What the writer of an attack implements: a ``name`` and three methods, :meth:`draw`, :meth:`start`, :meth:`step`.

    Each works on a batch of samples, one per row, and a row of a result may depend on the same row of the arguments
    only: samples come and go between any two steps, and a sample's result must not depend on its neighbours. The
    library does the rest: it runs the model, keeps every sample's best point, and counts restarts and passes.

    Further members may be overridden. Those with a leading underscore are between an attack and the library, and no
    business of its users:

    - ``needs_gradient``: False for a search by forward passes alone;
    - ``_needs_jacobian``: the gradient of every logit rather than of the loss;
    - ``_stops_when_fooled``: whether the first success ends the search;
    - ``_begins_clean``: whether the first restart begins at the clean image;
    - ``_view``: what the model sees instead of the points themselves;
    - ``_succeeded``: which points count as a success;
    - ``_value``: which of two points is the better one.

    A search whose loss is targeted goes in its restarts for one wrong class after the other, from the most likely one
    on the clean image down; ``drawn`` then has ``label`` and ``target``, one class per row. One that may be given up
    early is :class:`Stoppable`, too.
    """

    name: ClassVar[str]
    needs_gradient: ClassVar[bool] = True
    steps: int
    restarts: int
    loss: str

    @abstractmethod
    def draw(self, shape: Sequence[int], generator: torch.Generator) -> State:
        """All random numbers of one sample and one restart, on the CPU.

        Args:
            shape: that of the image, 3 x height x width.
            generator: the one source of random numbers; its seed depends on the sample and the restart alone.
        """

    @abstractmethod
    def start(self, clean: Pixels, drawn: State) -> tuple[Pixels, State]:
        """First points, and what the search remembers of each.

        Args:
            clean: clean images.
            drawn: what :meth:`draw` gave for each of them, stacked.
        """

    @abstractmethod
    def step(self, clean: Pixels, current: Evaluation, state: State, iteration: Index) -> tuple[Pixels, State]:
        """Next points, and what the search remembers then.

        Args:
            clean: clean images.
            current: the points reached, their loss, verdict and gradient.
            state: what the search remembers.
            iteration: number of steps that led there, from 0 to ``steps``; rows differ.
        """

    @property
    def targeted(self) -> bool:
        """Whether each restart goes for a class of its own."""
        return is_targeted(self.loss)

    @property
    def _needs_jacobian(self) -> bool:
        """Whether a step needs the gradient of every logit."""
        return False

    @property
    def _stops_when_fooled(self) -> bool:
        """Whether the first success ends the search of a sample."""
        return True

    @property
    def _begins_clean(self) -> bool:
        """Whether the first restart begins at the clean image, where no other start is given."""
        return False

    def _view(self, points: Pixels, state: State, iteration: Index) -> Pixels:
        """What the model sees of the points in a pass with gradients, which flow back through it.

        Such a pass is no verdict on the points: a search with a view of its own takes all its steps, and the last
        point of each restart is what it returns.
        """
        return points

    def _succeeded(self, clean: Pixels, current: Evaluation) -> Flags:
        """Which points count as a success; a search that leaves the ball on its way must check the distance, too."""
        return current.fooled

    def _value(self, clean: Pixels, current: Evaluation) -> PerSample:
        """What the best point is the largest of, among points that all fool or all do not."""
        return current.loss


def is_broken(loss: PerSample, fooled: Flags) -> Flags:
    """Where the objective failed: a loss that is NaN, or one that is infinite although the point does not fool."""
    return loss.isnan() | (loss.isinf() & ~fooled)


class Stoppable(Search):
    """A search that is given up where it has no prospect of success.

    That is where it would not succeed although its progress went on growing like ``iteration ** growth``. How large
    ``growth`` must be depends on how steady the progress is: that of a random search comes in leaps.
    """

    growth: float | None
    """None: every search goes on to its end."""

    def _reach(self, clean: Pixels, current: Evaluation, margin: PerSample, clean_margin: PerSample) -> PerSample:
        """How far points have come on the way to a success: 0 at the clean image, 1 or more at a success.

        By default the share of the clean image's margin (to the target, or the best wrong class) that is gone.
        """
        return 1 - margin / clean_margin
