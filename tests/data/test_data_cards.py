"""Cards: what a good one holds, and how a wrong one is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import radapt.data
from radapt.data import Card, card, datasets, load_dataset
from radapt.errors import SettingsError

GOOD: dict[str, Any] = {
    "name": "birds",
    "title": "Birds",
    "task": "zero-shot",
    "source": "shapeworld",
    "metric": "top-1",
    "licence": "CC0-1.0",
    "citation": "None.",
    "description": "Images.",
    "tests": "Nothing.",
    "templates": ["a photo of {a c}"],
    "options": {"label": "shape"},
    "n": 5,
}
REQUIRED = ("name", "title", "task", "source", "metric", "licence", "citation", "description", "tests")


def write(folder: Path, content: object, name: str = "birds.yaml") -> str:
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return str(path)


def test_every_file_of_the_folder_is_a_dataset() -> None:
    files = sorted((Path(radapt.data.__file__).parent / "cards").iterdir())
    assert [file.stem for file in files] == datasets()
    assert {"shapes", "colours", "textures", "compositions", "digits", "shapeworld-retrieval"} <= set(datasets())


def test_names_are_read_as_written_on_a_command_line() -> None:
    assert card("Small_Objects ") == card("small-objects")


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(SettingsError, match=r"unknown dataset 'shape'; did you mean 'shapes'\?"):
        card("shape")


def test_a_card_of_ones_own_is_read_from_its_file(tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path, GOOD), n=3)
    assert (data.name, len(data), data.prompts[9]) == ("birds", 3, ("a photo of an arrow",))
    assert len(load_dataset(write(tmp_path, GOOD))) == 5


def test_class_names_of_the_card_replace_those_of_the_source(tmp_path: Path) -> None:
    content = {
        **GOOD,
        "classes": ["disc", "box"],
        "options": {"label": "shape", "world": {"shape": ["circle", "square"]}},
    }
    assert load_dataset(write(tmp_path, content)).classes == ("disc", "box")
    with pytest.raises(SettingsError, match="2 names for 12 classes"):
        load_dataset(write(tmp_path, {**content, "options": {"label": "shape"}}))


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(SettingsError, match=f"missing {key}"):
        Card.from_dict({k: v for k, v in GOOD.items() if k != key})


@pytest.mark.parametrize("key", REQUIRED)
@pytest.mark.parametrize("value", [None, 3, "", "  ", "two\nlines", ["a"]])
def test_a_text_must_be_one_line(key: str, value: object) -> None:
    with pytest.raises(SettingsError, match=key):
        Card.from_dict({**GOOD, key: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"license": "MIT"}, "unknown key 'license'; did you mean 'licence'"),
        ({"task": "zeroshot"}, "did you mean 'zero-shot'"),
        ({"metric": "top1"}, "did you mean 'top-1'"),
        ({"metric": "CIDEr"}, "Allowed: mean-per-class, top-1"),
        ({"name": "Birds!"}, "lower case letters"),
        ({"n": 0}, "n must be 1 or more"),
        ({"n": 10**23}, "n must be 1 or more, at most 100000000"),
        ({"name": "b" * 10**5}, r"at most 100, got 'b+\.\.\."),
        ({"classes": ["cat", "dog", "cat"]}, r"must be different"),
        ({"classes": ["caf\u00e9", "dog", "cafe\u0301"]}, "the classes 0 and 2 are both called 'cafe"),
        ({"classes": ["tree frog", "tree  frog"]}, "the classes 0 and 1 are both called 'tree  frog'"),
        ({"templates": ["x" * 10**6]}, r"template 'x+\.\.\. has no place"),
        ({"n": True}, r"card: n: input should be a valid integer, got True"),
        ({"n": "all"}, r"card: n: input should be a valid integer, got 'all'"),
        ({"options": ["label"]}, r"card: options: input should be an object, got \['label'\]"),
        ({"templates": []}, "needs templates"),
        ({"templates": "a photo of {c}"}, "card: templates: input should be a valid array, got 'a photo of {c}'"),
        ({"templates": ["a photo"]}, "no place for the class name"),
        ({"templates": ["{c}", "{c}"]}, "must be different"),
        ({"classes": [True, False]}, "card: classes: 0: input should be a valid string, got True"),
        ({"task": "vqa", "metric": "accuracy"}, "belong to zero-shot sets"),
        ({"prompt": "what is it?"}, "a prompt belongs to captioning and vqa, not to zero-shot"),
        ({"task": "vqa", "metric": "F1", "templates": [], "prompt": "look"}, "no place for the question"),
        ({"task": "captioning", "metric": "CIDEr", "templates": [], "prompt": " "}, "prompt must not be empty"),
    ],
)
def test_a_wrong_value_is_explained(change: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Card.from_dict({**GOOD, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "shapewrld"}, "did you mean 'shapeworld'"),
        ({"options": {"label": "shap"}}, "did you mean 'shape'"),
        ({"options": {}}, "unknown label None"),
        ({"options": {"label": "shape", "wrld": {}}}, "did you mean 'world'"),
        ({"options": {"label": "shape", "world": {"colour": "rde"}}}, "birds.*did you mean 'red'"),
        ({"options": {"label": "shape", "world": {"nois": 0.1}}}, "did you mean 'noise'"),
        ({"options": {"label": "shape", "world": 3}}, "world must be a mapping"),
        ({"options": {"label": "shape", "size": 48.0}}, "size must be a whole number"),
        ({"options": {"label": "shape", "size": 10**9}}, "size must be a whole number from 8 up, at most 1024"),
        ({"options": {"label": "shape", "seed": 10**23}}, "seed must be a whole number from 0 up, at most 4294967295"),
        ({"options": {"label": "shape", "world": {"clutter": 10**9}}}, "clutter must be 0 or more, at most 1000"),
        ({"n": 10**8}, "n=100000000 images are too many: at most 39768215 of 48 pixels a side are allowed"),
        ({"source": "digits"}, "unknown option 'label'"),
        ({"source": "digits", "options": {}, "n": 598}, "the test split has 597 samples, n=598"),
    ],
)
def test_wrong_options_are_explained_when_the_set_is_loaded(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        load_dataset(write(tmp_path, {**GOOD, **change}))


@pytest.mark.parametrize("n", [10**9, 10**20, 10**5000], ids=["9", "20", "5000"])
@pytest.mark.parametrize("name", ["shapes", "digits", "shapeworld-retrieval"])
def test_far_too_many_samples_are_refused_at_once(name: str, n: int) -> None:
    with pytest.raises(SettingsError, match="n must be a whole number from 1 up, at most 100000000, got"):
        load_dataset(name, n=n)


def test_images_that_are_too_large_or_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (10**9, 10**23, 1025):
        with pytest.raises(SettingsError, match="size must be a whole number from 8 up, at most 1024"):
            load_dataset("shapes", n=1, size=size)
    with pytest.raises(SettingsError, match="only about 11520 different scenes"):
        load_dataset("shapeworld-retrieval", n=10**6)

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("radapt.data._readers._rendered", full)
    with pytest.raises(SettingsError, match="'shapes': n=7 images are too many: they do not fit into the memory"):
        load_dataset("shapes", n=7)


def test_a_card_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = Path(write(tmp_path, GOOD))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert card(str(path)).title == "Birds"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)), "values"),
        ("x: " + "[" * 5000, "deeper in each other"),
        ("x" * (1 << 21), "more than 1048576 bytes"),
        ("n: 5\nn: 500", "'n' stands twice"),
        ("title: 2024-13-45", "not valid YAML"),
        ("title: 2024-12-31", "something else than plain values"),
        ("title: '\\ud800'\ncitation: \"\\ud800\"", "half of a character"),
    ],
    ids=["aliases", "deep", "large", "twice", "no date", "date", "surrogate"],
)
def test_a_card_that_is_too_much_is_refused_in_one_short_message(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        card(write(tmp_path, text))
    assert len(str(caught.value)) < 500


def test_a_file_that_is_no_card_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read the card .*absent\.yaml"):
        card(str(tmp_path / "absent.yaml"))
    with pytest.raises(SettingsError, match="not valid YAML"):
        card(write(tmp_path, "name: [birds"))
    with pytest.raises(SettingsError, match=r"birds\.yaml: input should be an object, got \['birds'\]"):
        card(write(tmp_path, "- birds"))
    with pytest.raises(SettingsError, match=r"birds\.yaml: unknown key 'license'; did you mean 'licence'"):
        card(write(tmp_path, {**GOOD, "license": "MIT"}))
    with pytest.raises(SettingsError, match=r"birds\.yaml: missing title, metric$"):
        card(write(tmp_path, {key: value for key, value in GOOD.items() if key not in ("title", "metric")}))
    with pytest.raises(SettingsError, match=r"call the file birds\.yaml"):
        card(write(tmp_path, GOOD, "fish.yaml"))
