"""A local mirror of the hub, and several sets as one."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from tests.data.hub_files import archives, mirror, own, which

from radapt.data import Dataset, card, data_root, joined, load_dataset
from radapt.errors import InputError, SettingsError

SETS = {"cifar-10": "wds_vtab-cifar10", "caltech-101": "wds_vtab-caltech101", "dtd": "wds_vtab-dtd"}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables on the disk stay out of the user's own cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.delenv("RADAPT_DATA", raising=False)


@pytest.mark.parametrize("way", ["argument", "block", "variable"])
@pytest.mark.parametrize("name", SETS)
def test_a_shipped_card_reads_the_mirror(name: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = mirror(tmp_path / "mirror", {"test": 6, "train": 7}, (SETS[name],))
    if way == "variable":
        monkeypatch.setenv("RADAPT_DATA", str(root))
    with data_root(root) if way == "block" else nullcontext():
        data = load_dataset(name, n=6, size=16, **({"data_root": root} if way == "argument" else {}))
    assert os.environ.get("RADAPT_DATA") == (str(root) if way == "variable" else None)
    assert sorted(which(data)) == list(range(6))
    assert data.labels.tolist() == [at % 3 for at in which(data)]
    assert data.classes == ("tabby cat", "missile", "projectile")
    assert data.prompts[0] == ("a photo of a tabby cat.",)
    assert data.card.name == name
    assert card(name).options["repository"] == f"clip-benchmark/{SETS[name]}"  # the shipped card is as it was


def test_the_argument_counts_before_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = mirror(tmp_path / "mirror", {"test": 6})
    monkeypatch.setenv("RADAPT_DATA", str(tmp_path / "nowhere"))
    assert len(load_dataset("cifar-10", n=6, size=16, data_root=root)) == 6
    with pytest.raises(SettingsError, match=r"RADAPT_DATA must be a folder .*nowhere"):
        load_dataset("cifar-10", n=6, size=16)


@pytest.mark.parametrize("name", ["cifar-10", "caltech-101"])
def test_training_images_are_of_the_train_files(name: str, tmp_path: Path) -> None:
    root = mirror(tmp_path / "mirror", {"train": 8}, (SETS[name],))  # there is no test split at all
    data = load_dataset(name, split="train", n=8, size=16, data_root=root)
    assert sorted(which(data)) == list(range(8))
    with pytest.raises(SettingsError, match="the train split has 8 samples, n=9 asked for"):
        load_dataset(name, split="train", n=9, size=16, data_root=root)


@pytest.mark.parametrize("name", ["caltech-101", "pets", "imagenet-1k"])
def test_a_set_that_the_mirror_lacks_is_one_error_that_names_the_folder(name: str, tmp_path: Path) -> None:
    root = mirror(tmp_path / "mirror", {"test": 6})
    repository = str(card(name).options["repository"])
    with pytest.raises(SettingsError) as caught:
        load_dataset(name, n=1, data_root=root)
    assert repr(str(root / Path(repository).name)) in str(caught.value)
    assert repository in str(caught.value)


def test_a_mirror_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "file", tmp_path / "none"):
        with pytest.raises(SettingsError, match="data_root must be a folder"):
            load_dataset("cifar-10", n=1, data_root=wrong)


def test_what_is_not_of_the_hub_stays_where_it_is(tmp_path: Path) -> None:
    root = mirror(tmp_path / "mirror", {"test": 6})
    assert len(load_dataset("shapes", n=3, data_root=root)) == 3
    folder = archives(tmp_path / "local", [0, 1, 2])
    path = own(
        tmp_path, folder, {"files": "{split}/*.tar", "classes_file": "classnames.txt", "columns": {"label": "cls"}}
    )
    assert len(load_dataset(path, n=3, data_root=root)) == 3


def _set(name: str, classes: tuple[str, ...], labels: list[int], size: int = 8) -> Dataset:
    images = np.zeros((len(labels), size, size, 3), dtype=np.uint8)
    images += np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    return Dataset(card=card(name), split="train", images=images, labels=torch.tensor(labels), classes=classes)


def test_joined_sets_keep_their_images_and_share_classes_of_one_name() -> None:
    one, two = _set("cifar-10", ("cat", "dog"), [1, 0, 1]), _set("dtd", ("lacelike", "cat"), [0, 1])
    both = joined([one, two])
    assert both.classes == ("cat", "dog", "lacelike")
    assert both.labels.tolist() == [1, 0, 1, 2, 0]
    assert np.array_equal(both.images, np.concatenate([one.images, two.images]))
    assert both.name == "cifar-10-dtd"
    assert set(both.templates) == {*one.templates, *two.templates}
    assert joined([one]).labels.tolist() == one.labels.tolist()


def test_what_cannot_be_joined_is_refused() -> None:
    one = _set("cifar-10", ("cat", "dog"), [1, 0])
    with pytest.raises(InputError, match="images of one size"):
        joined([one, _set("dtd", ("lacelike", "cat"), [0], size=9)])
    with pytest.raises(InputError, match="shapeworld-captions has no classes"):
        joined([one, load_dataset("shapeworld-captions", n=2)])
    with pytest.raises(InputError, match="no datasets"):
        joined([])
    for other in ("validation", "test"):
        late = replace(_set("dtd", ("lacelike", "cat"), [0]), split=other)
        for sets in ([one, late], [late, one], [one, one, late]):
            with pytest.raises(InputError, match=rf"need one split, got .*dtd \({other}\)"):
                joined(sets)
    assert joined([late, late]).split == "test"
