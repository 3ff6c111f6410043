"""The digits that ship with scikit-learn."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn import datasets

from radapt.data.digits import load_digits
from radapt.errors import SettingsError


def test_splits_are_the_parts_of_the_file_in_its_order() -> None:
    target = datasets.load_digits().target
    parts = [load_digits(split, 8) for split in ("train", "validation", "test")]
    assert [len(images) for images, _ in parts] == [1000, 200, 597]
    assert np.array_equal(np.concatenate([labels for _, labels in parts]), target)


def test_images_are_the_scans() -> None:
    images, _ = load_digits("test", 8)
    scans = datasets.load_digits().images[1200:]
    assert images.dtype == np.uint8
    assert np.array_equal(images, np.rint(scans * 255 / 16)[..., None].repeat(3, axis=3))


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(SettingsError, match=r'pip install "radapt\[digits\]"'):
        load_digits("test", 8)
