"""Results from scores: against scikit-learn, and their intervals against many repetitions."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score

from radapt.results import class_weights, summarise, wilson

PAIRS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40)


@given(PAIRS)
def test_f1_is_that_of_scikit_learn(answers: list[tuple[int, int]]) -> None:
    labels, predictions = zip(*answers, strict=True)
    scores = [float(label == prediction) for label, prediction in answers]
    percent, low, high = summarise("F1", scores, answers)
    assert percent == pytest.approx(100 * f1_score(labels, predictions, zero_division=0.0))
    assert 0 <= low <= percent <= high <= 100


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("n", [1, 10, 500])
def test_an_interval_of_f1_is_never_of_no_width(n: int, right: bool) -> None:
    percent, low, high = summarise("F1", [float(right)] * n, [(1, int(right))] * n)
    assert percent == 100 * right
    assert high - low > 100 / (n + 4)


@given(PAIRS)
def test_the_mean_per_class_is_the_balanced_accuracy(answers: list[tuple[int, int]]) -> None:
    labels, predictions = zip(*answers, strict=True)
    scores = [float(label == prediction) for label, prediction in answers]
    percent, low, high = summarise("mean-per-class", scores, answers)
    classes = sorted(set(labels))
    each = [np.mean([s for s, (label, _) in zip(scores, answers, strict=True) if label == c]) for c in classes]
    assert percent == pytest.approx(100 * np.mean(each))
    if len(classes) == 2:
        assert percent == pytest.approx(100 * balanced_accuracy_score(labels, predictions))
    assert low <= percent <= high


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_class_weights_are_those_of_kish(labels: list[int]) -> None:
    weights, together = class_weights(Counter(labels))
    each = np.array([1 / (len(set(labels)) * labels.count(label)) for label in labels])
    assert together == pytest.approx(each.sum() ** 2 / (each**2).sum())
    assert [weights[label] for label in labels] == pytest.approx(together * each)
    assert together <= len(labels) + 1e-9


def test_a_mean_over_classes_of_one_size_has_the_interval_of_all_samples() -> None:
    answers = [(label, label if at < label else -1) for label in range(4) for at in range(5)]
    scores = [float(label == answer) for label, answer in answers]
    assert summarise("mean-per-class", scores, answers) == pytest.approx((30.0, *wilson(6, 20)))


@pytest.mark.parametrize("hard", ["all alike", "the small ones", "the large ones"])
@pytest.mark.parametrize("n", [100, 500])
def test_nine_in_ten_intervals_of_a_mean_per_class_and_more_hold_the_truth(n: int, hard: str) -> None:
    """Of a hundred classes with few samples each, as in Caltech-101, where one interval per class fails."""
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.normal(3.6, 0.8, 100))
    chances = {
        "all alike": rng.beta(0.3, 8, 100),
        "the small ones": 0.1 + 0.8 * sizes / sizes.max(),
        "the large ones": np.where(sizes < np.median(sizes), 0.5, 0.0),
    }[hard]
    covered, widths = 0, []
    for _ in range(200):
        labels = rng.choice(100, n, p=sizes / sizes.sum())
        right = rng.random(n) < chances[labels]
        answers = [(int(label), int(label) if own else -1) for label, own in zip(labels, right, strict=True)]
        _, low, high = summarise("mean-per-class", list(right.astype(float)), answers)
        covered += low <= 100 * chances[np.unique(labels)].mean() <= high
        widths.append(high - low)
    assert covered > 0.9 * 200
    # Not wider than a proportion of half as many samples would have, where a class has five.
    middle = wilson(n * float(chances.mean()) / 2, n / 2)
    assert np.mean(widths) < 1.2 * (middle[1] - middle[0])


def test_the_mean_of_scores_has_the_interval_of_wilson_or_of_the_normal_distribution() -> None:
    answers = [(-1, -1)] * 4
    assert summarise("accuracy", [1.0, 0.0, 1.0, 1.0], answers) == (75.0, *wilson(3, 4))
    percent, low, high = summarise("CIDEr", [1.5, 0.5, 2.0, 1.0], answers)
    half = 1.959963984540054 * np.std([1.5, 0.5, 2.0, 1.0], ddof=1) / 2
    assert (percent, low, high) == pytest.approx((125.0, 125 - 100 * half, 125 + 100 * half))
    assert summarise("CIDEr", [0.0, 1.5], answers[:2])[1] == 0


def test_nine_in_ten_intervals_of_f1_and_more_hold_the_truth() -> None:
    rng = np.random.default_rng(0)
    # P(label, prediction) of the population; its F1 is 2 * 0.45 / (2 * 0.45 + 0.1 + 0.15).
    cells, shares, truth = [(1, 1), (1, 0), (0, 1), (0, 0)], [0.45, 0.15, 0.1, 0.3], 100 * 0.9 / (0.9 + 0.25)
    covered = 0
    for _ in range(400):
        answers = [cells[i] for i in rng.choice(4, size=150, p=shares)]
        _, low, high = summarise("F1", [0.0] * 150, answers)
        covered += low <= truth <= high
    assert 0.92 <= covered / 400 <= 0.98
