"""Whether a search has a prospect of success: how far it has come, and how far it may still come."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import final

import torch

from radapt.types import Flags, Logits

from ._losses import margin
from ._search import Evaluation, Search, Stoppable
from ._slots import SlotState

__all__ = ["Abandonment"]

_LEAST_STEPS = 10
_AUDITED = 16
"""One sample in as many is exempt."""


@final
class Abandonment:
    """Which searches are to be given up.

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
        self.exempt = [self._search is not None and _is_exempt(seed, key) for key in keys]

    def begin(self, slots: SlotState, logits: Logits) -> None:
        """Note how far searches have to go that begin now.

        Args:
            slots: the searches, with their labels and targets.
            logits: at their clean images.
        """
        if self._search is not None:
            slots.clean_margin = margin(logits, slots.label, slots.target if self._search.targeted else None)

    def hopeless(self, slots: SlotState, current: Evaluation) -> Flags:
        """Searches that would not succeed; how far each has come is kept in ``slots``.

        Args:
            slots: the searches, at the steps that led to the points.
            current: the points reached, and their logits.
        """
        if self._search is None or current.logits is None:
            return torch.zeros_like(current.fooled)
        target = slots.target if self._search.targeted else None
        current_margin = margin(current.logits.to(slots.label.device), slots.label, target)
        reach = self._search._reach(slots.clean, current, current_margin, slots.clean_margin)
        slots.reach = torch.maximum(slots.reach, reach.nan_to_num(0, 0, 0))
        needed = (slots.iteration.double() / self._steps) ** self._growth
        late = slots.iteration >= max(_LEAST_STEPS, self._steps / 10)
        return late & (slots.reach > 0) & (slots.reach < needed)


def _is_exempt(seed: int, key: str) -> bool:
    return hashlib.sha256("\0".join((str(seed), "audit", key)).encode()).digest()[0] % _AUDITED == 0
