"""How two methods differ on the same samples: in the figure that is shown, with its interval, and by chance."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .intervals import Interval, class_weights, effective_share, mean_interval, stratum_of, wilson
from .metrics import summarise

__all__ = ["MCNEMAR", "RANDOMISATION", "Difference", "Pair", "difference_of", "holm", "mcnemar", "paired_interval"]

MCNEMAR = "McNemar's exact test"
RANDOMISATION = "a randomisation test"

_DRAWS = 9_999
_DIGITS = 9  # of percentage points that are one


class Pair(NamedTuple):
    """One sample: its label, what each method answered and whether it was right, and its image: a hash, or what tells
    it from others of its dataset alone."""

    label: int
    first_answer: int
    second_answer: int
    first: bool
    second: bool
    image: Hashable

    @property
    def turned(self) -> Pair:
        """With the second method as the first."""
        return Pair(self.label, self.second_answer, self.first_answer, self.second, self.first, self.image)


_TABLE = ((True, True), (True, False), (False, True), (False, False))
"""Both right, the first alone, the second alone, neither."""

_Counts = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """First minus second.

    Args:
        difference, low, high: of the figures in percentage points, and its 95 % interval.
        p: the chance of a difference as large or larger, where the two were equally good.
        test: the name of the test that ``p`` is from.
    """

    difference: float
    low: float
    high: float
    p: float
    test: str


@dataclass(frozen=True, kw_only=True)
class _Figure:
    """The difference on one dataset: its estimate, and how it depends on which method is which.

    ``sizes`` are numbers of samples (or images) on which the methods differ, in groups that count alike; ``of`` gives
    the difference where in each group so many are the first method's, for an array (draws, groups); ``own`` is what was
    found; ``shares`` of how many samples one of a group is one, None where what it weighs is not a constant.
    """

    estimate: Interval
    sizes: _Counts
    own: _Counts
    of: Callable[[_Counts], NDArray[np.float64]]
    shares: tuple[int | None, ...]


def difference_of(
    parts: Sequence[tuple[str, Sequence[Pair]]], mean: Callable[[list[Interval]], Interval] | None = None
) -> Difference:
    """Difference of two methods in the figure that is shown of them: the mean over datasets of each one's metric.

    Where every sample has the same weight in it, and an image of its own, the test is McNemar's. A mean per class, a
    mean over datasets of different sizes and F1 weigh them differently, and several questions may be about one image:
    there the answers of the two methods to all questions about an image are swapped or not by chance, 9,999 times, and
    ``p`` is the share of the draws that differ at least as much (Noreen 1989, Yeh 2000; the smallest is 0.0001).

    Args:
        parts: of each dataset the metric, and the samples that both were measured on; at least one.
        mean: of datasets that share images, none of them measured by F1, the mean of differences and its interval; see
            :meth:`radapt.results.shared.Shared.mean`. The answers about a shared image are swapped together.
    """
    if mean is None:
        figures = [_figure(metric, pairs) for metric, pairs in parts]
    else:
        figures = [_of_images(parts, mean([_estimate(metric, pairs) for metric, pairs in parts]))]
    shares = {share for figure in figures for share in figure.shares}
    if len(shares) == 1 and None not in shares:
        right = Counter((pair.first, pair.second) for _, pairs in parts for pair in pairs)
        difference, low, high = paired_interval(*(right[key] for key in _TABLE))
        p = mcnemar(right[True, False], right[False, True])
        return Difference(difference=difference, low=low, high=high, p=p, test=MCNEMAR)
    difference, low, high = mean_interval([figure.estimate for figure in figures])
    chance = np.random.default_rng(0)
    drawn = np.zeros(_DRAWS)
    for figure in figures:
        drawn += figure.of(chance.binomial(figure.sizes, 0.5, (_DRAWS, len(figure.sizes))))
    found = sum(float(figure.of(figure.own[None])[0]) for figure in figures)
    if found < 0 and any(metric == "F1" for metric, _ in parts):  # the draws of F1 depend on which method is the first
        turned = difference_of([(metric, [pair.turned for pair in pairs]) for metric, pairs in parts])
        return replace(turned, difference=difference, low=low, high=high)
    p = (1 + int((abs(drawn) >= abs(found) - 1e-9).sum())) / (1 + _DRAWS)
    return Difference(difference=difference, low=low, high=high, p=p, test=RANDOMISATION)


def _figure(metric: str, pairs: Sequence[Pair]) -> _Figure:
    if metric == "F1":
        return _f1(pairs)
    several = len({pair.image for pair in pairs}) < len(pairs)
    return _of_images([(metric, pairs)], _estimate(metric, pairs)) if several else _weighted(metric, pairs)


def _of_images(parts: Sequence[tuple[str, Sequence[Pair]]], estimate: Interval) -> _Figure:
    """Of the mean over datasets, with the answers about an image as one, whatever datasets they are in."""
    leads: dict[Hashable, float] = defaultdict(float)
    for number, (metric, pairs) in enumerate(parts):
        sizes = Counter(stratum_of(metric, pair.label) for pair in pairs)
        for pair in pairs:
            points = 100 / (len(parts) * len(sizes) * sizes[stratum_of(metric, pair.label)])
            image = pair.image if isinstance(pair.image, str) else (number, pair.image)
            leads[image] += points * (pair.first - pair.second)
    found = [round(lead, _DIGITS) for lead in leads.values()]
    groups, ahead = Counter(abs(lead) for lead in found if lead), Counter(lead for lead in found if lead > 0)
    counts, own = (np.array([each[lead] for lead in groups], np.int64) for each in (groups, ahead))
    of = _sum_of(np.array(list(groups), np.float64), counts)
    return _Figure(estimate=estimate, sizes=counts, own=own, of=of, shares=(None,))


def _estimate(metric: str, pairs: Sequence[Pair]) -> Interval:
    """The difference in the share of right answers, or in its mean over the classes, and its interval."""
    weights, together = class_weights(Counter(stratum_of(metric, pair.label) for pair in pairs))
    table: dict[tuple[bool, bool], float] = defaultdict(float)
    for pair in pairs:
        table[pair.first, pair.second] += weights[stratum_of(metric, pair.label)]
    mean = (table[True, False] - table[False, True]) / together
    moved = [weights[stratum_of(metric, pair.label)] * (pair.first - pair.second - mean) for pair in pairs]
    share = effective_share(moved, [pair.image for pair in pairs])
    return paired_interval(*(share * table[key] for key in _TABLE))


def _weighted(metric: str, pairs: Sequence[Pair]) -> _Figure:
    """Of the share of right answers, over all samples or as a mean over the classes, where each has its own image."""
    strata: dict[int, Counter[tuple[bool, bool]]] = defaultdict(Counter)
    for pair in pairs:
        strata[stratum_of(metric, pair.label)][pair.first, pair.second] += 1
    groups: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for counts in strata.values():
        group = groups[counts.total() * len(strata)]
        group[0] += counts[True, False] + counts[False, True]
        group[1] += counts[True, False]
    sizes, own = (np.array([group[at] for group in groups.values()], np.int64) for at in (0, 1))
    of = _sum_of(100 / np.array(list(groups)), sizes)
    return _Figure(estimate=_estimate(metric, pairs), sizes=sizes, own=own, of=of, shares=tuple(groups))


def _sum_of(points: NDArray[np.float64], sizes: _Counts) -> Callable[[_Counts], NDArray[np.float64]]:
    """A difference to which each sample (or image) of a group adds so many points, or takes them away."""
    return lambda ahead: np.asarray((2 * ahead - sizes) @ points, np.float64)


def _f1(pairs: Sequence[Pair]) -> _Figure:
    """Of F1, ``2 h / (2 h + m)`` of ``h`` hits and ``m`` misses; see :func:`radapt.results.f1_interval`.

    The answers to all questions about an image are swapped together. The interval puts those of both together with the
    correlation of what each image moves in them, ``m`` for a hit and ``-h`` for a miss.
    """
    labels = np.array([pair.label for pair in pairs])
    answers = np.array([(pair.first_answer, pair.second_answer) for pair in pairs])
    hit = (labels[:, None] == 1) & (answers == 1)
    miss = (labels[:, None] == 1) != (answers == 1)
    of_image = {image: row for row, image in enumerate(dict.fromkeys(pair.image for pair in pairs))}
    rows = np.array([of_image[pair.image] for pair in pairs])
    hits, misses = np.zeros((2, len(of_image), 2), np.int64)
    np.add.at(hits, rows, hit)
    np.add.at(misses, rows, miss)
    all_hits, all_misses = hits.sum(0), misses.sum(0)
    moved = (all_misses * hits - all_hits * misses).astype(np.float64)
    spread = float(moved[:, 0].std() * moved[:, 1].std())
    phi = float(np.mean(moved[:, 0] * moved[:, 1])) / spread if spread else 0.0
    first, second = (
        summarise("F1", [0.0] * len(pairs), list(zip(labels.tolist(), own, strict=True)), rows.tolist())
        for own in answers.T.tolist()
    )
    # Images in which the methods differ alike are one group; where they do not differ, a swap changes nothing.
    lead = np.stack([hits[:, 0] - hits[:, 1], misses[:, 0] - misses[:, 1]], 1)
    leads, sizes = np.unique(lead[lead.any(1)], axis=0, return_counts=True)

    def of(ahead: _Counts) -> NDArray[np.float64]:
        swapped = (sizes - ahead) @ leads  # what the first method hands over to the second
        f1 = []
        for column, sign in ((0, -1), (1, 1)):
            h, m = all_hits[column] + sign * swapped[:, 0], all_misses[column] + sign * swapped[:, 1]
            f1.append(200 * h / np.maximum(2 * h + m, 1))
        return np.asarray(f1[0] - f1[1], np.float64)

    return _Figure(estimate=_together(first, second, phi), sizes=sizes, own=sizes, of=of, shares=(None,))


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p-value of McNemar's exact test (McNemar 1947).

    Where both methods are equally good, each sample on which one alone is right is as likely the first's as the
    second's: ``p = min(1, 2 sum_{i <= k} C(m, i) / 2^m)`` with ``m = only_first + only_second`` and ``k`` the smaller.

    Args:
        only_first, only_second: samples on which one method alone is right.
    """
    from scipy.special import bdtr  # few results need it

    total = only_first + only_second
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), total, 0.5)))


