"""Datasets that share images: their results go together, so that a mean over them varies more than over others."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from .intervals import class_weights, mean_interval
from .labels import places_of
from .records import Result, Sample, image_hash
from .store import Results

__all__ = ["INDEPENDENT", "Interval", "Place", "Shared", "shared_images"]

Place = tuple[str, str, str]
"""Task, dataset and split, as :func:`radapt.results.labels.places_of` names them."""

Interval = tuple[float, float, float]
"""Per cent, and the ends of its 95 % interval."""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """How far the results on datasets go together, as some of their samples are of the same images.

    Args:
        pairs: of two places that have images in common, the largest correlation of their means, in (0, 1].
        sizes: number of samples of each place that it is of.
    """

    pairs: Mapping[frozenset[Place], float] = field(default_factory=dict)
    sizes: Mapping[Place, int] = field(default_factory=dict)

    def mean(self, results: Sequence[tuple[Place, Interval, int]]) -> Interval:
        """Mean over datasets and its 95 % interval, where shared images make results go together as far as they can.

        Args:
            results: the place of each, per cent with the ends of its interval, and the number of samples. Where these
                are fewer than the place has, all of the shared ones may be among them.
        """
        correlations = dict[tuple[int, int], float]()
        for (at, (one, _, n)), (beside, (other, _, m)) in combinations(enumerate(results), 2):
            if own := self.pairs.get(frozenset((one, other))):
                part = n * m / (self.sizes[one] * self.sizes[other])
                correlations[at, beside] = min(1.0, own / math.sqrt(part)) if part else 1.0
        return mean_interval([interval for _, interval, _ in results], correlations)


INDEPENDENT = Shared()
"""No two datasets have images in common."""


def shared_images(store: Results, results: Sequence[Result]) -> Shared:
    """Which datasets of a task have images in common, and how far that makes their results go together.

    Where answers about an image vary only together, the means over samples that weigh ``v_c`` and ``w_c`` about each
    image ``c`` correlate with ``sum_c v_c w_c / sqrt(sum_c v_c^2 sum_c w_c^2)``; of independent answers with 0.

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
    pairs, sizes = dict[frozenset[Place], float](), dict[Place, int]()
    for places in tasks.values():
        if len(places) == 1:
            continue
        weights = dict[Place, dict[str, float]]()
        for place in places:
            samples = store.samples(largest[place].setting)
            sizes[place] = len(samples)
            weights[place] = _weights(samples, largest[place].setting.metric)
        for one, other in combinations(places, 2):
            if own := _correlation(weights[one], weights[other]):
                pairs[frozenset((one, other))] = own
    return Shared(pairs=pairs, sizes=sizes)


def _weights(samples: Sequence[Sample], metric: str) -> dict[str, float]:
    """What the samples about each image weigh together."""
    sizes = Counter(sample.label if metric == "mean-per-class" else 0 for sample in samples)
    each = class_weights(sizes)[0] if sizes else {}
    weights: dict[str, float] = defaultdict(float)
    for sample in samples:
        if image := image_hash(sample.data):
            weights[image] += each[sample.label if metric == "mean-per-class" else 0]
    return weights


def _correlation(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    together = math.fsum(weight * other[image] for image, weight in one.items() if image in other)
    alone = [math.fsum(weight * weight for weight in each.values()) for each in (one, other)]
    return min(1.0, together / math.sqrt(alone[0] * alone[1])) if together else 0.0
