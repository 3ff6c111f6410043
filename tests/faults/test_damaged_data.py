"""Damaged images and archives in the middle of a dataset: named, and never missing in silence."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image
from tests.data.hub_files import archives, own, parquet

import radapt
from radapt.data import load_dataset
from radapt.errors import SettingsError
from radapt.reports import write_report
from radapt.results import Results, Sample

ARCHIVES = {"files": "{split}/*.tar", "columns": {"label": "cls"}, "classes_file": "classnames.txt"}
IMAGES = 8


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the library keeps on the disk stays out of the user's own cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def folder(root: Path) -> Path:
    numbers = np.random.default_rng(0)
    for at in range(IMAGES):
        place = root / ("red" if at % 2 else "blue")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(numbers.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(place / f"{at}.png")
    return root


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def evaluated(data: Path, file: Path) -> dict[str, list[Sample]]:
    """The samples of each attack, without their positions; each is measured alone, so that neighbours have no part."""
    radapt.evaluate(
        "CLIP=micro/clip",
        data=data,
        attack=["pgd", "fgsm"],
        options={"pgd.steps": 2},
        source="self",
        results=file,
        chunk_size=1,
        sanity=False,
        quiet=True,
    )
    with Results(file, read_only=True) as results:
        return {
            result.setting.attack: [replace(sample, position=0) for sample in results.samples(result.setting)]
            for result in results.all()
        }


@pytest.mark.slow
def test_a_damaged_image_of_a_folder_is_left_out_of_every_result_and_the_rest_goes_on(tmp_path: Path) -> None:
    root, file = folder(tmp_path / "set"), tmp_path / "r.sqlite"
    whole = evaluated(root, file)
    shutil.copyfile(root / "red" / "3.png", tmp_path / "kept.png")
    cut(root / "red" / "3.png")
    with pytest.warns(UserWarning, match=r"dataset 'set': sample (\d): '.*3.png' cannot be read to its end") as caught:
        found = evaluated(root, file)
    lost = int(str(caught[0].message).partition("sample ")[2][0])
    for attack, samples in whole.items():
        assert found[attack] == samples[:lost] + samples[lost + 1 :]
    with Results(file, read_only=True) as results:
        assert {(result.n, result.setting.planned, result.setting.left_out) for result in results.all()} == {
            (IMAGES - 1, IMAGES, (lost,))
        }
    write_report(file, tmp_path / "report", formats=("md", "html"))
    for name in ("table.md", "report.html"):
        text = (tmp_path / "report" / name).read_text()
        assert f"{IMAGES - 1} of {IMAGES} samples" in text
        assert f"1 images cannot be read and are left out (samples {lost})" in text
    shutil.copyfile(tmp_path / "kept.png", root / "red" / "3.png")
    assert evaluated(root, file) == whole  # what was measured of the whole set is there still


def truncated(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2 // 512 * 512 + 100])


def scrambled(file: Path) -> None:
    content = bytearray(file.read_bytes())
    middle = len(content) // 2 // 512 * 512
    content[middle : middle + 1024] = b"\xff" * 1024
    file.write_bytes(content)


def at_the_end(file: Path) -> None:
    """Without the zeros that say that nothing follows."""
    content = file.read_bytes().rstrip(b"\0")
    file.write_bytes(content[: len(content) // 512 * 512])


@pytest.mark.parametrize("damage", [truncated, scrambled, at_the_end, lambda file: file.write_bytes(b"no archive")])
@pytest.mark.parametrize("order", [{}, {"shuffle": 0}])
def test_a_damaged_archive_is_named_and_no_other_rows_take_the_places_of_its_own(
    damage: Callable[[Path], Any], order: dict[str, int], tmp_path: Path
) -> None:
    root = archives(tmp_path / "data", [at % 3 for at in range(30)], kind="png", shard=10)
    archives(tmp_path / "other", [0], split="train")
    (tmp_path / "other" / "train" / "0.tar").rename(root / "test" / "readme.tar.part")
    name = own(tmp_path, root, {**ARCHIVES, **order})
    whole = (root / "test" / "1.tar").read_bytes()
    damage(root / "test" / "1.tar")
    with pytest.raises(SettingsError, match=r"dataset 'own': shard 2 of 3, '.*test/1\.tar', is damaged: .*get it"):
        load_dataset(name, n=5)
    (root / "test" / "1.tar").write_bytes(whole)
    assert len(load_dataset(name)) == 30


@pytest.mark.parametrize("order", [{}, {"shuffle": 0}])
def test_a_sample_of_an_archive_whose_image_is_damaged_or_missing_is_left_out(
    order: dict[str, int], tmp_path: Path
) -> None:
    labels = [at % 3 for at in range(30)]
    root = archives(tmp_path / "data", labels, kind="png", shard=10)
    whole = load_dataset(own(tmp_path, root, {**ARCHIVES, **order}))
    file = root / "test" / "1.tar"
    content = file.read_bytes()
    png = content.index(b"\x89PNG", len(content) // 3)
    content = content[: png + 20] + b"\xff" * 20 + content[png + 40 :]
    file.write_bytes(content)
    with tarfile.open(file) as rest, tarfile.open(tmp_path / "new.tar", "w") as new:
        for member in rest.getmembers():
            if member.name != "s0000017.png":
                new.addfile(member, rest.extractfile(member))
    (tmp_path / "new.tar").replace(file)
    with pytest.warns(UserWarning, match=r"sample \d+.* left out") as caught:
        data = load_dataset(own(tmp_path, root, {**ARCHIVES, **order}))
    assert len(data.left_out) == len(caught) == 2
    assert any("has no image" in str(each.message) for each in caught)
    kept = [at for at in range(30) if at not in data.left_out]
    assert data.digests == tuple(whole.digests[at] for at in kept)
    assert data.keys == tuple(whole.keys[at] for at in kept)


@pytest.mark.parametrize("order", [{}, {"shuffle": 0}])
def test_a_damaged_table_is_refused_with_the_reason(order: dict[str, int], tmp_path: Path) -> None:
    root = parquet(tmp_path / "data", {"label": [0, 1] * 20}, label=datasets.ClassLabel(names=["a", "b"]))
    (file,) = (root / "data").iterdir()
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(SettingsError, match=r"cannot read .*, split 'test'.*: (?!An error occurred).*check the files"):
        load_dataset(own(tmp_path, root, order))