def holm(values: Sequence[float]) -> list[float]:
    """p-values after Holm's step-down correction (Holm 1979), in their order.

    The k-th smallest of m becomes ``max_{j <= k} min(1, (m - j + 1) p_j)``: the chance of one false claim among all
    stays below the level at which they are read.

    Args:
        values: p-values of one family of tests.
    """
    adjusted, highest = [0.0] * len(values), 0.0
    for rank, at in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (len(values) - rank) * values[at]))
        adjusted[at] = highest
    return adjusted


def paired_interval(both: float, only_first: float, only_second: float, neither: float) -> Interval:
    """Difference of two proportions on the same samples and its 95 % interval, in percentage points.

    Wilson's limits of both, put together by square-and-add with their correlation (Newcombe 1998, method 10).

    Args:
        both, only_first, only_second, neither: samples on which both, one, or none of the methods is right; at least
            one of them is not 0. Not whole where samples weigh differently; see :func:`radapt.results.class_weights`.
    """
    n = both + only_first + only_second + neither
    first, second = both + only_first, both + only_second
    spread = math.sqrt(first * (n - first)) * math.sqrt(second * (n - second))
    covariance = both * neither - only_first * only_second
    if covariance > 0:
        covariance = max(0.0, covariance - n / 2)  # correction for continuity
    phi = covariance / spread if spread else 0.0
    return _together((100 * first / n, *wilson(first, n)), (100 * second / n, *wilson(second, n)), phi)


def _together(first: Interval, second: Interval, phi: float) -> Interval:
    """Difference of two estimates, each with its limits, that are correlated (square-and-add, Zou & Donner 2008)."""
    (p, p_low, p_high), (q, q_low, q_high) = first, second
    below, above = (p - p_low, q_high - q), (p_high - p, q - q_low)
    low, high = (math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b)) for a, b in (below, above))
    return p - q, p - q - low, p - q + high
