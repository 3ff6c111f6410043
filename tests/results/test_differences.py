from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, permutation_test

from radapt.results import mean_interval, summarise
from radapt.results.differences import MCNEMAR, RANDOMISATION, Pair, difference_of, holm, mcnemar, paired_interval


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_mcnemar_is_the_exact_binomial_test(only_first: int, only_second: int) -> None:
    total = only_first + only_second
    exact = binomtest(only_first, total).pvalue if total else 1.0
    assert mcnemar(only_first, only_second) == pytest.approx(exact, rel=1e-8, abs=1e-200)


def test_mcnemar_of_very_many_samples_is_a_number() -> None:
    assert mcnemar(500_000, 499_000) == pytest.approx(binomtest(500_000, 999_000).pvalue, rel=1e-6)
    assert mcnemar(100_000, 0) == 0.0
    assert mcnemar(0, 13) == pytest.approx(2 / 2**13)
    assert mcnemar(2, 1) == mcnemar(0, 0) == 1.0


def test_holm_multiplies_the_smallest_by_all_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("counts", "expected"),
    [  # Newcombe 1998 (Statistics in Medicine 17, 2635), table III, method 10
        ((20, 12, 2, 16), (0.2000, 0.0562, 0.3292)),
        ((36, 14, 0, 0), (0.2800, 0.1528, 0.4167)),
        ((0, 0, 0, 30), (0.0000, -0.1135, 0.1135)),
    ],
)
def test_the_interval_is_that_of_the_publication(counts: tuple[int, int, int, int], expected: Sequence[float]) -> None:
    assert paired_interval(*counts) == pytest.approx([100 * each for each in expected], abs=0.01)


@given(st.tuples(*[st.integers(0, 50)] * 4).filter(any))
def test_the_interval_holds_the_difference_and_turns_around(counts: tuple[int, int, int, int]) -> None:
    both, only_first, only_second, neither = counts
    difference, low, high = paired_interval(*counts)
    assert -100 <= low <= difference <= high <= 100
    turned = paired_interval(both, only_second, only_first, neither)
    assert turned == pytest.approx([-difference, -high, -low])


def pairs_of(seed: int, n: int, classes: int = 4, gain: float = 0.2) -> list[Pair]:
    """Two methods on the same samples, the first better on the low labels and the second on the high ones."""
    chance = np.random.default_rng(seed)
    labels = np.minimum(chance.geometric(0.5, n) - 1, classes - 1)
    better = np.where(labels < 1, gain, -gain)
    first, second = chance.random(n) < 0.5 + better, chance.random(n) < 0.5 - better
    answers = [[label if right else (label + 1) % classes for label, right in zip(labels, own, strict=True)]
               for own in (first, second)]  # fmt: skip
    return [
        Pair(int(label), int(a), int(b), bool(label == a), bool(label == b), at)
        for at, (label, a, b) in enumerate(zip(labels, *answers, strict=True))
    ]


def of_own_images(pairs: Sequence[Any]) -> list[Pair]:
    """Every sample with an image of its own."""
    return [Pair(*pair[:5], at) for at, pair in enumerate(pairs)]


def shown(metric: str, pairs: Sequence[Any], side: int) -> float:
    """The figure of one method, as reports show it."""
    return summarise(metric, [float(p[3 + side]) for p in pairs], [(p[0], p[1 + side]) for p in pairs])[0]


def statistic_of(parts: Sequence[tuple[str, Sequence[Any]]]) -> Callable[..., float]:
    """The mean over datasets of the differences, of the answers of two methods one after another."""

    def statistic(first: Any, second: Any) -> float:
        total, at = 0.0, 0
        for metric, pairs in parts:
            labels = [label for label, *_ in pairs]
            figures = []
            for own in (first, second):
                answers = [int(each) for each in own[at : at + len(pairs)]]
                right = [float(label == answer) for label, answer in zip(labels, answers, strict=True)]
                figures.append(summarise(metric, right, list(zip(labels, answers, strict=True)))[0])
            total += (figures[0] - figures[1]) / len(parts)
            at += len(pairs)
        return total

    return statistic


def yes_and_no(pairs: Sequence[Pair]) -> list[Pair]:
    two = [(label % 2, first % 2, second % 2) for label, first, second, *_ in pairs]
    return of_own_images([(label, first, second, label == first, label == second) for label, first, second in two])


CASES = {
    "per class": [("mean-per-class", pairs_of(0, 60))],
    "F1": [("F1", yes_and_no(pairs_of(1, 60)))],
    "two sizes": [("top-1", pairs_of(2, 20, gain=0.4)), ("top-1", pairs_of(3, 70, gain=0.1))],
    "two metrics": [("top-1", pairs_of(4, 30)), ("F1", yes_and_no(pairs_of(5, 40, gain=0.3)))],
}


