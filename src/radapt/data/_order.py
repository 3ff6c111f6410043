"""Whether the first samples of a dataset stand for all of its classes."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from ._dataset import Dataset

__all__ = ["looks_sorted", "warn_of_order"]

_RARE = 1e-4
_FAR = 3.0


def warn_of_order(data: Dataset) -> None:
    """Warn where the samples leave classes out that they would hardly leave out if they came in a random order.

    A card with the option ``shuffle`` has them in such an order.
    """
    if not len(data.labels) or data.card.options.get("shuffle") is not None:
        return
    labels = data.labels.tolist()
    if not looks_sorted(labels, len(data.classes)):
        return
    shuffle = "write 'shuffle: 0' under the options of its card, or " if data.card.source == "hub" else ""
    warnings.warn(
        f"the first {len(data)} samples of {data.name!r}, split {data.split!r}, show only {len(set(labels))} of its "
        f"{len(data.classes)} classes, as if they were sorted by class; {shuffle}take a larger n",
        stacklevel=3,
    )


def looks_sorted(labels: Sequence[int], classes: int) -> bool:
    """Whether labels leave some classes out, and come in an order that is hardly one of chance.

    Either so few classes are there that a draw with equal chances gives as few in less than one of 10,000 cases (by the
    union bound), or neighbours differ at most half as often as in a random order of the same labels, and by three
    standard deviations less often (runs test of Barton & David 1957).
    """
    n, counts = len(labels), Counter(labels).values()
    present = len(counts)
    if present == classes or n < 2:
        return False
    chance = math.log(math.comb(classes, present)) + n * math.log(present / classes)
    if chance < math.log(_RARE):
        return True
    squares, cubes = (sum(count**power for count in counts) for power in (2, 3))
    expected = (n * n - squares) / n
    variance = (squares * (squares + n * (n + 1)) - 2 * n * cubes - n**3) / (n * n * (n - 1))
    changes = sum(one != other for one, other in pairwise(labels))
    return changes < min(expected / 2, expected - _FAR * math.sqrt(max(variance, 0.0)))
