"""Whether a search has a prospect of success: how far it has come, and how far it may still come."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from radapt.types import Flags, Index, Logits, Pixels

from ._losses import margin
from ._search import Evaluation, Search, Stoppable

__all__ = ["EarlyStopping"]

_LEAST_STEPS = 10
_AUDITED = 16
"""One sample in as many is exempt."""


@final
class EarlyStopping:
    """How far the search of every slot has come, and which are to be given up.

    A search has come ``r`` of its way: 0 at the clean image, 1 at a success. Where ``r`` grows no faster than
    ``iteration ** growth`` from now on, it ends at ``r (steps / iteration) ** growth``; a search that would end below
    1 is hopeless. None is before its tenth step or the first tenth of its steps, nor one that has not moved at all:
    that points to masked gradients, not to robustness.

    The searches of one sample in sixteen, chosen by its key, are ``exempt``: they go on all the same, so that mistakes
    are seen.

    Args:
        search: the search; one that is not stoppable, has no growth, or takes ten steps at most is never given up.
        keys: names of the samples.
        seed: with its key, what decides whether a sample is exempt.
    """

    def __init__(self, search: Search | None, keys: Sequence[str], seed: int) -> None:
        self._search: Stoppable | None = None
        if isinstance(search, Stoppable) and search.growth is not None and search.steps > _LEAST_STEPS:
            self._search, self._steps, self._growth = search, search.steps, search.growth
        exempt = [self._search is not None and _is_exempt(seed, key) for key in keys]
        self.exempt = torch.tensor(exempt, dtype=torch.bool, device="cpu")
        self._clean_margin = self._reach = torch.zeros(0, dtype=torch.float32, device="cpu")
        self._label = torch.zeros(0, dtype=torch.long, device="cpu")
        self._target: Index | None = None

    def begin(self, rows: Tensor, logits: Logits, label: Index, target: Index | None) -> None:
        """New searches in some slots; the other arguments are for all slots.

        Args:
            rows: the slots.
            logits: at the clean images.
            label: true classes.
            target: classes to go for, in a targeted search.
        """
        if self._search is None:
            return
        clean_margin = margin(logits, label, target)
        if len(self._reach) != len(clean_margin):
            self._clean_margin, self._reach = torch.zeros_like(clean_margin), torch.zeros_like(clean_margin)
        self._label, self._target = label, target
        self._clean_margin = self._clean_margin.index_copy(0, rows, clean_margin[rows])
        self._reach = self._reach.index_fill(0, rows, 0)

    def hopeless(self, current: Evaluation, clean: Pixels, iteration: Index) -> Flags:
        """Slots whose search would not succeed, after ``iteration`` steps."""
        if self._search is None or current.logits is None:
            return torch.zeros_like(current.fooled)
        current_margin = margin(current.logits.to(self._label.device), self._label, self._target)
        reach = self._search._reach(clean, current, current_margin, self._clean_margin)
        self._reach = torch.maximum(self._reach, reach.nan_to_num(0, 0, 0))
        needed = (iteration.double() / self._steps) ** self._growth
        late = iteration >= max(_LEAST_STEPS, self._steps / 10)
        return late & (self._reach > 0) & (self._reach < needed)


def _is_exempt(seed: int, key: str) -> bool:
    return hashlib.sha256("\0".join((str(seed), "audit", key)).encode()).digest()[0] % _AUDITED == 0
