"""95 % intervals of results, in per cent."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType

from radapt.errors import ResultsError

__all__ = [
    "Interval",
    "class_weights",
    "effective_share",
    "f1_interval",
    "mean_interval",
    "score_interval",
    "stratum_of",
    "wilson",
]

Interval = tuple[float, float, float]
"""Per cent, and the ends of its 95 % interval."""


_Z = 1.959963984540054  # 97.5 % quantile of the standard normal distribution
_MOST = 10.0  # a perfect caption's CIDEr
_SAME = 1e-12  # a variance that is rounding
_NONE: Mapping[tuple[int, int], float] = MappingProxyType({})


def _student(freedom: float) -> float:
    """97.5 % quantile of Student's distribution with so many degrees of freedom."""
    from scipy.special import stdtrit  # few results need it

    return float(stdtrit(freedom, 0.975))


def wilson(successes: float, n: float) -> tuple[float, float]:
    """Wilson 95 % interval of a proportion, in per cent (Wilson 1927).

    The two p that solve ``(p - successes / n)^2 = z^2 p (1 - p) / n`` with z = 1.96. ``successes`` may be a sum of
    scores in [0, 1]; their variance is at most that of a proportion, so the interval is then wider than it need be.

    Args:
        successes: number of successes, or sum of the scores, in [0, n].
        n: number of samples; none gives (0, 100). Not whole where samples weigh differently (:func:`class_weights`).

    Raises:
        ResultsError: ``successes`` is outside [0, n].
    """
    if n == 0:
        return 0.0, 100.0
    if not 0 <= successes <= n:
        raise ResultsError(f"a proportion needs successes between 0 and {n}, got {successes}")
    share, spread = successes / n, _Z * _Z / n
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * share * (1 - share) + spread * spread / 4) / (1 + spread)
    return 100 * max(0.0, min(middle - half, share)), 100 * min(1.0, max(middle + half, share))


def stratum_of(metric: str, label: int) -> int:
    """The group of samples that weigh alike in a metric: those of a class in a mean per class, else all."""
    return label if metric == "mean-per-class" else 0


def class_weights(sizes: Mapping[int, int]) -> tuple[dict[int, float], float]:
    """As how many samples each sample counts, by its class, in a mean over the classes, and how many they are together.

    Each of the ``n_c`` samples of a class weighs ``w = 1 / (C n_c)`` in the mean over ``C`` classes, and the mean
    varies no more than that of ``m = 1 / sum w^2`` samples which weigh the same (Kish 1965): so each counts as ``m w``,
    and intervals of proportions are taken of ``m`` samples. An interval put together from one per class misses the
    truth far more often than 5 % of the time where classes have few samples.

    Args:
        sizes: number of samples of each class, at least one.
    """
    together = len(sizes) ** 2 / math.fsum(1 / own for own in sizes.values())
    return {label: together / (len(sizes) * own) for label, own in sizes.items()}, together


def effective_share(scores: Sequence[float], images: Sequence[Hashable]) -> float:
    """As which share of a sample each of several about one image counts, in (0, 1].

    Answers to questions about one image are right or wrong together more often than others, so that ``n`` of them tell
    less than ``n`` images. With the ``m`` images ``c`` as clusters, the variance of their mean is larger than that of
    independent samples by the design effect (Kish 1965),
    ``m / (m - 1) sum_c (sum_i (x_i - mean))^2 / sum_i (x_i - mean)^2``, which is at most ``sum_c n_c^2 / n``: so large
    where all questions about an image are answered alike. Where little varies it cannot be known, and is taken to be
    close to that: as many samples that have that value are added as Wilson's interval adds, z^2. Of few images it is
    less certain, by the square of Student's quantile over the normal one.

    Args:
        scores: of each sample.
        images: what tells the image of each from others.
    """
    sizes = Counter(images)
    most = math.fsum(size * size for size in sizes.values()) / len(scores) if scores else 1.0
    if most == 1 or len(sizes) == 1:
        return 1 / most
    mean = math.fsum(scores) / len(scores)
    sums: dict[Hashable, float] = defaultdict(float)
    for score, image in zip(scores, images, strict=True):
        sums[image] += score - mean
    alone = math.fsum((score - mean) ** 2 for score in scores)
    together = math.fsum(total * total for total in sums.values()) * len(sizes) / (len(sizes) - 1)
    effect = (together + _Z * _Z * most) / (alone + _Z * _Z)
    uncertain = _student(len(sizes) - 1) / _Z
    return 1 / min(most, max(1.0, effect) * uncertain * uncertain)


