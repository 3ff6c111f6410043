"""Datasets that share images: their results go together, so that a mean over them varies more than over others."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from .intervals import Interval, class_weights, mean_interval, stratum_of
from .records import Result, Sample, image_hash
from .store import Results

__all__ = ["INDEPENDENT", "Place", "Shared", "shared_images"]

Place = tuple[str, str, str]
"""Task, dataset and split, as :func:`radapt.results.labels.places_of` names them."""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """How far the results on datasets go together, as some of their samples are of the same images.

    Args:
        pairs: of two places that have images in common, as how many images these count: the correlation of the means
            over ``n`` and ``m`` samples is at most this over ``sqrt(n m)``.
    """

    pairs: Mapping[frozenset[Place], float] = field(default_factory=dict)

    def between(self, places: Sequence[Place]) -> dict[tuple[int, int], float]:
        """As how many images those count that two of some places share, by their positions, as far as there are any."""
        numbered = combinations(enumerate(map(_plain, places)), 2)
        found = {(at, beside): self.pairs.get(frozenset((one, other)), 0.0) for (at, one), (beside, other) in numbered}
        return {key: each for key, each in found.items() if each}

    def mean(self, results: Sequence[tuple[Place, Interval, int]]) -> Interval:
        """Mean over datasets and its 95 % interval, as if answers about one image were right or wrong together.

        Args:
            results: the place of each, per cent with the ends of its interval, and the number of samples. Where these
                are fewer than the place has, all of the shared ones may be among them.
        """
        sizes = [n for *_, n in results]
        correlations = {
            (at, beside): min(1.0, each / math.sqrt(max(1, sizes[at] * sizes[beside])))
            for (at, beside), each in self.between([place for place, *_ in results]).items()
        }
        return mean_interval([interval for _, interval, _ in results], correlations)


INDEPENDENT = Shared()
"""No two datasets have images in common."""


def shared_images(store: Results, results: Sequence[Result]) -> Shared:
    """Which datasets of a task have images in common, and how far that makes their results go together.

    Where the answers about an image are right or wrong together, and no image is harder than others, the means over
    samples that weigh ``v_c`` and ``w_c`` about each image ``c`` correlate with
    ``sum_c v_c w_c / sqrt(sum_c v_c^2 sum_c w_c^2)``; of independent answers with 0. F1 depends on few samples where
    one label is rare, so that the correlation is taken to be 1 there.

    Args:
        store: an open results file.
        results: of this file.

    Raises:
        ResultsError: a row is damaged.
    """
    largest: dict[tuple[object, ...], dict[Place, Result]] = defaultdict(dict)
    for result in results:
        place = _plain((result.setting.task, result.setting.dataset, result.setting.split))
        own = largest[place[0], *result.setting.candidate]
        if result.kind == "clean" and result.main and (place not in own or result.n > own[place].n):
            own[place] = result
    pairs = dict[frozenset[Place], float]()
    for measured in largest.values():  # each model sees the images in its own size
        if len(measured) < 2:
            continue
        samples = {place: store.samples(result.setting, shown=True) for place, result in measured.items()}
        weights = {place: _weights(samples[place], result.setting.metric) for place, result in measured.items()}
        for one, other in combinations(measured, 2):
            size = math.sqrt(len(samples[one]) * len(samples[other]))
            if together := _correlation(weights[one], weights[other]):
                f1 = "F1" in (measured[one].setting.metric, measured[other].setting.metric)
                pair = frozenset((one, other))
                pairs[pair] = max(pairs.get(pair, 0.0), size * (1.0 if f1 else together))
    return Shared(pairs=pairs)


def _plain(place: Place) -> Place:
    """Of a task that is measured in several ways the task alone: the images are the same."""
    return place[0].partition(", ")[0], *place[1:]


def _weights(samples: Sequence[Sample], metric: str) -> dict[str, float]:
    """What the samples about each image weigh together."""
    sizes = Counter(stratum_of(metric, sample.label) for sample in samples)
    each = class_weights(sizes)[0] if sizes else {}
    weights: dict[str, float] = defaultdict(float)
    for sample in samples:
        if image := image_hash(sample.data):
            weights[image] += each[stratum_of(metric, sample.label)]
    return weights


def _correlation(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    together = math.fsum(weight * other[image] for image, weight in one.items() if image in other)
    alone = [math.fsum(weight * weight for weight in each.values()) for each in (one, other)]
    return min(1.0, together / math.sqrt(alone[0] * alone[1])) if together else 0.0
