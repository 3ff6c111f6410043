"""Images that are many lie on the disk, and are the same."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from numpy.typing import NDArray

from radapt import load_dataset
from radapt.data import _stack, joined
from radapt.data._stack import stacked
from radapt.errors import SettingsError


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache, with room for 40 kB in memory: three images of 64 pixels a side."""
    monkeypatch.setenv("RADAPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_stack, "_HELD", 40_000)
    return tmp_path / "cache"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for at in range(5):
            image = rng.integers(0, 256, (64, 80, 3), dtype=np.uint8)
            PIL.Image.fromarray(image).save(tmp_path / "photos" / name / f"{at}.png")
    return tmp_path / "photos"


def drawn(count: int) -> Iterator[NDArray[np.uint8]]:
    rng = np.random.default_rng(1)
    for _ in range(count):
        yield rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("count", [1, 3, 4, 11])
def test_images_are_the_same_wherever_they_lie(place: Path, count: int) -> None:
    found = stacked(drawn(count))
    assert isinstance(found, np.memmap) == (count > 3)
    assert np.array_equal(found, np.stack(list(drawn(count))))
    if count > 3:
        assert list((place / "rendered").iterdir()) == []  # a file without a name


def test_a_folder_of_many_images_is_the_dataset_that_it_is_in_memory(
    photos: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = load_dataset(photos, size=64)
    assert isinstance(there.images, np.memmap)
    monkeypatch.setattr(_stack, "_HELD", 1 << 30)
    here = load_dataset(photos, size=64)
    assert not isinstance(here.images, np.memmap)
    assert there.digests == here.digests
    assert torch.equal(there.pixels([7, 0]), here.pixels([7, 0]))
    monkeypatch.setattr(_stack, "_HELD", 40_000)
    both = joined([there, here])
    assert isinstance(both.images, np.memmap)
    assert both.digests == here.digests * 2


def test_a_disk_without_room_is_a_clear_error(place: Path, photos: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))  # a file may be no larger: five images
    try:
        with pytest.raises(SettingsError, match=r"5 images take more .*File too large.*set RADAPT_CACHE"):
            load_dataset(photos, size=64)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (place / "rendered").rmdir()
    place.rmdir()
    place.write_text("a file where the folder would be")
    with pytest.raises(SettingsError, match=r"4 images take more .* cannot be kept in"):
        load_dataset(photos, size=64)