@pytest.mark.parametrize("name", CASES)
def test_the_difference_is_of_the_figures_that_are_shown_and_p_is_that_of_swapped_answers(name: str) -> None:
    parts = CASES[name]
    found = difference_of(parts)
    expected = [shown(metric, pairs, 0) - shown(metric, pairs, 1) for metric, pairs in parts]
    assert found.difference == pytest.approx(sum(expected) / len(expected))
    assert found.low <= found.difference <= found.high
    assert found.test == RANDOMISATION
    answers = [[pair[side] for _, pairs in parts for pair in pairs] for side in (1, 2)]
    reference = permutation_test(
        answers, statistic_of(parts), permutation_type="samples", n_resamples=1500, vectorized=False,
        rng=np.random.default_rng(7),
    )  # fmt: skip
    assert found.p == pytest.approx(reference.pvalue, abs=0.045)


def test_of_few_samples_p_is_that_of_all_swaps() -> None:
    pairs = pairs_of(6, 9, classes=3)
    statistic = statistic_of([("mean-per-class", pairs)])
    answers = np.array([pair[1:3] for pair in pairs])
    own = abs(statistic(*answers.T))
    swapped = [np.where(np.array(way)[:, None], answers[:, ::-1], answers) for way in product((0, 1), repeat=9)]
    exact = np.mean([abs(statistic(*each.T)) >= own - 1e-9 for each in swapped])
    assert difference_of([("mean-per-class", pairs)]).p == pytest.approx(exact, abs=0.02)


def test_where_all_samples_weigh_the_same_the_test_is_mcnemars() -> None:
    balanced = of_own_images(
        [(at % 2, at % 2 if at < 14 else 5, at % 2 if at > 4 else 5, at < 14, at > 4) for at in range(20)]
    )
    for parts in ([("top-1", balanced)], [("mean-per-class", balanced)], [("top-1", balanced)] * 2):
        found = difference_of(parts)
        assert found.test == MCNEMAR
        assert found.p == mcnemar(5 * len(parts), 6 * len(parts))
        assert found.difference == pytest.approx(-5)


def test_who_is_ahead_per_class_is_not_who_is_right_more_often() -> None:
    rare, common = [(0, 0, 1, True, False)] * 10, [(1, 0, 1, False, True)] * 30
    agreed = [(1, 1, 1, True, True)] * 60
    pairs = of_own_images(rare + common + agreed)
    assert difference_of([("top-1", pairs)]).difference == pytest.approx(-20)
    found = difference_of([("mean-per-class", pairs)])
    assert found.difference == pytest.approx(100 * (1 - 30 / 90) / 2)
    assert found.low > 0
    assert found.p < 0.05


@pytest.mark.parametrize("name", CASES)
def test_turned_around_it_is_the_same_with_the_other_sign(name: str) -> None:
    turned = [
        (metric, [Pair(label, second, first, b, a, at) for label, first, second, a, b, at in pairs])
        for metric, pairs in CASES[name]
    ]
    found, other = difference_of(CASES[name]), difference_of(turned)
    assert (other.difference, other.low, other.high) == pytest.approx((-found.difference, -found.high, -found.low))
    assert other.p == found.p


@pytest.mark.parametrize("name", CASES)
def test_its_interval_is_about_that_of_a_bootstrap(name: str) -> None:
    parts = CASES[name]
    chance = np.random.default_rng(3)
    drawn = []
    for _ in range(400):
        again = [
            (metric, of_own_images([pairs[at] for at in chance.integers(0, len(pairs), len(pairs))]))
            for metric, pairs in parts
        ]
        drawn.append(np.mean([shown(metric, own, 0) - shown(metric, own, 1) for metric, own in again]))
    low, high = np.percentile(drawn, [2.5, 97.5])
    found = difference_of(parts)
    assert found.high - found.low == pytest.approx(high - low, rel=0.3)


def test_two_that_never_differ_are_the_same() -> None:
    same = [(0, 0, 0, True, True), (1, 0, 0, False, False)]
    for metric in ("top-1", "mean-per-class", "F1"):
        found = difference_of([(metric, of_own_images(same)), ("top-1", of_own_images(same * 2))])
        assert (found.difference, found.p) == (0, 1)
        assert found.low <= 0 <= found.high


