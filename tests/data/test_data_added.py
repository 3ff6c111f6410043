"""Datasets and readers of other packages, which entry points add."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.data.installed import install
from tests.data.test_data_cards import GOOD

from radapt.data import READERS, card, datasets, load_dataset
from radapt.errors import SettingsError

SOURCE = f"""
from pathlib import Path
import numpy as np
import torch
from radapt.data import Card, Dataset

MAPPING = {GOOD!r}
OBJECT = Card.from_dict({{**MAPPING, "name": "fish"}})
FILE = Path(__file__).with_name("trees.yaml")
TEXT = str(FILE)
STRIPES = {{**MAPPING, "name": "stripes", "source": "striped-paper", "options": {{"size": 8}}}}
NOTHING = {{**MAPPING, "name": "nothing", "source": "nothing"}}
WRONG = {{**MAPPING, "license": "MIT"}}
NUMBER = 3

def read(card, split, n):
    size, n = card.options["size"], n or card.n
    images = np.zeros((n, size, size, 3), dtype=np.uint8)
    images[:, ::2] = 255
    labels = torch.arange(n) % 2
    return Dataset(card=card, split=split, images=images, labels=labels, classes=("odd", "even"))

def nothing(card, split, n):
    return None
"""
CARDS = {"birds": "MAPPING", "fish": "OBJECT", "trees": "FILE", "stripes": "STRIPES", "nothing": "NOTHING"}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Installs a package with the entry points that are given."""

    def install_it(**cards: str) -> None:
        points = {name: f"animals:{value}" for name, value in cards.items()}
        readers = {"striped-paper": "animals:read", "nothing": "animals:nothing"}
        install(tmp_path, monkeypatch, "animals", SOURCE, {"radapt.data": points, "radapt.readers": readers})
        (tmp_path / "trees.yaml").write_text(yaml.safe_dump({**GOOD, "name": "trees"}))

    return install_it


def test_cards_are_added_as_objects_mappings_and_files(package: Any) -> None:
    before = datasets()
    package(**CARDS)
    assert datasets() == sorted([*before, *CARDS])
    assert {name: card(name).name for name in CARDS} == {name: name for name in CARDS}
    assert len(load_dataset("Birds ", n=3)) == 3
    with pytest.raises(SettingsError, match=r"unknown dataset 'bird'; did you mean 'birds'\?"):
        card("bird")


def test_a_file_may_be_named_by_its_path(package: Any) -> None:
    package(trees="TEXT")
    assert card("trees").templates == tuple(GOOD["templates"])


def test_a_source_is_added(package: Any) -> None:
    package(**CARDS)
    data = load_dataset("stripes", split="validation", n=4, size=6)
    assert (data.images.shape, data.split, data.labels.tolist()) == ((4, 6, 6, 3), "validation", [0, 1, 0, 1])
    assert READERS.names() == ["digits", "folder", "hub", "nothing", "shapeworld", "striped-paper"]
    with pytest.raises(SettingsError, match=r"'nothing': the reader 'nothing' must give a Dataset, got NoneType"):
        load_dataset("nothing")


def test_a_dataset_of_this_library_is_never_replaced(package: Any) -> None:
    before = card("shapes")
    package(shapes="MAPPING", **CARDS)
    assert card("shapes") is before


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("WRONG", r"dataset 'birds' of animals:WRONG: unknown key 'license'; did you mean 'licence'"),
        ("OBJECT", r"'birds' of animals:OBJECT: its name is 'fish'; entry point and card must have the same name"),
        ("FILE", r"'birds' of animals:FILE: its name is 'trees'"),
        ("NUMBER", r"'birds' of animals:NUMBER: must be a Card, a mapping or the path of a YAML file, got int"),
        ("ABSENT", r"dataset 'birds' is added by animals:ABSENT, which fails: .*no attribute 'ABSENT'"),
    ],
)
def test_a_wrong_entry_point_is_explained(package: Any, value: str, message: str) -> None:
    package(birds=value)
    with pytest.raises(SettingsError, match=message):
        card("birds")
