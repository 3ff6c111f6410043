"""Data sets of the hub, read from files in the formats in which the hub holds them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from radapt.data import Dataset, card, load_dataset
from radapt.data import datasets as names
from radapt.errors import InputError, SettingsError

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the library keeps on the disk stays out of the user's own cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def photo(at: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """Of one colour, wider than high."""
    return Image.new("RGB", size, COLOURS[at % len(COLOURS)])


def parquet(folder: Path, columns: dict[str, list[Any]], split: str = "test") -> Path:
    folder.mkdir(exist_ok=True)
    rows = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    rows.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    return folder


def card_for(folder: Path, task: str, repository: Path, **changes: Any) -> str:
    import yaml

    facts = {"name": "own", "title": "Own", "task": task, "source": "hub", "licence": "MIT", "citation": "None."}
    facts |= {"description": "Images.", "tests": "Colour."}
    facts["metric"] = {"captioning": "CIDEr", "retrieval": "recall@1", "vqa": "accuracy", "zero-shot": "top-1"}[task]
    content: dict[str, Any] = {**facts, "options": {"repository": str(repository), "size": 16}, **changes}
    if "options" in changes:
        content["options"] = {"repository": str(repository), "size": 16, **changes["options"]}
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def colours(data: Dataset) -> list[tuple[int, ...]]:
    return [tuple(image[8, 8].tolist()) for image in data.images]


def test_captions_come_from_parquet_in_order_and_cut_to_size(tmp_path: Path) -> None:
    given = [["a red one", "red"], ["a green one"], ["blue "], ["yellow"]]
    folder = parquet(tmp_path / "data", {"image": [photo(i) for i in range(4)], "text": given})
    name = card_for(tmp_path, "captioning", folder, options={"columns": {"captions": "text"}})
    data = load_dataset(name, n=3)
    assert data.images.shape == (3, 16, 16, 3)
    assert colours(data) == COLOURS[:3]
    assert data.captions == (("a red one", "red"), ("a green one",), ("blue",))
    assert load_dataset(name, n=2, size=24).images.shape == (2, 24, 24, 3)
    assert len(load_dataset(name)) == 4


def test_the_middle_of_an_image_is_kept(tmp_path: Path) -> None:
    wide = np.zeros((20, 60, 3), dtype=np.uint8)
    wide[:, 20:40] = 200
    folder = parquet(tmp_path / "data", {"image": [Image.fromarray(wide)], "captions": [["x"]]})
    image = load_dataset(card_for(tmp_path, "captioning", folder, options={"size": 20})).images[0]
    assert image.min() == 200


def test_captions_come_from_webdataset(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    with tarfile.open(folder / "test-0.tar", "w") as tar:
        for at in range(2):
            buffer = io.BytesIO()
            photo(at).save(buffer, "PNG")
            for ending, content in (("png", buffer.getvalue()), ("txt", b"one\ntwo\n")):
                entry = tarfile.TarInfo(f"s{at:07d}.{ending}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    options = {"columns": {"captions": "txt"}}
    data = load_dataset(card_for(tmp_path, "retrieval", folder, options=options), n=2)
    assert data.captions == (("one", "two"), ("one", "two"))
    assert colours(data) == COLOURS[:2]


def test_questions_keep_all_answers(tmp_path: Path) -> None:
    answers = [[{"answer": "red"}, {"answer": "crimson"}], [{"answer": "green"}]]
    columns = {"image": [photo(0), photo(1)], "question": ["what? ", "which?"], "answers": answers}
    data = load_dataset(card_for(tmp_path, "vqa", parquet(tmp_path / "data", columns)))
    assert data.questions == ((("what?", "red", "crimson"),), (("which?", "green"),))
    assert data.prompt("what?").startswith("what? Answer")


def test_labels_need_the_names_of_the_classes(tmp_path: Path) -> None:
    folder = parquet(tmp_path / "data", {"image": [photo(0), photo(1)], "label": [1, 0]})
    settings: dict[str, Any] = {"templates": ["a {c}."]}
    data = load_dataset(card_for(tmp_path, "zero-shot", folder, classes=["green", "red"], **settings))
    assert data.labels.tolist() == [1, 0]
    with pytest.raises(SettingsError, match="nothing names the classes"):
        load_dataset(card_for(tmp_path, "zero-shot", folder, **settings))


def test_splits_may_share_a_file_and_no_row(tmp_path: Path) -> None:
    columns = {"image": [photo(i) for i in range(5)], "captions": [[str(i)] for i in range(5)]}
    splits = {"test": "validation[:3]", "train": "validation[3:]"}
    folder = parquet(tmp_path / "data", columns, split="validation")
    name = card_for(tmp_path, "captioning", folder, options={"splits": splits})
    assert load_dataset(name, n=3).captions == (("0",), ("1",), ("2",))
    assert load_dataset(name, split="train", n=2).captions == (("3",), ("4",))
    with pytest.raises(SettingsError, match="the train split has 2 samples, n=3 asked for"):
        load_dataset(name, split="train", n=3)


@pytest.mark.parametrize(
    ("splits", "asked"),
    [
        ({"test": "validation"}, "validation"),
        ({"test": "validation[:3]", "train": "validation[3:]"}, "validation"),
        ({"test": "validation[:4]", "validation": "validation[3:]"}, "test"),
        ({"test": "validation[:4]", "validation": "validation[3:]"}, "validation"),
        ({"test": "validation", "train": "validation"}, "train"),
    ],
)
def test_splits_that_share_rows_are_refused(tmp_path: Path, splits: dict[str, str], asked: Any) -> None:
    columns = {"image": [photo(i) for i in range(5)], "captions": [[str(i)] for i in range(5)]}
    folder = parquet(tmp_path / "data", columns, split="validation")
    name = card_for(tmp_path, "captioning", folder, options={"splits": splits})
    with pytest.raises(SettingsError, match=f"the {asked} split.* would share rows with"):
        load_dataset(name, split=asked, n=1)


def test_files_that_no_split_tells_apart_are_test_alone(tmp_path: Path) -> None:
    """``files`` without a place for the split names the same rows for all of them."""
    columns = {"image": [photo(i) for i in range(6)], "captions": [[str(i)] for i in range(6)]}
    folder = parquet(tmp_path / "data", columns, split="all")
    options: dict[str, Any] = {"files": "**/*.parquet"}
    name = card_for(tmp_path, "captioning", folder, options=options)
    assert len(load_dataset(name, n=6)) == 6
    for split in ("train", "validation"):
        with pytest.raises(SettingsError, match="are the same for every split, so that there is test alone"):
            load_dataset(name, split=split, n=2)
    # Names of splits do not tell them apart either; rows do.
    named = card_for(tmp_path, "captioning", folder, options={**options, "splits": {"train": "a", "test": "b"}})
    with pytest.raises(SettingsError, match="would share rows"):
        load_dataset(named, n=2)
    cut = card_for(tmp_path, "captioning", folder, options={**options, "splits": {"train": "a[2:]", "test": "b[:2]"}})
    assert load_dataset(cut, n=2).captions == (("0",), ("1",))
    assert load_dataset(cut, split="train", n=4).captions == (("2",), ("3",), ("4",), ("5",))


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    folder = parquet(tmp_path / "data", {"image": [photo(0)], "caption": [["x"]]})
    with pytest.raises(SettingsError, match=r"no column 'captions' for captions.*caption.*write it under columns"):
        load_dataset(card_for(tmp_path, "captioning", folder))
    with pytest.raises(SettingsError, match=r"cannot read .*split 'nowhere'"):
        load_dataset(card_for(tmp_path, "captioning", folder, options={"splits": {"test": "nowhere"}}))
    with pytest.raises(SettingsError, match="need a repository and a size"):
        load_dataset(card_for(tmp_path, "captioning", folder, options={"size": 2}))
    with pytest.raises(SettingsError, match="columns must be a mapping"):
        load_dataset(card_for(tmp_path, "captioning", folder, options={"columns": ["image"]}))
    with pytest.raises(SettingsError, match="unknown option 'repo'"):
        load_dataset(card_for(tmp_path, "captioning", folder, options={"repo": "x"}))
    with pytest.raises(SettingsError, match="HF_TOKEN"):
        load_dataset(card_for(tmp_path, "captioning", tmp_path / "missing"))
    empty = parquet(tmp_path / "empty", {"image": [photo(0)], "captions": [[" "]]})
    with pytest.raises(InputError, match="no captions or answers"):
        load_dataset(card_for(tmp_path, "captioning", empty))
    long = parquet(tmp_path / "long", {"image": [photo(0, (900, 2))], "captions": [["x"]]})
    with pytest.raises(InputError, match="sample 0"):
        load_dataset(card_for(tmp_path, "captioning", long))


def bounds(part: str) -> tuple[str, float, float]:
    """A split of theirs, the first row and the end: ``test[1000:]`` is from row 1000 to infinity."""
    name, _, rows = part.rstrip("]").partition("[")
    first, _, end = rows.partition(":")
    return name, float(first or 0), float(end or "inf")


def test_cards_of_the_hub_keep_test_and_training_rows_apart() -> None:
    for name in names():
        details = card(name)
        if details.source != "hub" or "splits" not in details.options:
            continue
        splits: Any = details.options["splits"]
        if name == "pope":  # its questions about an image lie all over it, so that no rows of it stand apart
            assert splits == {"test": "test"}
            continue
        test, validation, train = (bounds(splits[ours]) for ours in ("test", "validation", "train"))
        assert details.n is not None
        assert test[0] == validation[0]
        assert test[1] + details.n <= test[2] <= validation[1] < validation[2]
        if train[0] == test[0]:
            assert validation[2] <= train[1] < train[2]
        else:  # a whole split of theirs
            assert (test[0], splits["train"]) == ("test", "train")
