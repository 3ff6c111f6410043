"""Classes in turn, and warnings where the first samples leave classes out."""

from __future__ import annotations

import warnings
from collections import Counter
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

import datasets
import numpy as np
import pytest
import yaml
from tests.data.hub_files import mirror, own, parquet, which

from radapt.data import card, load_dataset
from radapt.data import datasets as names
from radapt.data._order import in_turn, looks_sorted
from radapt.errors import SettingsError


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
    with pytest.warns(UserWarning, match=r"show only \d+ of its 12 classes; take a larger n, or samples of all"):
        assert len(set(load_dataset(own(tmp_path, folder, {"shuffle": 0}), n=20).labels.tolist())) > 6


@pytest.mark.parametrize(
    ("lowest", "classes", "n", "warned"),
    [(1, 6, 60, True), (0, 6, 40, False), (1, 6, 20, False)],
)
def test_labels_that_seem_to_count_from_one_are_warned_of(
    tmp_path: Path, lowest: int, classes: int, n: int, warned: bool
) -> None:
    """Five classes, and six names: from 1 to 5 they would be read as those after their own."""
    labels = [lowest + at % 5 for at in range(n)]
    folder = parquet(tmp_path / "data", {"label": labels})
    name = own(tmp_path, folder, {}, classes=[f"thing {at}" for at in range(classes)])
    with pytest.warns(UserWarning, match="first class, 'thing 0': if its labels count") if warned else nullcontext():
        load_dataset(name)


@pytest.mark.parametrize(("n", "seen"), [(2, 2), (5, 5), (11, 11)])
def test_an_n_that_cannot_cover_all_classes_is_warned_of(tmp_path: Path, n: int, seen: int) -> None:
    labels = datasets.ClassLabel(names=[f"thing {at}" for at in range(12)])
    folder = parquet(tmp_path / "data", {"label": blocks(12, 5)}, label=labels)
    name = own(tmp_path, folder, {"shuffle": 0})
    with pytest.warns(UserWarning, match=rf"show only {seen} of its 12 classes; take an n of at least 12"):
        load_dataset(name, n=n, balanced=True)


@pytest.mark.parametrize(("asked", "own_n"), [(None, 8), (8, 8), (9, 8), (1, None), (None, None)])
def test_the_number_on_the_card_and_single_samples_are_not_warned_of(
    tmp_path: Path, asked: int | None, own_n: int | None
) -> None:
    labels = datasets.ClassLabel(names=[f"thing {at}" for at in range(40)])
    folder = parquet(tmp_path / "data", {"label": blocks(20, 1)}, label=labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_dataset(own(tmp_path, folder, {"shuffle": 0}, **({"n": own_n} if own_n else {})), n=asked)
    assert len(data) == (asked or own_n or 20)


@pytest.mark.slow
def test_a_balanced_order_takes_classes_in_turn_and_keeps_rows_in_their_split(tmp_path: Path) -> None:
    labels = datasets.ClassLabel(names=["many", "some", "rare", "none"])
    folder = parquet(tmp_path / "data", {"label": [0] * 60 + [1] * 30 + [2] * 10}, label=labels)
    splits = {"test": "test[:50]", "validation": "test[50:80]", "train": "test[80:]"}
    name = own(tmp_path, folder, {"shuffle": 3, "splits": splits})
    for split, size in (("test", 50), ("validation", 30), ("train", 20)):
        plain, balanced = load_dataset(name, split=split), load_dataset(name, split=split, balanced=True)  # type: ignore[arg-type]
        assert sorted(which(plain)) == sorted(which(balanced))
        assert len(plain) == size
        for n in (3, 6, 7, size):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                first = load_dataset(name, split=split, n=n, balanced=True)  # type: ignore[arg-type]
            assert which(first) == which(balanced)[:n]
            counts, there = Counter(first.labels.tolist()), Counter(plain.labels.tolist())
            assert all(counts[one] >= min(counts[other], there[one]) - 1 for one in there for other in there)
        assert sorted(load_dataset(name, split=split, balanced=True).labels.tolist()[:3]) == [0, 1, 2]  # type: ignore[arg-type]
        assert (plain.name, balanced.name, balanced.card.title) == ("own", "own-balanced", "Own, balanced")


def test_balanced_samples_of_a_mirror_are_of_all_classes(tmp_path: Path) -> None:
    root = mirror(tmp_path / "mirror", {"test": 7})
    data = load_dataset("cifar-10", n=6, size=16, data_root=root, balanced=True)
    assert Counter(data.labels.tolist()) == {0: 2, 1: 2, 2: 2}
    assert data.keys[0] == "cifar-10-balanced/test/0"


@pytest.mark.parametrize("name", ["digits", "shapes", "textures"])
def test_sets_without_the_hub_are_balanced_too(name: str) -> None:
    data = load_dataset(name, n=36, balanced=True)
    counts = Counter(data.labels.tolist())
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len(counts) == len(data.classes)
    assert data.name == f"{name}-balanced"


def test_a_set_that_has_no_balanced_order_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="only zero-shot sets have classes to be balanced; it is a set for vqa"):
        load_dataset("shapeworld-vqa", n=3, balanced=True)
    folder = parquet(tmp_path / "data", {"label": [0, 1]}, label=datasets.ClassLabel(names=["a", "b"]))
    with pytest.raises(SettingsError, match="balanced needs the whole split; write 'shuffle: 0'"):
        load_dataset(own(tmp_path, folder, {}), balanced=True)
    with pytest.raises(SettingsError, match="balanced must be true or false, got 'yes'"):
        load_dataset(own(tmp_path, folder, {"shuffle": 0, "balanced": "yes"}))
    world = own(tmp_path, "none", {"label": "shape", "world": {"balance": "colour"}}, source="shapeworld")
    content = yaml.safe_load(Path(world).read_text())
    del content["options"]["repository"]
    Path(world).write_text(yaml.safe_dump(content))
    with pytest.raises(SettingsError, match="its world balances 'colour', not its label"):
        load_dataset(world, n=3, balanced=True)


@pytest.mark.parametrize("labels", [[], [3, 3, 3], [0, 0, 1, 0, 2, 1], ["b", "a", "b", None], [2, 1, 0, 2, 1, 0, 2]])
def test_classes_in_turn(labels: list[object]) -> None:
    order = in_turn(labels)
    assert sorted(order) == list(range(len(labels)))
    turns = [[labels[at] for at in order[:place]].count(labels[order[place]]) for place in range(len(order))]
    assert turns == sorted(turns)
    for one, other in pairwise(order):
        assert one < other or labels[:one].count(labels[one]) < labels[:other].count(labels[other])
