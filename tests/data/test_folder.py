"""Image folders by their path alone: classes, splits, order, and what is refused."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import pytest
import yaml
from tests.data.hub_files import photo, which
from tests.tiny import tiny_clip

import radapt
from radapt.data import card, load_dataset
from radapt.errors import InputError, SettingsError

CLASSES = ("dog", "Tabby_cat", "train")


def images(root: Path, counts: dict[str, int], start: int = 0) -> Path:
    """Images of grey levels from ``start`` on, in a folder for each class, in turn as PNG and JPEG."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for _ in range(count):
            photo(start).save(root / name / f"{start:03}.{('png', 'JPG')[start % 2]}")
            start += 1
    return root


def test_a_folder_of_classes_is_a_test_split(tmp_path: Path) -> None:
    root = images(tmp_path / "My Pets_2", dict.fromkeys(CLASSES, 4))
    (root / ".hidden").mkdir()
    (root / "README.md").write_text("not an image")
    (root / "dog" / "Thumbs.db").write_text("not an image")
    data = load_dataset(root, size=16)
    assert data.name == "my-pets-2"
    assert data.classes == ("Tabby cat", "dog", "train")  # of folders sorted by name, in every file system
    assert data.images.shape == (12, 16, 16, 3)
    assert sorted(which(data)) == list(range(12))
    assert data.labels.tolist() == [(1, 0, 2)[at // 4] for at in which(data)]
    assert data.prompts[0] == ("a photo of a Tabby cat.",)
    assert which(data) != sorted(which(data))  # shuffled
    assert load_dataset(str(root), size=16).digests == data.digests
    for split in ("train", "validation"):
        with pytest.raises(SettingsError, match=rf"has no images for {split}, only for test; put those into a folder"):
            load_dataset(root, split=split)


@pytest.mark.parametrize("validation", ["val", "validation", "Valid"])
def test_folders_of_splits_are_splits(tmp_path: Path, validation: str) -> None:
    images(tmp_path / "birds" / "test", {"jay": 3, "tit": 3})
    images(tmp_path / "birds" / "train", {"jay": 2, "tit": 5, "owl": 1}, start=50)
    images(tmp_path / "birds" / validation, {"owl": 2}, start=100)
    sets = {split: load_dataset(tmp_path / "birds", split=split, size=16) for split in radapt.types.Split.__args__}
    assert {split: sorted(which(data)) for split, data in sets.items()} == {
        "test": list(range(6)), "train": list(range(50, 58)), "validation": [100, 101],
    }  # fmt: skip
    for data in sets.values():
        assert data.classes == ("jay", "owl", "tit")  # labels mean the same in every split
    assert sets["validation"].labels.tolist() == [1, 1]


def test_a_larger_n_extends_a_smaller_one(tmp_path: Path) -> None:
    root = images(tmp_path / "set", {"one": 9, "two": 2, "three": 6})
    for balanced in (False, True):
        whole = which(load_dataset(root, size=16, balanced=balanced))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for n in (1, 2, 5, 16):
                assert which(load_dataset(root, n=n, size=16, balanced=balanced)) == whole[:n]
    with pytest.raises(SettingsError, match="the test split has 17 samples, n=18 asked for"):
        load_dataset(root, n=18)


def test_balanced_samples_cover_all_classes(tmp_path: Path) -> None:
    root = images(tmp_path / "set", {f"thing {at}": 5 for at in range(12)} | {"rare": 1})
    with pytest.warns(UserWarning, match=r"first 20 samples of 'set', split 'test', show only \d+ of its 13 classes"):
        load_dataset(root, n=20, size=16)
    data = load_dataset(root, n=26, size=16, balanced=True)  # no warning
    assert data.name == "set-balanced"
    assert sorted(Counter(data.labels.tolist()).values()) == [1, *[2] * 11, 3]
    assert Counter(data.labels.tolist()[:13]) == dict.fromkeys(range(13), 1)


def test_a_card_of_ones_own_names_the_classes(tmp_path: Path) -> None:
    root = images(tmp_path / "set", {"n01": 2, "n02": 2})
    content = {
        "name": "own", "title": "Own", "task": "zero-shot", "source": "folder", "licence": "MIT", "citation": "None.",
        "metric": "mean-per-class", "description": "Images.", "tests": "Colour.", "templates": ["the {c}"],
    }  # fmt: skip
    path = tmp_path / "own.yaml"

    def load(classes: list[str], **options: object) -> radapt.Dataset:
        path.write_text(yaml.safe_dump({**content, "classes": classes, "options": {"path": str(root), **options}}))
        return load_dataset(path)

    assert load(["tench", "hen"], size=16).classes == ("tench", "hen")
    assert which(load(["tench", "hen"], size=16)) == [0, 1, 2, 3]  # by class and name, as no seed is given
    assert load(["tench", "hen"], size=16, balanced=True).labels.tolist() == [0, 1, 0, 1]
    for wrong, message in (
        ({"shufle": 0}, "unknown option 'shufle'.*did you mean 'shuffle'"),
        ({"shuffle": "yes"}, "shuffle must be a whole number"),
        ({"balanced": 1}, "balanced must be true or false, got 1"),
        ({"size": 4}, "size must be a whole number from 8"),
        ({"path": 3}, "need the path of a folder"),
        ({"path": str(tmp_path / "nowhere")}, "there is no folder"),
    ):
        with pytest.raises(SettingsError, match=message):
            load(["tench", "hen"], **wrong)
    with pytest.raises(SettingsError, match="1 names for 2 classes"):
        load(["tench"])
    for turned in (["n02", "n01"], ["N02", "tench"], ["hen", "n01"]):  # each would name another class's images
        with pytest.raises(SettingsError, match=r"class \d is 'n0\d' in the files, and '[nN]0\d' by the card"):
            load(turned)
    assert load(["N01", "n02"], size=16).classes == ("N01", "n02")


def test_a_folder_never_takes_the_name_of_another_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images(tmp_path / "shapes", {"one": 2, "two": 2})
    monkeypatch.chdir(tmp_path)
    assert card("shapes").source == "shapeworld"
    assert card("./shapes").name == card(str(tmp_path / "shapes")).name == "shapes-folder"
    assert card(".").source == "folder"
    with pytest.raises(SettingsError, match=r"unknown dataset 'shape'; did you mean 'shapes'.*folder of images"):
        card("shape")
    with pytest.raises(SettingsError, match="unknown dataset ''"):
        card("")


def loose(root: Path) -> None:
    photo(0).save(root / "0.png")


def nested(root: Path) -> None:
    (root / "one" / "more").mkdir()


def archive(root: Path) -> None:
    (root / "one" / "0.tar").write_bytes(b"")


def mixture(root: Path) -> None:
    images(root / "test", {"one": 1, "two": 1})


def twice(root: Path) -> None:
    for split in ("val", "validation"):
        images(root / split, {"one": 1, "two": 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (loose, r"outside the folders of the classes, such as '0.png'"), (nested, "a folder 'more' in that of a class"),
        (archive, "0.tar' is no image; .*'source: hub'"),
        (mixture, r"folders of splits \(test\) and others beside them .*one"), (twice, "are both for validation"),
    ],
)  # fmt: skip
def test_what_is_not_expected_is_refused(tmp_path: Path, change: object, message: str) -> None:
    root = images(tmp_path / "set", {"one": 2, "two": 2})
    change(root)  # type: ignore[operator]
    with pytest.raises((SettingsError, InputError), match=message):
        load_dataset(root)


def test_a_file_that_is_no_image_is_named_and_left_out(tmp_path: Path) -> None:
    root = images(tmp_path / "set", {"one": 2, "two": 2})
    whole = load_dataset(root)
    (root / "one" / "001.JPG").write_bytes(b"blue")
    with pytest.warns(UserWarning, match=r"dataset 'set': sample \d: '.*001.JPG' is not an image .* left out"):
        data = load_dataset(root)
    (lost,) = data.left_out
    rest = [at for at in range(4) if at != lost]
    assert data.labels.tolist() == whole.labels[rest].tolist()
    assert data.keys == tuple(whole.keys[at] for at in rest)
    assert data.digests == tuple(whole.digests[at] for at in rest)


@pytest.mark.parametrize("names", [(), ("one",)])
def test_fewer_than_two_classes_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    root = images(tmp_path / "set", dict.fromkeys(names, 2))
    root.mkdir(exist_ok=True)
    with pytest.raises(SettingsError, match="images for each of two classes or more"):
        load_dataset(root)
    images(root, {"two": 0, "three": 0})
    with pytest.raises(SettingsError, match=r"three.*hold no images"):
        load_dataset(root)


def test_a_folder_is_evaluated_by_its_path(tmp_path: Path) -> None:
    one = images(tmp_path / "a" / "set", {"one": 2, "two": 2})
    other = images(tmp_path / "b" / "set", {"one": 2, "two": 2}, start=9)
    model, settings = tiny_clip(), {"attack": None, "quiet": True, "sanity": False, "results": tmp_path / "r.sqlite"}
    (result,) = radapt.evaluate(model, data=one, **settings)
    assert (result.setting.dataset, result.n) == ("set", 4)
    (result,) = radapt.evaluate(model, data=str(one), n=2, balanced=True, **settings)
    assert (result.setting.dataset, result.n) == ("set-balanced", 2)
    assert len(radapt.evaluate(model, data=[one, one], **settings)) == 1  # it is one set
    with pytest.raises(SettingsError, match="two datasets with different samples are called 'set'"):
        radapt.evaluate(model, data=[one, other], **settings)


def test_no_class_and_no_image_goes_missing_for_its_name(tmp_path: Path) -> None:
    root = images(tmp_path / "set", {"__background__": 2, "cat": 2})
    photo(9).save(root / "cat" / "__9.png")
    (root / "__MACOSX").mkdir()
    data = load_dataset(root, size=16)
    assert len(data) == 5
    assert len(data.classes) == 2
    photo(1).save(root / "loose.bmp")
    with pytest.raises(SettingsError, match=r"images outside the folders of the classes, such as 'loose\.bmp'"):
        load_dataset(root, size=16)


def test_classes_that_differ_in_capitals_alone_are_refused(tmp_path: Path) -> None:
    root = images(tmp_path / "set", {"Circle": 2, "circle": 2})
    with pytest.raises(InputError, match="so that neither can be told apart"):
        load_dataset(root, size=16)


def test_a_folder_without_images_is_no_class(tmp_path: Path) -> None:
    root = images(tmp_path / "set", {"cats": 2, "dogs": 2})
    (root / "notes").mkdir()
    with pytest.raises(SettingsError, match=r"\['notes'\] of .*hold no images; remove them"):
        load_dataset(root)
    split = images(tmp_path / "splits" / "train", {"cats": 2, "dogs": 2, "eels": 1})
    images(tmp_path / "splits" / "test", {"cats": 2, "dogs": 2})
    (tmp_path / "splits" / "test" / "eels").mkdir()  # none of its images are for testing
    assert load_dataset(split.parent).classes == ("cats", "dogs", "eels")
