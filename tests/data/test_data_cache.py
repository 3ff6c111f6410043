"""The cache of rendered images: it may be damaged, shared, or missing, and the images are right all the same."""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from radapt.data import _cache, _readers, load_dataset


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RADAPT_CACHE", str(tmp_path))
    return tmp_path / "rendered"


@pytest.fixture
def renders(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of images rendered, one entry per call."""
    calls: list[int] = []
    original = _readers.render

    def counted(world: object, split: object, rows: list[int], **options: int) -> object:
        calls.append(len(rows))
        return original(world, split, rows, **options)

    monkeypatch.setattr(_readers, "render", counted)
    return calls


def test_images_are_rendered_once(folder: Path, renders: list[int]) -> None:
    first = load_dataset("shapes", n=20)
    second = load_dataset("shapes", n=100)
    assert renders == [100]
    np.testing.assert_array_equal(first.images, second.images[:20])
    assert [file.suffix for file in folder.iterdir()] == [".npz"]
    load_dataset("shapes", n=101)
    assert renders == [100, 100]


def test_what_looks_different_is_kept_apart(folder: Path, renders: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, split in (("shapes", "test"), ("shapes", "train"), ("outlines", "test"), ("noisy-shapes", "test")):
        load_dataset(name, split=split, n=1)
    monkeypatch.setattr(_readers, "RENDERER", _readers.RENDERER + 1)
    load_dataset("shapes", n=1)
    assert len(renders) == len(list(folder.iterdir())) == 5


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [cut, flip, lambda _: b"", lambda _: b"not an archive", lambda c: c[:-1]],
    ids=["cut", "flip", "empty", "text", "end"],
)
def test_a_damaged_file_is_rendered_again_with_a_warning(
    folder: Path, renders: list[int], damage: Callable[[bytes], bytes]
) -> None:
    good = load_dataset("shapes", n=10).images
    (file,) = folder.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    with pytest.warns(UserWarning, match="cannot be used"):
        again = load_dataset("shapes", n=10).images
    np.testing.assert_array_equal(again, good)
    load_dataset("shapes", n=10)  # mended: no warning
    assert renders == [100, 100]


@pytest.mark.slow
def test_no_flipped_byte_goes_unnoticed(folder: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    _cache.cached("key", images.shape, lambda: images)
    (file,) = folder.iterdir()
    good = file.read_bytes()
    noticed = 0
    for position in range(len(good)):
        file.write_bytes(good[:position] + bytes([good[position] ^ 0b100101]) + good[position + 1 :])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            np.testing.assert_array_equal(_cache.cached("key", images.shape, lambda: images), images)
        assert all("cannot be used" in str(warning.message) for warning in caught)
        noticed += len(caught)
    assert noticed > len(good) / 2  # the others carry dates and the like


@pytest.mark.parametrize("array", [np.zeros((100, 8, 8, 3), np.uint8), np.zeros((100, 48, 48, 3), np.float32)])
def test_a_file_with_other_content_is_rendered_again(folder: Path, array: NDArray[np.generic]) -> None:
    good = load_dataset("shapes", n=10).images
    (file,) = folder.iterdir()
    np.savez(file, pictures=array)
    with pytest.warns(UserWarning, match="it holds"):
        again = load_dataset("shapes", n=10).images
    np.testing.assert_array_equal(again, good)


def test_pickled_objects_are_never_read(folder: Path) -> None:
    good = load_dataset("shapes", n=10).images
    (file,) = folder.iterdir()
    np.savez(file, pictures=np.array([{"a": 1}], dtype=object))
    with pytest.warns(UserWarning, match="allow_pickle"):
        again = load_dataset("shapes", n=10).images
    np.testing.assert_array_equal(again, good)


def test_without_a_folder_to_write_it_works_and_warns_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_dataset("shapes", n=210).images
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("RADAPT_CACHE", str(blocked))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        images = load_dataset("shapes", n=210).images
        load_dataset("outlines", n=10)
    np.testing.assert_array_equal(images, expected)
    assert [str(w.message).startswith("rendered images cannot be kept") for w in caught] == [True]


def test_a_full_disk_leaves_no_partial_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.warns(UserWarning, match="cannot be kept"):
        assert len(load_dataset("shapes", n=10)) == 10
    assert list(folder.iterdir()) == []


def test_readers_never_see_half_a_file(folder: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (100, 48, 48, 3), dtype=np.uint8)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for round_ in range(15):
                if number == 0:  # one worker keeps removing the file, the others write and read it
                    next(folder.glob("*.npz"), folder / "none").unlink(missing_ok=True)
                got = _cache.cached({"same": "key"}, images.shape, lambda: images)
                np.testing.assert_array_equal(got, images, err_msg=f"round {round_}")
        except BaseException as error:
            failures.append(error)

    _cache.cached({"same": "key"}, images.shape, lambda: images)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.slow
def test_two_processes_fill_one_cache(folder: Path) -> None:
    script = (
        "import hashlib; from radapt.data import load_dataset;"
        "print(hashlib.sha256(load_dataset('shapes', n=300).images.tobytes()).hexdigest())"
    )
    command = [sys.executable, "-W", "error", "-c", script]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert printed[0] == printed[1] != ""
    assert sorted(file.suffix for file in folder.iterdir()) == [".npz"] * 3
