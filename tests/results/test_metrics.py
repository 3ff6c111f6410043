"""Results from scores: against scikit-learn, and their intervals against many repetitions."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, t
from sklearn.metrics import balanced_accuracy_score, f1_score

from radapt.results import class_weights, effective_share, summarise, wilson

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


def test_the_mean_of_scores_has_the_interval_of_wilson_or_of_students_distribution() -> None:
    answers = [(-1, -1)] * 4
    assert summarise("accuracy", [1.0, 0.0, 1.0, 1.0], answers) == (75.0, *wilson(3, 4))
    percent, low, high = summarise("CIDEr", [1.5, 0.5, 2.0, 1.0], answers)
    half = 3.182446305284263 * np.std([1.5, 0.5, 2.0, 1.0], ddof=1) / 2  # 97.5 % quantile of t with 3 degrees
    assert (percent, low, high) == pytest.approx((125.0, 125 - 100 * half, 125 + 100 * half))
    assert summarise("CIDEr", [0.0, 1.5], answers[:2])[1] == 0
    assert summarise("CIDEr", [2.5], answers[:1]) == (250.0, 0.0, 1000.0)  # nothing is known of the others
    assert summarise("CIDEr", [2.6, 2.6, 2.6], answers[:3]) == (pytest.approx(260), 0.0, 1000.0)
    assert summarise("CIDEr", [1.0, 3.0], answers[:2])[1:] == (0.0, 1000.0)
    assert summarise("relative", [12.0], answers[:1]) == (1200.0, 0.0, 1200.0)


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


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=40))
def test_the_effective_share_is_that_of_the_variance_with_images_as_clusters(rows: list[tuple[bool, int]]) -> None:
    scores, images = np.array([float(score) for score, _ in rows]), np.array([image for _, image in rows])
    n, every = len(scores), np.unique(images)
    share = effective_share(scores.tolist(), images.tolist())
    most = sum((images == image).sum() ** 2 for image in every) / n
    assert 1 / most - 1e-12 <= share <= 1
    if len(every) == n:
        assert share == 1
    elif len(every) == 1:
        assert share == pytest.approx(1 / most)
    else:
        residuals, z = scores - scores.mean(), norm.ppf(0.975)
        clustered = sum(residuals[images == image].sum() ** 2 for image in every) * len(every) / (len(every) - 1)
        effect = (clustered + z**2 * most) / ((residuals**2).sum() + z**2)
        wider = (t.ppf(0.975, len(every) - 1) / z) ** 2
        assert share == pytest.approx(1 / min(most, max(1, effect) * wider))
    assert effective_share(scores.tolist(), range(n)) == 1


@pytest.mark.parametrize("metric", ["accuracy", "F1"])
def test_one_wrong_answer_says_little_more_than_none(metric: str) -> None:
    """Of sixty images with six questions each: no limit leaps where one answer changes."""
    images = [at // 6 for at in range(360)]
    limits = []
    for wrong in (0, 1, 2, 3):
        right = [at % 6 != 0 or at // 6 >= wrong for at in range(360)]
        limits.append(summarise(metric, [float(own) for own in right], [(1, int(own)) for own in right], images)[1:])
    lows, highs = zip(*limits, strict=True)
    assert max(lows) - min(lows) < 0.7
    assert highs[0] == 100
    assert list(highs) == sorted(highs, reverse=True)


@pytest.mark.parametrize(("images", "questions"), [(2, 60), (3, 6), (5, 20), (8, 6)])
def test_nine_in_ten_intervals_of_questions_about_few_images_hold_the_truth(images: int, questions: int) -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(300):
        right = rng.random((images, questions)) < rng.beta(0.5, 0.5, images)[:, None]
        of = np.repeat(np.arange(images), questions).tolist()
        _, low, high = summarise("accuracy", right.astype(float).ravel().tolist(), [(-1, -1)] * len(of), of)
        covered += low <= 50 <= high
    assert covered >= 0.93 * 300


@pytest.mark.parametrize("metric", ["accuracy", "F1"])
@pytest.mark.parametrize("times", [2, 5])
def test_the_same_answers_over_and_over_say_no_more_than_one(metric: str, times: int) -> None:
    rng = np.random.default_rng(4)
    labels, predictions = rng.integers(0, 2, 60).tolist(), rng.integers(0, 2, 60).tolist()
    answers = list(zip(labels, predictions, strict=True))
    scores = [float(label == prediction) for label, prediction in answers]
    once = summarise(metric, scores, answers)
    often = summarise(metric, scores * times, answers * times, list(range(60)) * times)
    assert often == pytest.approx(once, abs=0.6)  # sixty images are not quite the normal distribution
    apart = summarise(metric, scores * times, answers * times)
    assert apart[2] - apart[1] < 0.8 * (once[2] - once[1])
    assert summarise("accuracy", [1.0] * 60, answers, [at // 6 for at in range(60)])[1:] == wilson(10, 10)


@pytest.mark.parametrize("metric", ["accuracy", "F1"])
def test_nine_in_ten_intervals_of_six_questions_about_each_image_hold_the_truth(metric: str) -> None:
    """An image is easy or hard, for all its questions; without regard to that, one interval in four or five fails."""
    rng = np.random.default_rng(1)
    truth, covered, naive = 60.0, 0, 0
    for _ in range(300):
        easy = np.repeat(rng.random(60), 6) < 0.5
        right = rng.random(360) < np.where(easy, 0.95, 0.25)
        labels = rng.integers(0, 2, 360)
        answers = list(zip(labels.tolist(), np.where(right, labels, 1 - labels).tolist(), strict=True))
        images = np.repeat(np.arange(60), 6).tolist()
        _, low, high = summarise(metric, right.astype(float).tolist(), answers, images)
        covered += low <= truth <= high
        _, low, high = summarise(metric, right.astype(float).tolist(), answers)
        naive += low <= truth <= high
    assert covered >= 0.92 * 300
    assert naive < 0.85 * 300
