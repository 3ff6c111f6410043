"""Datasets that share images: what is put together from them counts these more than once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

from .labels import places_of
from .records import Result
from .store import Results

__all__ = ["Place", "Shared", "overlaps", "shared_images"]

Place = tuple[str, str, str]
"""Task, dataset and split, as :func:`radapt.results.labels.places_of` names them."""

Shared = frozenset[frozenset[Place]]
"""Pairs of places."""


def shared_images(store: Results, results: Sequence[Result]) -> Shared:
    """Which two datasets of a task have images in common.

    Args:
        store: an open results file.
        results: of this file.

    Raises:
        ResultsError: a row is damaged.
    """
    largest: dict[Place, Result] = {}
    for place, result in zip(places_of([each.setting for each in results]), results, strict=True):
        if result.kind == "clean" and (place not in largest or result.n > largest[place].n):
            largest[place] = result
    tasks: dict[str, list[Place]] = defaultdict(list)
    for place in largest:
        tasks[place[0]].append(place)
    images = {
        place: {each.data.partition(".")[0] for each in store.samples(largest[place].setting)} - {""}
        for places in tasks.values()
        if len(places) > 1
        for place in places
    }
    pairs = (frozenset(pair) for places in tasks.values() for pair in combinations(places, 2))
    return frozenset(pair for pair in pairs if set.intersection(*(images[place] for place in pair)))


def overlaps(places: Sequence[Place], shared: Shared) -> bool:
    """Whether any two of some places share images."""
    return any(frozenset(pair) in shared for pair in combinations(places, 2))
