"""The rows of a batch: all that a pass of the model and a step of the search need, one row per running search."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self, final

import torch
from torch import Tensor

from radapt.types import Flags, Index, PerSample, Pixels

from ._search import State

__all__ = ["SlotState", "is_better"]


def is_better(fooled: Flags, value: PerSample, best_fooled: Flags, best_value: PerSample) -> Flags:
    """Which points are better than the best ones: one that fools than one that does not, then the larger value."""
    return torch.where(fooled == best_fooled, value > best_value, fooled)


@final
@dataclass(kw_only=True)
class SlotState:
    """What is known of each running search.

    Args:
        sample: position of its sample.
        clean: the clean image.
        points: the point to evaluate next.
        best, value, fooled: the best point so far, the search's value of it, and whether any point fooled.
        over: whether the search has ended, but for what the host has not seen yet; then nothing changes any more.
        iteration: number of steps taken.
        vanished: number of passes whose gradient was zero.
        label, target: class of the clean image, and the class that a targeted search goes for.
        clean_margin, reach: margin of the clean image, and how far the search has come (early abandonment).
        state: what the search remembers.
    """

    sample: Index
    clean: Pixels
    points: Pixels
    best: Pixels
    value: PerSample
    fooled: Flags
    over: Flags
    iteration: Index
    vanished: Index
    label: Index
    target: Index
    clean_margin: PerSample
    reach: PerSample
    state: State

    @classmethod
    def begin(cls, samples: Index, clean: Pixels, value: PerSample) -> Self:
        """Searches that begin, at the clean images.

        Args:
            samples: positions of the samples.
            clean, value: their clean images, and the search's value of each.
        """
        none, zero = torch.zeros_like(samples, dtype=torch.bool), torch.zeros_like(samples)
        return cls(
            sample=samples,
            clean=clean,
            points=clean,
            best=clean,
            value=value,
            fooled=none,
            over=none,
            iteration=zero,
            vanished=zero,
            label=zero,
            target=zero,
            clean_margin=torch.zeros_like(value),
            reach=torch.zeros_like(value),
            state={},
        )

    def select(self, rows: Index) -> SlotState:
        """Some of the rows."""
        state = {name: each[rows] for name, each in self.state.items()}
        return SlotState(**{name: each[rows] for name, each in self._rows().items()}, state=state)

    def extended(self, other: SlotState) -> SlotState:
        """These rows, and then those of another."""
        state = {name: torch.cat([each, other.state[name]]) for name, each in self.state.items()}
        more = other._rows()
        return SlotState(**{name: torch.cat([each, more[name]]) for name, each in self._rows().items()}, state=state)

    def _rows(self) -> dict[str, Tensor]:
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "state"}

    def remember(self, points: Pixels, value: PerSample, fooled: Flags) -> None:
        """Keep those points that are better than the best ones, where the search goes on."""
        better = is_better(fooled, value, self.fooled, self.value) & ~self.over
        self.best = torch.where(better[:, None, None, None], points, self.best)
        self.value = torch.where(better, value, self.value)
        self.fooled = self.fooled | (fooled & ~self.over)
