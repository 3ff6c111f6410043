"""Paired tests: whether two methods differ on the same samples by more than chance."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from .intervals import wilson
from .labels import places_of
from .records import Kind, Result
from .store import Results
from .worst_case import in_one_ball, lowest_scores

__all__ = ["Comparison", "holm", "mcnemar", "paired_interval", "paired_tests"]

_Scores = dict[int, tuple[str, float]]
"""By position the hash of a sample and its score."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two methods on the same samples.

    Args:
        first, second: the methods.
        task: the task, with its metric where it is measured in several ways.
        datasets: on which datasets (name, split), counted together.
        kind: ``clean``, or ``white-box`` for the worst case over everything that is known in the ball.
        norm, eps: the ball; empty and 0 for clean results.
        n: samples that both were measured on.
        only_first, only_second: samples on which one of the two alone is right.
        difference, low, high: first minus second in percentage points, and its 95 % interval.
        p: of McNemar's exact test.
        adjusted: ``p`` after Holm's correction for all pairs on the same datasets under the same threat.
    """

    first: str
    second: str
    task: str
    datasets: tuple[tuple[str, str], ...]
    kind: Kind
    norm: str = ""
    eps: float = 0.0
    n: int
    only_first: int
    only_second: int
    difference: float
    low: float
    high: float
    p: float
    adjusted: float


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


def paired_interval(both: int, only_first: int, only_second: int, neither: int) -> tuple[float, float, float]:
    """Difference of two proportions on the same samples and its 95 % interval, in percentage points.

    Wilson's limits of both, put together by square-and-add with their correlation (Newcombe 1998, method 10).

    Args:
        both, only_first, only_second, neither: samples on which both, one, or none of the methods is right; at least
            one of them is not 0.
    """
    n = both + only_first + only_second + neither
    first, second = both + only_first, both + only_second
    p, q = 100 * first / n, 100 * second / n
    (p_low, p_high), (q_low, q_high) = wilson(first, n), wilson(second, n)
    spread = math.sqrt(first * (n - first)) * math.sqrt(second * (n - second))
    covariance = float(both * neither - only_first * only_second)
    if covariance > 0:
        covariance = max(0.0, covariance - n / 2)  # correction for continuity
    phi = covariance / spread if spread else 0.0
    below, above = (p - p_low, q_high - q), (p_high - p, q - q_low)
    low, high = (math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b)) for a, b in (below, above))
    return p - q, p - q - low, p - q + high


def paired_tests(store: Results, results: Sequence[Result] | None = None) -> list[Comparison]:
    """Every two methods of a results file on the same samples, clean and under white-box attack.

    For each dataset, and for all datasets of a task together where there are several; samples of which the image
    differs are left out. Only scores that are right or wrong can be compared so; other metrics have no test. Transfer
    results have none either: they say nothing about how robust a method is.

    Args:
        store: an open results file.
        results: what ``store.all(checks=True)`` gave; None: it is read here.

    Raises:
        ResultsError: a row is damaged.
    """
    with store.snapshot():
        every = store.all(checks=True) if results is None else results
        scores = _scores(store, every)
    compared = []
    for (task, kind, norm, eps), places in scores.items():
        tables: dict[tuple[str, str], list[Comparison]] = {}
        pooled: dict[tuple[str, str], list[tuple[tuple[str, str], tuple[int, int, int, int]]]] = defaultdict(list)
        for dataset, methods in places.items():
            for first, second in combinations(methods, 2):
                if counts := _counts(methods[first], methods[second]):
                    pooled[first, second].append((dataset, counts))
                    made = _comparison(first, second, task, (dataset,), kind, norm, eps, counts)
                    tables.setdefault(dataset, []).append(made)
        families = list(tables.values())
        if len(places) > 1:
            together = []
            for (first, second), parts in pooled.items():
                sums = tuple(sum(each) for each in zip(*(counts for _, counts in parts), strict=True))
                names = tuple(dataset for dataset, _ in parts)
                if len(parts) > 1:
                    together.append(_comparison(first, second, task, names, kind, norm, eps, sums))
            families.insert(0, together)
        compared += [each for family in families for each in _adjusted(family)]
    return compared


def _adjusted(family: Sequence[Comparison]) -> list[Comparison]:
    values = holm([each.p for each in family])
    return [replace(each, adjusted=value) for each, value in zip(family, values, strict=True)]


def _comparison(
    first: str, second: str, task: str, datasets: tuple[tuple[str, str], ...], kind: Kind, norm: str, eps: float,
    counts: Sequence[int],
) -> Comparison:  # fmt: skip
    both, only_first, only_second, neither = counts
    difference, low, high = paired_interval(both, only_first, only_second, neither)
    p = mcnemar(only_first, only_second)
    return Comparison(
        first=first, second=second, task=task, datasets=datasets, kind=kind, norm=norm, eps=eps, n=sum(counts),
        only_first=only_first, only_second=only_second, difference=difference, low=low, high=high, p=p, adjusted=p,
    )  # fmt: skip


def _scores(
    store: Results, results: Sequence[Result]
) -> dict[tuple[str, Kind, str, float], dict[tuple[str, str], dict[str, _Scores]]]:
    """By task and threat, dataset and method: the scores of every sample, where they are right or wrong."""
    places = places_of([result.setting for result in results])
    tasks = {_whose(result): place[0] for result, place in zip(results, places, strict=True)}
    results = [result for result in results if result.main]
    names = _names(results)
    measured: list[tuple[Result, _Scores]] = []
    for result in results:
        if result.kind == "clean":
            samples = store.samples(result.setting)
            measured.append((result, {s.position: (s.data, s.score) for s in samples if s.position < result.setting.n}))
    for group in in_one_ball(results):
        used, lowest = lowest_scores(store, group)
        if used:
            own = next(each for each in group if each.kind == "white-box")
            measured.append((own, {at: (sample.data, score) for at, (score, sample) in lowest.items()}))
    found: dict[tuple[str, Kind, str, float], dict[tuple[str, str], dict[str, _Scores]]] = {}
    for result, scores in measured:
        setting = result.setting
        if all(score in (0.0, 1.0) for _, score in scores.values()):
            threat = (tasks[_whose(result)], result.kind, setting.norm, setting.eps)
            place = found.setdefault(threat, {}).setdefault((setting.dataset, setting.split), {})
            place[names[setting.method, setting.model, setting.adapter]] = scores
    return found


def _whose(result: Result) -> tuple[str, str, str, str]:
    setting = result.setting
    return setting.task, setting.metric, setting.dataset, setting.split


def _names(results: Sequence[Result]) -> Mapping[tuple[str, str, str], str]:
    """The name of each candidate, with its model and its adapter where several share one."""
    candidates = dict.fromkeys((r.setting.method, r.setting.model, r.setting.adapter) for r in results)
    labels = [method for method, _, _ in candidates]
    return {
        (method, model, adapter): method
        if labels.count(method) == 1
        else f"{method} · {model} · {adapter[:8] or 'no adapter'}"
        for method, model, adapter in candidates
    }


def _counts(first: _Scores, second: _Scores) -> tuple[int, int, int, int] | None:
    """Samples on which both, the first alone, the second alone, or none is right; None where they share none."""
    both = only_first = only_second = n = 0
    for position, (data, score) in first.items():
        if position in second and second[position][0] == data:
            other = second[position][1]
            n += 1
            both += score == other == 1
            only_first += score > other
            only_second += other > score
    return (both, only_first, only_second, n - both - only_first - only_second) if n else None
