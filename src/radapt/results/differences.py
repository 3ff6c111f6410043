"""How two methods differ on the same samples: in the figure that is shown, with its interval, and by chance."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .intervals import class_weights, f1_interval, mean_interval, wilson

__all__ = ["MCNEMAR", "RANDOMISATION", "Difference", "Pair", "difference_of", "holm", "mcnemar", "paired_interval"]

MCNEMAR = "McNemar's exact test"
RANDOMISATION = "a randomisation test"

_DRAWS = 9_999

Pair = tuple[int, int, int, bool, bool]
"""Of one sample: its label, what the first method and what the second answered, and whether each was right."""

_TABLE = ((True, True), (True, False), (False, True), (False, False))
"""Both right, the first alone, the second alone, neither."""

_Counts = NDArray[np.int64]
_Estimate = tuple[float, float, float]


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

    ``sizes`` are numbers of samples on which the methods differ, in groups that count alike; ``of`` gives the
    difference where in each group so many are the first method's, for an array (draws, groups); ``own`` is what was
    found; ``shares`` of how many samples one of a group is one, None where what it weighs is not a constant.
    """

    estimate: _Estimate
    sizes: _Counts
    own: _Counts
    of: Callable[[_Counts], NDArray[np.float64]]
    shares: tuple[int | None, ...]


def difference_of(parts: Sequence[tuple[str, Sequence[Pair]]]) -> Difference:
    """Difference of two methods in the figure that is shown of them: the mean over datasets of each one's metric.

    Where every sample has the same weight in it, the test is McNemar's. A mean per class, a mean over datasets of
    different sizes and F1 weigh them differently: there the answers of the two methods to each sample are swapped or
    not by chance, 9,999 times, and ``p`` is the share of the draws that differ at least as much (Noreen 1989, Yeh 2000;
    the smallest is 0.0001).

    Args:
        parts: of each dataset the metric, and the samples that both were measured on; at least one.
    """
    figures = [_f1(pairs) if metric == "F1" else _weighted(metric, pairs) for metric, pairs in parts]
    shares = {share for figure in figures for share in figure.shares}
    if len(shares) == 1 and None not in shares:
        right = Counter(each[3:] for _, pairs in parts for each in pairs)
        difference, low, high = paired_interval(*(right[key] for key in _TABLE))
        p = mcnemar(right[True, False], right[False, True])
        return Difference(difference=difference, low=low, high=high, p=p, test=MCNEMAR)
    difference, low, high = mean_interval([figure.estimate for figure in figures])
    chance = np.random.default_rng(0)
    drawn = np.zeros(_DRAWS)
    for figure in figures:
        drawn += figure.of(chance.binomial(figure.sizes, 0.5, (_DRAWS, len(figure.sizes))))
    found = sum(float(figure.of(figure.own[None])[0]) for figure in figures)
    p = (1 + int((abs(drawn) >= abs(found) - 1e-9).sum())) / (1 + _DRAWS)
    return Difference(difference=difference, low=low, high=high, p=p, test=RANDOMISATION)


def _weighted(metric: str, pairs: Sequence[Pair]) -> _Figure:
    """Of the share of right answers, over all samples or as a mean over the classes."""
    strata: dict[int, Counter[tuple[bool, bool]]] = defaultdict(Counter)
    for label, _, _, first, second in pairs:
        strata[label if metric == "mean-per-class" else 0][first, second] += 1
    weights, _ = class_weights({label: counts.total() for label, counts in strata.items()})
    table = [math.fsum(weights[label] * counts[key] for label, counts in strata.items()) for key in _TABLE]
    groups: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for counts in strata.values():
        group = groups[counts.total() * len(strata)]
        group[0] += counts[True, False] + counts[False, True]
        group[1] += counts[True, False]
    sizes, own = (np.array([group[at] for group in groups.values()], np.int64) for at in (0, 1))
    points = 100 / np.array(list(groups))

    def of(ahead: _Counts) -> NDArray[np.float64]:
        return np.asarray((2 * ahead - sizes) @ points, np.float64)

    return _Figure(estimate=paired_interval(*table), sizes=sizes, own=own, of=of, shares=tuple(groups))


def _f1(pairs: Sequence[Pair]) -> _Figure:
    """Of F1, ``2 h / (2 h + m)`` of ``h`` hits and ``m`` misses; see :func:`radapt.results.f1_interval`.

    A yes is a hit or a miss, a no a miss or nothing, so the two methods differ in one of two ways. The interval puts
    those of both together with the correlation of what each sample moves in them, ``m`` for a hit and ``-h`` for a
    miss.
    """
    hit = np.array([[label == answer == 1 for answer in answers] for label, *answers, _, _ in pairs])
    miss = np.array([[(label == 1) != (answer == 1) for answer in answers] for label, *answers, _, _ in pairs])
    hits, misses = hit.sum(0), miss.sum(0)
    moved = (misses * hit - hits * miss).astype(np.float64)
    spread = float(moved[:, 0].std() * moved[:, 1].std())
    phi = float(np.mean(moved[:, 0] * moved[:, 1])) / spread if spread else 0.0
    first, second = (f1_interval(int(h), int(m)) for h, m in zip(hits, misses, strict=True))
    yes, no = hit[:, 0] != hit[:, 1], ~hit.any(1) & (miss[:, 0] != miss[:, 1])
    sizes = np.array([yes.sum(), no.sum()], np.int64)
    own = np.array([hit[yes, 0].sum(), (~miss[no, 0]).sum()], np.int64)
    hits_of_both, misses_of_both = int(hit.all(1).sum()), int(miss.all(1).sum())

    def of(ahead: _Counts) -> NDArray[np.float64]:
        f1 = []
        for right in (ahead, sizes - ahead):
            h, m = hits_of_both + right[:, 0], misses_of_both + sizes.sum() - right.sum(1)
            f1.append(200 * h / np.maximum(2 * h + m, 1))
        return np.asarray(f1[0] - f1[1], np.float64)

    return _Figure(estimate=_together(first, second, phi), sizes=sizes, own=own, of=of, shares=(None,))


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p-value of McNemar's exact test (McNemar 1947).

    Where both methods are equally good, each sample on which one alone is right is as likely the first's as the
    second's: ``p = min(1, 2 sum_{i <= k} C(m, i) / 2^m)`` with ``m = only_first + only_second`` and ``k`` the smaller.

    Args:
        only_first, only_second: samples on which one method alone is right.
    """
    total, least = only_first + only_second, min(only_first, only_second)
    log_last = math.lgamma(total + 1) - math.lgamma(least + 1) - math.lgamma(total - least + 1) - total * math.log(2)
    share = summed = 1.0  # of the last term, from which those before it fall
    for i in range(least, 0, -1):
        share *= i / (total - i + 1)
        summed += share
        if share < 1e-17 * summed:
            break
    return min(1.0, 2 * math.exp(log_last) * summed)


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


def paired_interval(both: float, only_first: float, only_second: float, neither: float) -> _Estimate:
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


def _together(first: _Estimate, second: _Estimate, phi: float) -> _Estimate:
    """Difference of two estimates, each with its limits, that are correlated (square-and-add, Zou & Donner 2008)."""
    (p, p_low, p_high), (q, q_low, q_high) = first, second
    below, above = (p - p_low, q_high - q), (p_high - p, q - q_low)
    low, high = (math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b)) for a, b in (below, above))
    return p - q, p - q - low, p - q + high