def score_interval(
    total: float, squares: float, n: int, *, proportion: bool, share: float = 1.0
) -> tuple[float, float]:
    """95 % interval of a mean score: Wilson in [0, 1], else ``mean +- t s / sqrt(n)`` with Student's ``t``, 0 at least.

    Scores that can exceed 1 are those of CIDEr, at most 10. Of a single one, and of several that are equal, nothing
    says how far others lie: their interval is all of 0 to 1,000 %.

    Args:
        total, squares: sums of the scores and of their squares.
        n: number of scores.
        proportion: whether every score is in [0, 1].
        share: as how much of a sample each counts, where several are about one image (:func:`effective_share`).
    """
    together = n * share
    if proportion:
        return wilson(total * share, together)
    mean, most = total / n, 100 * max(_MOST, total / n)
    variance = max(0.0, squares / n - mean * mean)
    if together <= 1 or variance < _SAME * mean * mean:
        return 0.0, most
    half = _student(together - 1) * math.sqrt(variance / (together - 1))
    return 100 * max(0.0, mean - half), min(most, 100 * (mean + half))


def mean_interval(results: Sequence[Interval], correlations: Mapping[tuple[int, int], float] = _NONE) -> Interval:
    """Mean of results and its 95 % interval, by square-and-add (Newcombe 1998, Zou & Donner 2008).

    ``low = m - sqrt(sum_d b_d^2 + 2 sum_{d < e} r_de b_d b_e) / D`` with ``b_d = p_d - l_d``, and ``high`` alike: from
    the results' own limits, so that it neither shrinks to nothing at 0 or 100 % nor leaves the range, and is Wilson's
    for one result.

    Args:
        results: (percent, low, high) of each dataset.
        correlations: ``r_de`` by the positions ``d < e`` of two results; independent ones are left out. See
            :meth:`radapt.results.shared.Shared.mean`.
    """
    count = len(results)
    mean = math.fsum(percent for percent, _, _ in results) / count
    below = _together([percent - low for percent, low, _ in results], correlations) / count
    above = _together([high - percent for percent, _, high in results], correlations) / count
    return mean, mean - below, mean + above


def _together(halves: Sequence[float], correlations: Mapping[tuple[int, int], float]) -> float:
    squares = [half * half for half in halves]
    crossed = [2 * each * halves[one] * halves[other] for (one, other), each in correlations.items()]
    return math.sqrt(math.fsum(squares + crossed))


def f1_interval(hits: float, misses: float) -> Interval:
    """F1, ``2 h / (2 h + m)`` of ``h`` hits and ``m`` misses, and its 95 % interval, in per cent.

    ``p = h / (h + m)`` is a proportion, and F1 is ``2 p / (1 + p)``, which grows with it: the limits are those of
    Wilson's interval for p (Lam et al. 2023, arXiv:2309.14621). Without hits and misses it is 0, of 0 to 100.

    Args:
        hits: samples whose label and answer are both yes.
        misses: those of which one alone is. Neither need be whole (:func:`effective_share`).
    """
    share = hits / (hits + misses) if hits + misses else 0.0
    low, high = wilson(hits, hits + misses)
    f1, lower, upper = (200 * each / (1 + each) for each in (share, low / 100, high / 100))
    return f1, lower, upper
