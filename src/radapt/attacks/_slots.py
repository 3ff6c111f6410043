"""The places of a batch: one row per slot of everything that a pass of the model and a step of the search need."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from radapt.types import Flags, PerSample, Pixels

from ._search import State

__all__ = ["SlotState", "is_better"]


def is_better(fooled: Flags, value: PerSample, best_fooled: Flags, best_value: PerSample) -> Flags:
    """Which points are better than the best ones: one that fools than one that does not, then the larger value."""
    return torch.where(fooled == best_fooled, value > best_value, fooled)


@final
class SlotState:
    """What is known of the sample in each slot. A free slot holds some sample all the same, which is ignored.

    Args:
        images: all clean images, of which the first fills the slots.
        values: the search's value of each.
        batch_size: number of slots.

    Attributes:
        sample: position of the sample.
        clean: its clean image.
        points: the point to evaluate next.
        best, value, fooled: the best point so far, the search's value of it, and whether any point fooled.
        iteration: number of steps taken.
        vanished: number of passes whose gradient was zero.
        label, target: class of the clean image, and the class that a targeted search goes for.
        state: what the search remembers.
    """

    def __init__(self, images: Pixels, values: PerSample, batch_size: int) -> None:
        self.sample = torch.zeros(batch_size, dtype=torch.long, device=images.device)
        self.points = self.clean = self.best = images[self.sample]
        self.value, self.fooled = values[self.sample], torch.zeros_like(self.sample, dtype=torch.bool)
        self.iteration, self.vanished, self.label, self.target = torch.zeros_like(self.sample).repeat(4, 1).unbind()
        self.state: State = {}

    def begin(self, rows: Tensor, samples: Tensor, images: Pixels, values: PerSample) -> None:
        """Put samples into some slots.

        Args:
            rows: the slots.
            samples: positions of the samples.
            images, values: clean images of all samples, and the search's value of each.
        """
        self.sample = self.sample.index_copy(0, rows, samples)
        self.clean = self.clean.index_copy(0, rows, images[samples])
        self.best = self.best.index_copy(0, rows, images[samples])
        self.value = self.value.index_copy(0, rows, values[samples])
        self.fooled = self.fooled.index_fill(0, rows, False)
        self.iteration = self.iteration.index_fill(0, rows, 0)
        self.vanished = self.vanished.index_fill(0, rows, 0)

    def place(self, rows: Tensor, points: Pixels, state: State) -> None:
        """Set the first points of some slots, and what the search remembers there; arguments are for all slots."""
        self.points = self.points.index_copy(0, rows, points[rows])
        self.state = {key: self.state.get(key, new).index_copy(0, rows, new[rows]) for key, new in state.items()}

    def remember(self, points: Pixels, value: PerSample, fooled: Flags) -> None:
        """Keep those points that are better than the best ones."""
        better = is_better(fooled, value, self.fooled, self.value)
        self.best = torch.where(better[:, None, None, None], points, self.best)
        self.value = torch.where(better, value, self.value)
        self.fooled = self.fooled | fooled