@pytest.mark.parametrize("metric", ["top-1", "F1"])
@pytest.mark.parametrize("times", [2, 6])
def test_questions_about_one_image_that_are_answered_alike_say_no_more_than_one(metric: str, times: int) -> None:
    pairs = yes_and_no(pairs_of(8, 80, gain=0.15))
    once, often = (difference_of([(metric, each)]) for each in (pairs, pairs * times))
    assert (often.difference, often.low, often.high) == pytest.approx((once.difference, once.low, once.high), abs=0.6)
    assert often.test == RANDOMISATION
    assert often.p == pytest.approx(once.p, abs=0.02)
    taken_apart = difference_of([(metric, of_own_images(pairs * times))])
    assert taken_apart.high - taken_apart.low < 0.8 * (often.high - often.low)
    assert taken_apart.p < once.p


def test_p_of_few_images_is_that_of_all_swaps_of_whole_images() -> None:
    pairs = [Pair(*pair[:5], at // 3) for at, pair in enumerate(yes_and_no(pairs_of(9, 27, gain=0.3)))]
    for metric in ("top-1", "F1"):
        statistic = statistic_of([(metric, pairs)])
        answers, image = np.array([pair[1:3] for pair in pairs]), np.array([pair[5] for pair in pairs])
        own = abs(statistic(*answers.T))
        ways = (np.array(way)[image][:, None] for way in product((0, 1), repeat=9))
        swapped = [np.where(way, answers[:, ::-1], answers) for way in ways]
        exact = np.mean([abs(statistic(*each.T)) >= own - 1e-9 for each in swapped])
        assert difference_of([(metric, pairs)]).p == pytest.approx(exact, abs=0.02)


def test_the_answers_about_an_image_that_datasets_share_are_swapped_together() -> None:
    """p is that of all ways to swap eight images, of which three are in both sets."""
    one = [Pair(*pair[:5], f"image{at}") for at, pair in enumerate(pairs_of(10, 6, classes=2, gain=0.5))]
    other = [Pair(*pair[:5], f"image{3 + at}") for at, pair in enumerate(pairs_of(11, 5, classes=2, gain=0.5))]
    parts = [("mean-per-class", one), ("top-1", other)]
    statistic = statistic_of(parts)
    answers = np.array([pair[1:3] for _, pairs in parts for pair in pairs])
    image = np.array([int(str(pair.image).removeprefix("image")) for _, pairs in parts for pair in pairs])
    own = abs(statistic(*answers.T))
    ways = (np.array(way)[image][:, None] for way in product((0, 1), repeat=8))
    exact = np.mean([abs(statistic(*np.where(way, answers[:, ::-1], answers).T)) >= own - 1e-9 for way in ways])
    found = difference_of(parts, mean_interval)
    assert 0.02 < exact < 0.9
    assert found.p == pytest.approx(exact, abs=0.02)
    assert found.test == RANDOMISATION
    assert found.difference == pytest.approx(statistic(*answers.T))


@pytest.mark.parametrize("name", ["per class", "two sizes"])
def test_without_shared_images_and_with_nothing_else_it_is_the_same(name: str) -> None:
    parts = [
        (metric, [Pair(*pair[:5], f"{number}/{at}") for at, pair in enumerate(pairs)])
        for number, (metric, pairs) in enumerate(CASES[name])
    ]
    alone, joint = difference_of(parts), difference_of(parts, mean_interval)
    assert vars(joint) == {**vars(alone), "p": pytest.approx(alone.p, abs=0.02)}
    twice = difference_of(
        [*parts, *parts], lambda estimates: estimates[0] if len(parts) == 1 else mean_interval(estimates)
    )
    assert twice.p == pytest.approx(alone.p, abs=0.02)
    assert twice.difference == pytest.approx(alone.difference)
    assert difference_of([*parts, *parts]).p < alone.p


@pytest.mark.parametrize("metric", ["top-1", "mean-per-class"])
@pytest.mark.parametrize("times", [2, 6])
def test_an_image_that_is_there_several_times_is_one(metric: str, times: int) -> None:
    pairs = [Pair(*pair[:5], f"image{at}") for at, pair in enumerate(pairs_of(12, 80, gain=0.15))]
    once, often = (difference_of([(metric, each)]) for each in (pairs, pairs * times))
    assert (often.difference, often.low, often.high) == pytest.approx((once.difference, once.low, once.high), abs=0.8)
    assert often.p == pytest.approx(once.p, abs=0.02)
    scores, answers = [float(pair.first) for pair in pairs], [(pair.label, pair.first_answer) for pair in pairs]
    images = [pair.image for pair in pairs]
    alone = summarise(metric, scores, answers, images)
    assert alone == summarise(metric, scores, answers)
    assert summarise(metric, scores * times, answers * times, images * times) == pytest.approx(alone, abs=0.8)
