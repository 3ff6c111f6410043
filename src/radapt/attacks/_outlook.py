"""Whether a search has a prospect of success: how far it has come, and how far it may still come."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from radapt.attacks._search import Evaluation, Search
from radapt.types import Flags, Index, Logits, PerSample, Pixels

__all__ = ["Outlook", "margins"]

_LEAST = 10
_AUDITED = 16


@final
class Outlook:
    """How far the search of every slot has come, and which are to be given up.

    A search has come ``r`` of its way: 0 at the clean image, 1 at a success. Where ``r`` grows no faster than
    ``iteration ** growth`` from now on, it ends at ``r (steps / iteration) ** growth``; a search that would end below
    1 is hopeless. None is before its tenth step or the first tenth of its steps, nor one that has not moved at all:
    that is a sign of masked gradients, not of robustness.

    The searches of one sample in sixteen, chosen by its key, are ``exempt``: they go on all the same, so that mistakes
    are seen.

    Args:
        search: what says how far a point has come; None, or a search that is over by then: none is ever hopeless.
        keys: names of the samples.
        seed: with its key, what a sample's audit hangs on.
    """

    def __init__(self, search: Search | None, keys: Sequence[str], seed: int) -> None:
        self._search = None if search is None or search.steps <= _LEAST else search
        audits = [self._search is not None and _exempt(seed, key) for key in keys]
        self.exempt = torch.tensor(audits, dtype=torch.bool)
        self._clean = self._reach = torch.zeros(0)
        self._label = torch.zeros(0, dtype=torch.long)
        self._target: Index | None = None

    def begin(self, at: Tensor, logits: Logits, label: Index, target: Index | None) -> None:
        """New searches in the slots ``at``; the other arguments are for all slots.

        Args:
            at: the slots.
            logits: at the clean images.
            label: true classes.
            target: classes to go for, in a targeted search.
        """
        if self._search is None:
            return
        clean = margins(logits, label, target)
        if len(self._reach) != len(clean):
            self._clean, self._reach = torch.zeros_like(clean), torch.zeros_like(clean)
        self._label, self._target = label, target
        self._clean = self._clean.index_copy(0, at, clean[at])
        self._reach = self._reach.index_fill(0, at, 0)

    def hopeless(self, at: Evaluation, clean: Pixels, iteration: Index) -> Flags:
        """Slots whose search would not succeed, after ``iteration`` steps."""
        if self._search is None or self._search.growth is None or at.logits is None:
            return torch.zeros_like(at.fooled)
        margin = margins(at.logits.to(self._label.device), self._label, self._target)
        reach = self._search.reach(clean, at, margin, self._clean)
        self._reach = torch.maximum(self._reach, reach.nan_to_num(0, 0, 0))
        needed = (iteration / self._search.steps) ** self._search.growth
        late = iteration >= max(_LEAST, self._search.steps / 10)
        return late & (self._reach > 0) & (self._reach < needed)


def margins(logits: Logits, label: Index, target: Index | None = None) -> PerSample:
    """``z[target] - z[label]``, or without a target that of the best wrong class."""
    right = logits.gather(1, label[:, None]).squeeze(1)
    if target is None:
        return logits.scatter(1, label[:, None], -torch.inf).amax(1) - right
    return logits.gather(1, target[:, None]).squeeze(1) - right


def _exempt(seed: int, key: str) -> bool:
    return hashlib.sha256("\0".join((str(seed), "audit", key)).encode()).digest()[0] % _AUDITED == 0
