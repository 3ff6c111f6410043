"""The order of a dataset's samples: by class in turn where that is asked for, and what its first samples leave out."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from ._dataset import Dataset

__all__ = ["in_turn", "looks_sorted", "warn_of_order"]

_RARE = 1e-4
_FAR = 3.0


def in_turn(labels: Sequence[object]) -> list[int]:
    """The positions of samples in the order that takes one of each class, then a second one of each, and so on.

    Within a class, and of the samples of one turn, the earlier one comes first. A class that has no more samples is
    left out of the further turns.
    """
    seen: Counter[object] = Counter()
    turns = []
    for label in labels:
        turns.append(seen[label])
        seen[label] += 1
    return sorted(range(len(turns)), key=turns.__getitem__)


def warn_of_order(data: Dataset, n: int | None) -> None:
    """Warn where the samples leave classes out, because they are sorted by class or because fewer were asked for.

    Fewer than the card's own number, and more than one. Sets that are rendered come in turn: for them, and wherever the
    card has no option ``shuffle`` nor ``balanced``, only an order that is hardly one of chance is worth a warning.

    Args:
        data: the samples.
        n: how many were asked for, if it was said.
    """
    details = data.card
    labels, classes = data.labels.tolist(), len(data.classes)
    present = len(set(labels))
    if not labels or present == classes:
        return
    if _counted_from_one(data):
        warnings.warn(
            f"none of the {len(data)} samples of {data.name!r}, split {data.split!r}, is of the first class, "
            f"{data.classes[0]!r}: if its labels count from 1, every sample is taken for the class after its own; then "
            "let the first of the classes be one that no sample has",
            stacklevel=3,
        )
    shown = f"the first {len(data)} samples of {data.name!r}, split {data.split!r}, show only {present} of its"
    balanced = details.options.get("balanced") is True
    if details.options.get("shuffle") is None and not balanced:
        if looks_sorted(labels, classes):
            shuffle = "write 'shuffle: 0' under the options of its card, or " if details.source == "hub" else ""
            warnings.warn(
                f"{shown} {classes} classes, as if they were sorted by class; {shuffle}take a larger n", stacklevel=3
            )
        return
    fewer = n is not None and 1 < n < (math.inf if details.n is None else details.n)
    if fewer and not (balanced and len(labels) >= classes):
        advice = f"an n of at least {classes}" if balanced else "a larger n, or samples of all classes (balanced)"
        warnings.warn(f"{shown} {classes} classes; take {advice}", stacklevel=3)


def _counted_from_one(data: Dataset) -> bool:
    """Whether labels may count from 1, while names that the card has by their order are taken to count from 0.

    The first class is missing and the last is there; in a draw with equal chances so many samples would leave it out in
    less than one of 10,000 cases.
    """
    named = data.card.source == "hub" and (data.card.classes or "classes_file" in data.card.options)
    labels, last = data.labels, len(data.classes) - 1
    if not named or last < 1 or bool((labels == 0).any()) or not bool((labels == last).any()):
        return False
    return len(labels) * math.log(last / (last + 1)) < math.log(_RARE)


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
