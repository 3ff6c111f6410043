"""Means over datasets that share images: their intervals hold the truth as often as they say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.reports.conftest import setting

from radapt.data import load_dataset
from radapt.results import Results, Sample, wilson
from radapt.results.shared import INDEPENDENT, Place, Shared, shared_images

ONE, OTHER = ("zero-shot", "x", "test"), ("zero-shot", "y", "test")


def found(tmp_path: Path, metric: str = "accuracy", **sets: Sequence[tuple[str, int]]) -> Shared:
    """What sets share whose samples are (image, label)."""
    with Results(tmp_path / "r.sqlite") as store:
        for dataset, samples in sets.items():
            chosen = replace(setting("a", dataset, "", n=len(samples)), metric=metric)
            store.begin(chosen)
            own = [
                Sample(position=at, label=label, prediction=0, score=1.0, data=f"{image}.{at}{dataset}")
                for at, (image, label) in enumerate(samples)
            ]
            store.add(chosen, own)
        return shared_images(store, store.all(checks=True))


def test_an_image_is_one_whatever_its_label_is_called(tmp_path: Path) -> None:
    """Relabelled images are shared ones, and questions about them; of others only the pixels tell."""
    data = load_dataset("shapes", n=6, quiet=True)
    other = replace(data, labels=(data.labels + 1) % len(data.classes))
    changed = replace(data, images=255 - data.images)
    hashes = [[each.partition(".")[0] for each in own.digests] for own in (data, other, changed)]
    assert hashes[0] == hashes[1]
    assert not set(hashes[0]) & set(hashes[2])
    assert not set(data.digests) & set(other.digests)
    asked = load_dataset("shapeworld-vqa", n=2, quiet=True)
    again = load_dataset("shapeworld-captions", n=2, quiet=True)
    same = torch.equal(torch.as_tensor(asked.images), torch.as_tensor(again.images))
    assert same == ([e.partition(".")[0] for e in asked.digests] == [e.partition(".")[0] for e in again.digests])


def test_only_samples_that_are_shown_share_images(tmp_path: Path) -> None:
    assert found(tmp_path, x=[("a", 0), ("b", 0)], y=[("c", 0), ("a", 0)]).pairs
    with Results(tmp_path / "r.sqlite") as store:
        for dataset in "xy":
            store.begin(replace(setting("a", dataset, "", n=1), metric="accuracy"))
        assert not shared_images(store, store.all(checks=True)).pairs


def test_the_correlation_is_that_of_what_images_weigh(tmp_path: Path) -> None:
    places = frozenset({ONE, OTHER})
    shared = found(tmp_path, x=[("a", 0), ("a", 0), ("b", 0), ("c", 0)], y=[("a", 0), ("d", 0)])
    assert shared.pairs == {places: pytest.approx(math.sqrt(4 * 2) * 2 / math.sqrt((4 + 1 + 1) * (1 + 1)))}
    (tmp_path / "r.sqlite").unlink()
    # Of a mean per class one of class 1 counts as much as both of class 0 do.
    shared = found(tmp_path, "mean-per-class", x=[("a", 0), ("b", 0), ("c", 1)], y=[("c", 0), ("d", 0), ("e", 1)])
    assert shared.pairs == {places: pytest.approx(3 * 2 * 1 / (1 + 1 + 4))}
    (tmp_path / "r.sqlite").unlink()
    assert not found(tmp_path, x=[("a", 0)], y=[("b", 0)]).pairs
    (tmp_path / "r.sqlite").unlink()
    # F1 may depend on the shared image alone.
    shared = found(tmp_path, "F1", x=[("a", 1), ("b", 0), ("c", 0)], y=[("a", 1), ("d", 0), ("e", 0)])
    assert shared.mean([(ONE, (50, 40, 60), 3), (OTHER, (50, 40, 60), 3)]) == (50, 40, 60)


def test_models_that_see_other_sizes_hide_no_shared_images(tmp_path: Path) -> None:
    """Each sees pixels of its own, and hashes of these; images are shared where they are for one model."""
    with Results(tmp_path / "r.sqlite") as store:
        for model, prefix, sets in (("a", "small", "x"), ("b", "large", "xy"), ("c", "huge", "y")):
            for dataset in sets:
                chosen = setting(model, dataset, model=model, n=8)
                store.begin(chosen)
                samples = [
                    Sample(position=at, label=0, prediction=0, score=1, data=f"{prefix}{at}.") for at in range(8)
                ]
                store.add(chosen, samples)
        assert shared_images(store, store.all(checks=True)).pairs == {frozenset({ONE, OTHER}): pytest.approx(8)}


def test_a_task_that_is_measured_in_several_ways_is_one(tmp_path: Path) -> None:
    shared = found(tmp_path, x=[("a", 0), ("b", 0)], y=[("a", 0), ("b", 0)])
    named = [(f"zero-shot, {metric}", dataset, "test") for dataset, metric in (("x", "top-1"), ("y", "mean-per-class"))]
    assert shared.mean([(place, (50, 40, 60), 2) for place in named]) == (50, 40, 60)


def test_of_fewer_samples_all_may_be_shared_ones() -> None:
    shared = Shared(pairs={frozenset({ONE, OTHER}): 10.0})
    interval = (50.0, 40.0, 60.0)

    def half(n: int, m: int) -> float:
        mean, low, _ = shared.mean([(ONE, interval, n), (OTHER, interval, m)])
        return mean - low

    assert half(100, 100) == pytest.approx(10 * math.sqrt(2 + 2 * 0.1) / 2)
    assert half(50, 50) == pytest.approx(10 * math.sqrt(2 + 2 * 0.2) / 2)
    assert half(10, 10) == half(0, 10) == pytest.approx(10)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), min_size=1, max_size=5), st.floats(0.01, 1))
def test_sharing_only_makes_intervals_wider_and_at_most_the_mean_of_them(
    counts: list[tuple[int, int]], correlation: float
) -> None:
    places: list[Place] = [("zero-shot", str(at), "test") for at in range(len(counts))]
    sizes = dict(zip(places, (n for _, n in counts), strict=True))
    pairs = {
        frozenset({one, other}): correlation * math.sqrt(sizes[one] * sizes[other])
        for one, other in combinations(places, 2)
    }
    intervals = [(100 * min(k, n) / n, *wilson(min(k, n), n)) for k, n in counts]
    results = [(place, each, n) for place, each, (_, n) in zip(places, intervals, counts, strict=True)]
    mean, low, high = Shared(pairs=pairs).mean(results)
    alone, below, above = INDEPENDENT.mean(results)
    assert mean == alone
    assert np.mean([each[1] for each in intervals]) - 1e-9 <= low <= below + 1e-9
    assert above - 1e-9 <= high <= np.mean([each[2] for each in intervals]) + 1e-9


@pytest.mark.parametrize("together", [0.0, 0.5, 1.0])
def test_the_interval_holds_the_truth(tmp_path: Path, together: float) -> None:
    """Two sets of 100 images, 60 of them in both, whose answers agree in so many of ten cases for that reason alone."""
    images = [[(f"both{at}", 0) for at in range(60)] + [(f"{name}{at}", 0) for at in range(40)] for name in "xy"]
    shared = found(tmp_path, x=images[0], y=images[1])
    assert shared.pairs == {frozenset({ONE, OTHER}): pytest.approx(60)}
    chance, truth, held = np.random.default_rng(0), 0.7, list[tuple[bool, bool]]()
    for _ in range(2000):
        right = chance.random((2, 100)) < truth
        copied = np.flatnonzero(chance.random(60) < together)
        right[1, copied] = right[0, copied]
        results = [
            (place, (float(own.sum()), *wilson(int(own.sum()), 100)), 100)
            for place, own in zip((ONE, OTHER), right, strict=True)
        ]
        ends = [each.mean(results)[1:] for each in (shared, INDEPENDENT)]
        held.append((ends[0][0] <= 70 <= ends[0][1], ends[1][0] <= 70 <= ends[1][1]))
    ours, before = np.mean(held, axis=0)
    assert ours > 0.94
    assert before < 0.9 or together < 1
