"""Zero-shot sets of the hub: labels, class names, templates and order, read from files as the hub holds them."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pytest
from tests.data.hub_files import archives, own, parquet, which

from radapt.data import card, load_dataset
from radapt.data._naming import class_names, with_templates
from radapt.errors import InputError, SettingsError

FILES = {"classes_file": "classnames.txt", "templates_file": "templates.txt"}
ARCHIVES = {"files": "{split}/*.tar", "columns": {"label": "cls"}, **FILES}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables on the disk stay out of the user's own cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("kind", ["webp", "png"])
@pytest.mark.parametrize("order", [{}, {"shuffle": 0}])
def test_a_webdataset_brings_its_class_names_and_templates(tmp_path: Path, kind: str, order: dict[str, int]) -> None:
    folder = archives(tmp_path / "data", [0, 0, 1, 2], kind=kind)
    data = load_dataset(own(tmp_path, folder, {**ARCHIVES, **order}))
    assert data.classes == ("tabby cat", "missile", "projectile")
    assert data.prompts[0] == ("a photo of a tabby cat.", "art of the tabby cat.")
    assert sorted(which(data)) == [0, 1, 2, 3]
    assert data.labels.tolist() == [[0, 0, 1, 2][at] for at in which(data)]


def test_a_single_archive_beside_a_text_file_needs_the_pattern(tmp_path: Path) -> None:
    folder = archives(tmp_path / "data", [0, 1])
    with pytest.raises(SettingsError, match=r"no column 'cls' for label.*Allowed: text"):
        load_dataset(own(tmp_path, folder, {**ARCHIVES, "files": None} | {"shuffle": 0}))


def test_only_the_files_of_the_split_are_read(tmp_path: Path) -> None:
    folder = archives(tmp_path / "data", [0, 1])
    (folder / "train").mkdir()
    (folder / "train" / "0.tar").write_bytes(b"broken")
    name = own(tmp_path, folder, {**ARCHIVES, "shuffle": 0})
    assert len(load_dataset(name)) == 2
    with pytest.raises(SettingsError, match=r"shard 1 of 1, '.*train/0.tar', is damaged"):
        load_dataset(name, split="train")


def test_the_shuffled_order_is_the_same_for_every_n(tmp_path: Path) -> None:
    folder = archives(tmp_path / "data", [0] * 15 + [1] * 15, shard=12)
    name = own(tmp_path, folder, {**ARCHIVES, "shuffle": 0})
    data = load_dataset(name)
    assert which(data) == np.random.RandomState(0).permutation(30).tolist()
    for n in (1, 8, 29):
        with pytest.warns(UserWarning, match="show only 2 of its 3 classes") if n > 1 else nullcontext():
            few = load_dataset(name, n=n)
        assert len(set(few.labels.tolist())) == min(n, 2)
        assert (which(few), few.keys) == (which(data)[:n], data.keys[:n])
        assert few.labels.tolist() == data.labels.tolist()[:n]
    assert data.keys[3] == "own/test/3"
    other = load_dataset(own(tmp_path, folder, {**ARCHIVES, "shuffle": 1}))
    assert sorted(which(other)) == sorted(which(data))
    assert which(other) != which(data)


@pytest.mark.parametrize("order", [{}, {"shuffle": 0}])
def test_splits_cut_from_one_share_no_image_whatever_n(tmp_path: Path, order: dict[str, int]) -> None:
    folder = archives(tmp_path / "data", [0] * 10 + [1] * 10)
    splits = {"test": "test[:9]", "validation": "test[9:14]", "train": "test[14:]"}
    name = own(tmp_path, folder, {**ARCHIVES, **order, "splits": splits})
    parts = [which(load_dataset(name, split=split)) for split in splits]
    assert [len(part) for part in parts] == [9, 5, 6]
    assert [at for part in parts for at in part] == (
        np.random.RandomState(0).permutation(20).tolist() if order else list(range(20))
    )
    with pytest.warns(UserWarning, match="show only 2 of its 3 classes") if order else nullcontext():
        assert which(load_dataset(name, split="validation", n=3)) == parts[1][:3]
    with pytest.raises(SettingsError, match=r"test split has 9 samples, n=10 asked for; it is 'test\[:9\]' of"):
        load_dataset(name, n=10)


@pytest.mark.parametrize("order", [{}, {"shuffle": 0}])
def test_class_names_come_with_the_labels(tmp_path: Path, order: dict[str, int]) -> None:
    names = datasets.ClassLabel(names=["apple_pie", "baby_back_ribs", "caesar_salad"])
    folder = parquet(tmp_path / "data", {"variant": [2, 0]}, variant=names)
    data = load_dataset(own(tmp_path, folder, {"columns": {"label": "variant"}, **order}))
    assert data.classes == ("apple pie", "baby back ribs", "caesar salad")
    assert data.labels.tolist() == [[2, 0][at] for at in which(data)]
    kept = load_dataset(own(tmp_path, folder, {"columns": {"label": "variant"}, "replace": {}, **order}))
    assert kept.classes[0] == "apple_pie"
    renamed = own(tmp_path, folder, {"columns": {"label": "variant"}, **order}, classes=["pie", "ribs", "salad"])
    assert load_dataset(renamed).classes == ("pie", "ribs", "salad")
    turned = own(
        tmp_path, folder, {"columns": {"label": "variant"}, **order}, classes=["Baby Back Ribs", "apple pie", "salad"]
    )
    with pytest.raises(SettingsError, match=r"class 0 is 'apple_pie' in the files, and 'Baby Back Ribs' by the card"):
        load_dataset(turned)
    with pytest.raises(SettingsError, match=r"got 2 names for the 3 classes \(apple_pie, "):
        load_dataset(own(tmp_path, folder, {"columns": {"label": "variant"}, **order}, classes=["pie", "ribs"]))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("circle\nsquare\ncircle\n", "the classes 0 and 2 are both called 'circle'"),
        ("tree frog\ntree  frog\n", "the classes 0 and 1 are both called"),
        ("cafe\u0301\ncaf\u00e9\n", "the classes 0 and 1 are both called"),
    ],
)
def test_equal_names_of_a_file_are_refused_and_may_be_renamed(tmp_path: Path, lines: str, message: str) -> None:
    folder = archives(tmp_path / "data", [0, 1])
    (folder / "classnames.txt").write_text(lines, encoding="utf-8")
    with pytest.raises(InputError, match=rf"dataset 'own': {message}.*give one of them another name under rename"):
        load_dataset(own(tmp_path, folder, ARCHIVES))
    renamed = load_dataset(own(tmp_path, folder, {**ARCHIVES, "rename": {0: "ring"}}))
    assert renamed.classes[:2] == ("ring", lines.split("\n")[1])
    for wrong in ({7: "x"}, {"a": "x"}):
        with pytest.raises(SettingsError, match="rename names the label"):
            load_dataset(own(tmp_path, folder, {**ARCHIVES, "rename": wrong}))
    for odd in (["x"], {0: 3}, {0: " "}):
        with pytest.raises(SettingsError, match="rename must be a mapping of labels to names, got"):
            load_dataset(own(tmp_path, folder, {**ARCHIVES, "rename": odd}))


def test_equal_names_of_the_labels_and_of_a_column_are_refused(tmp_path: Path) -> None:
    names = datasets.ClassLabel(names=["tree_frog", "tree frog"])
    folder = parquet(tmp_path / "data", {"label": [0, 1], "text": ["a frog", "a frog"]}, label=names)
    for options in ({}, {"names": "text"}):
        with pytest.raises(InputError, match=r"the classes 0 and 1 are both called '(tree|a) frog'"):
            load_dataset(own(tmp_path, folder, options))
    assert load_dataset(own(tmp_path, folder, {"rename": {1: "toad"}})).classes == ("tree frog", "toad")


@pytest.mark.parametrize("value", [None, 3, "", " "])
def test_a_name_of_a_column_is_a_text(tmp_path: Path, value: Any) -> None:
    texts = [value, value] if isinstance(value, int) else ["a frog", value]
    folder = parquet(tmp_path / "data", {"label": [0, 1], "text": texts})
    with pytest.raises(InputError, match=r"row \d of the split, column 'text': holds .* where the name of a class"):
        load_dataset(own(tmp_path, folder, {"names": "text"}))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_files_of_names_may_have_a_byte_order_mark_and_blank_lines_at_the_end(tmp_path: Path, end: str) -> None:
    folder = archives(tmp_path / "data", [0, 1])
    for file, lines in (("classnames.txt", ["cat", "dog\x85house", ""]), ("templates.txt", ["a {c}", "the {c}", " "])):
        (folder / file).write_bytes(("\ufeff" + end.join([*lines, "", ""])).encode())
    data = load_dataset(own(tmp_path, folder, ARCHIVES))
    assert data.classes == ("cat", "dog\x85house")
    assert data.prompts[0] == ("a cat", "the cat")


def test_a_file_of_names_is_bounded(tmp_path: Path) -> None:
    folder = archives(tmp_path / "data", [0, 1])
    (folder / "classnames.txt").write_text("x\n" * (1 << 22))
    with pytest.raises(SettingsError, match=r"cannot read 'classnames.txt' of .*more than 4194304 bytes"):
        load_dataset(own(tmp_path, folder, ARCHIVES))


@pytest.mark.parametrize(
    ("column", "labels"), [("label", [1, 0, 1]), ("fine_label", [1, 0, 1]), ("cls", [True, False, True])]
)
def test_plain_labels_may_be_numbers_or_true_and_false(tmp_path: Path, column: str, labels: list[Any]) -> None:
    folder = parquet(tmp_path / "data", {column: labels})
    columns = {} if column == "label" else {"columns": {"label": column}}
    data = load_dataset(own(tmp_path, folder, columns, classes=["healthy", "tumour"]))
    assert (data.labels.tolist(), data.classes) == ([1, 0, 1], ("healthy", "tumour"))


@pytest.mark.parametrize("order", [{}, {"shuffle": 0}])
def test_names_of_a_column_do_not_depend_on_n(tmp_path: Path, order: dict[str, int]) -> None:
    texts = ["ak47", "ibis-101", "beer-mug", "ibis-101"]
    folder = parquet(tmp_path / "data", {"label": [1, 114, 10, 114], "text": texts})
    options = {"names": "text", "replace": {"-101": "", "-": " "}, **order}
    for n in (1, 4):
        data = load_dataset(own(tmp_path, folder, options), n=n)
        assert data.classes == ("ak47", "beer mug", "ibis")  # labels in order, from 0 on, whatever they count from
        assert data.labels.tolist() == [[0, 2, 1, 2][at] for at in which(data)]


def test_files_of_the_hub_are_fetched_from_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = archives(tmp_path / "data", [0])
    asked: list[tuple[str, str, str]] = []

    def fetch(repository: str, file: str, *, repo_type: str) -> str:
        asked.append((repository, file, repo_type))
        return str(folder / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    details = card(own(tmp_path, "owner/name", ARCHIVES))
    rows = datasets.Dataset.from_dict({"cls": [0]})
    assert class_names(details, rows, "cls") == {0: "tabby cat", 1: "missile", 2: "projectile"}
    assert with_templates(details).templates == ("a photo of a {c}.", "art of the {c}.")
    assert asked == [("owner/name", "classnames.txt", "dataset"), ("owner/name", "templates.txt", "dataset")]


def test_without_the_hub_there_is_no_silent_replacement(tmp_path: Path) -> None:
    details = card(own(tmp_path, "owner/name", ARCHIVES))
    with pytest.raises(SettingsError, match=r"cannot read 'templates.txt' of 'owner/name' \(templates_file\).*folder"):
        with_templates(details)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"templates_file": "absent.txt"}, r"cannot read 'absent.txt' of .*templates_file.*without templates_file"),
        ({"classes_file": "absent.txt"}, r"cannot read 'absent.txt' of .*classes_file"),
        ({"classes_file": 3}, "classes_file must be the name of a text file of the repository, got 3"),
        ({"templates_file": "classnames.txt"}, "classnames.txt: card 'own'.*"),
        ({"classes_file": "gap.txt"}, "'gap.txt' of .* must have one text per line, and line 2 is empty"),
        ({"classes_file": "nothing.txt"}, "must have one text per line, and it is empty"),
        ({"classes_file": "one.txt"}, "sample 1 has the label 1, and the 1 class names are of the labels 0 to 0"),
        ({"names": "__key__"}, "classes_file and names both name the classes"),
        ({"columns": {"label": "clss"}}, "no column 'clss' for label; did you mean 'cls'"),
        ({"columns": {"label": "__key__"}}, "sample 0 holds 's0000000' where a label"),
        ({"files": 3}, "files must be a pattern"),
        ({"files": "{split}/*.zip"}, "cannot read"),
        ({"shuffle": -1}, "shuffle must be a seed from 0"),
        ({"shuffle": True}, "shuffle must be a seed from 0 .*got True"),
        ({"shufle": 0}, "unknown option 'shufle'; did you mean 'shuffle'"),
    ],
)
def test_what_is_wrong_with_files_and_names_is_said(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    folder = archives(tmp_path / "data", [0, 1])
    (folder / "gap.txt").write_text("a\n\nb\n")
    (folder / "nothing.txt").write_text("\n")
    (folder / "one.txt").write_text("only one")
    with pytest.raises((SettingsError, InputError), match=message):
        load_dataset(own(tmp_path, folder, {**ARCHIVES, **options}))


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"label": [0, 1]}, {}, "nothing names the classes.*under classes.*classes_file.*names"),
        ({"label": [0, 1], "text": ["a", "b"]}, {"names": "txt"}, "no column 'txt' for names; did you mean 'text'"),
        ({"label": [0, 0], "text": ["a", "b"]}, {"names": "text"}, "label 0 is called both 'a' and 'b'"),
        ({"label": [0, 1], "text": ["a", "b"]}, {"names": "text", "replace": ["-"]}, "replace must be a mapping"),
        ({"label": ["a", "b"], "text": ["a", "b"]}, {"names": "text"}, "sample 0 holds 'a' where a label"),
        ({"label": [0, None], "text": ["a", "b"]}, {"names": "text"}, "sample 1 holds None where a label"),
    ],
)
def test_what_is_wrong_with_columns_is_said(
    tmp_path: Path, columns: dict[str, list[Any]], options: dict[str, Any], message: str
) -> None:
    with pytest.raises((SettingsError, InputError), match=message):
        load_dataset(own(tmp_path, parquet(tmp_path / "data", columns), options))


def test_names_belong_to_zero_shot_sets(tmp_path: Path) -> None:
    folder = parquet(tmp_path / "data", {"captions": [["x"]]})
    name = own(tmp_path, folder, FILES, task="captioning", metric="CIDEr", templates=[])
    with pytest.raises(SettingsError, match="unknown option 'classes_file'"):
        load_dataset(name)
