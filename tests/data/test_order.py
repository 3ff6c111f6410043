"""A warning where the first samples leave classes out because the set is sorted, and none elsewhere."""

from __future__ import annotations

import warnings
from pathlib import Path

import datasets
import numpy as np
import pytest
from tests.data.hub_files import own, parquet

from radapt.data import card, load_dataset
from radapt.data import datasets as names
from radapt.data._order import looks_sorted


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables on the disk stay out of the user's own cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def blocks(classes: int, each: int) -> list[int]:
    return [label for label in range(classes) for _ in range(each)]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (blocks(4, 5), 12),
        (blocks(1, 20), 12),
        (blocks(3, 5)[:12], 12),
        (blocks(1, 20), 2),
        (blocks(20, 50), 1000),
        (blocks(1, 4), 1000),
        (blocks(4, 5), 100),
        ([0, 1] * 30, 12),
        (blocks(3, 20), 4),
        ([label for label in [0, 1, 2, 0, 1, 2] for _ in range(8)], 4),
        (blocks(4, 5)[::-1], 12),
    ],
)
def test_sorted_labels_are_recognised(labels: list[int], classes: int) -> None:
    assert looks_sorted(labels, classes)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (blocks(12, 5), 12),
        ([0], 12),
        ([0, 0], 12),
        ([0, 1], 12),
        ([0, 0, 1, 1], 12),
        ([0] * 4, 2),
        (list(range(5)), 12),
    ],
)
def test_whole_sets_and_few_samples_are_left_alone(labels: list[int], classes: int) -> None:
    assert not looks_sorted(labels, classes)


@pytest.mark.parametrize(
    ("n", "classes"), [(10, 10), (20, 12), (12, 12), (50, 100), (1000, 1000), (300, 2), (8, 2), (40, 4)]
)
def test_a_random_order_gives_hardly_any_alarm(n: int, classes: int) -> None:
    random = np.random.default_rng(0)
    alarms = sum(looks_sorted(random.integers(0, classes, n).tolist(), classes) for _ in range(1000))
    assert alarms <= 1


@pytest.mark.parametrize("name", [name for name in names() if card(name).task == "zero-shot"])
def test_no_set_that_ships_gives_an_alarm(name: str) -> None:
    if card(name).source == "hub":
        assert card(name).options["shuffle"] == 0
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for n in (5, 12, 20, 97):
            load_dataset(name, n=n)


def test_the_first_samples_of_a_sorted_folder_are_warned_of_once(tmp_path: Path) -> None:
    labels = datasets.ClassLabel(names=[f"thing {at}" for at in range(12)])
    folder = parquet(tmp_path / "data", {"label": blocks(12, 5)}, label=labels)
    name = own(tmp_path, folder, {})
    with pytest.warns(
        UserWarning, match=r"first 20 samples of 'own', split 'test', show only 4 of its 12 classes"
    ) as all_:
        load_dataset(name, n=20)
    assert len(all_) == 1
    assert "write 'shuffle: 0' under the options of its card, or take a larger n" in str(all_[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load_dataset(name)) == 60
        assert len(load_dataset(name, n=1)) == 1
        assert len(set(load_dataset(own(tmp_path, folder, {"shuffle": 0}), n=20).labels.tolist())) > 6
