"""What rows hold as truth: read where it is clear what is meant, refused everywhere else."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image
from tests.data.hub_files import own, parquet

from radapt.data import load_dataset
from radapt.data._truth import FIELDS, label_of, question_of, texts_of
from radapt.errors import InputError, SettingsError

CAPTIONS: dict[str, Any] = {"task": "captioning", "metric": "CIDEr", "templates": []}
QUESTIONS: dict[str, Any] = {"task": "vqa", "metric": "accuracy", "templates": []}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables on the disk stay out of the user's own cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize(
    ("value", "field", "expected"),
    [
        ("a dog", None, ("a dog",)),
        ("one\r\n two \nthree\n", None, ("one", "two", "three")),
        ("[a dog]", None, ("[a dog]",)),
        (["a", " b "], None, ("a", "b")),
        (["a", "", "b"], None, ("a", "", "b")),
        ([{"answer": "a", "answer_id": 1}, {"answer": "b", "answer_id": 2}], None, ("a", "b")),
        ([{"raw": "a", "tokens": ["a"], "sentid": 0}], None, ("a",)),
        ({"raw": ["a", "b"], "id": [1, 2]}, None, ("a", "b")),
        ({"caption": "a", "id": 3}, None, ("a",)),
        ({"text": ["a"], "raw": ["b"]}, "raw", ("b",)),
        ([{"de": "ein Hund", "en": "a dog"}], "en", ("a dog",)),
    ],
)
def test_what_is_clear_is_read(value: object, field: str | None, expected: tuple[str, ...]) -> None:
    assert texts_of("x", "y", value, field) == expected


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (None, None),
        (3, None),
        (2.5, None),
        (True, None),
        (b"bytes", None),
        ("", None),
        (" \n ", None),
        ([], None),
        (["", " "], None),
        (["a", None], None),
        (["a", 3], None),
        ([b"a"], None),
        ([["a"], ["b"]], None),
        ([{"id": 1}], None),
        ([{"answer": None}], None),
        ([{"answer": "a"}, {"reply": "b"}], None),
        ([{"text": "a", "answer": "b"}], None),
        ({"id": [1, 2]}, None),
        ({"raw": [["a"]]}, None),
        ({"raw": None}, None),
        ({"raw": ["a"], "text": ["b"]}, None),
        ({"raw": ["a"]}, "text"),
        ("['a dog', 'a cat']", None),
        ('["a dog"]', None),
    ],
)
def test_what_is_not_clear_is_refused(value: object, field: str | None) -> None:
    with pytest.raises(InputError, match=r"^sample 3 has no captions or answers in the column 'y', got ") as caught:
        texts_of("sample 3", "y", value, field)
    assert ("'text'" if field else ", ".join(FIELDS)) in str(caught.value)


def test_a_message_shows_no_more_than_a_piece() -> None:
    with pytest.raises(InputError) as caught:
        texts_of("sample 3", "y", [3] * 10**6, None)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("value", [None, 3, "", "  ", ["what?"], b"what?", {"text": "what?"}])
def test_a_question_is_a_text(value: object) -> None:
    assert question_of("x", "y", " what? ") == "what?"
    with pytest.raises(InputError, match=r"x holds .* where a question, a text, is expected \(column 'y'\)"):
        question_of("x", "y", value)


@pytest.mark.parametrize("value", [None, 1.0, float("nan"), "1", "cat", b"1", [1], {"label": 1}])
def test_a_label_is_a_whole_number(value: object) -> None:
    assert [label_of("x", "y", each, {0: 0, 1: 1}) for each in (0, 1, False, True)] == [0, 1, 0, 1]
    with pytest.raises(InputError, match=r"x holds .* where a label.* is expected \(column 'y'\)"):
        label_of("x", "y", value, {0: 0, 1: 1})
    with pytest.raises(InputError, match=r"x has the label -1, and the 2 class names are of the labels 0 to 1"):
        label_of("x", "y", -1, {0: 0, 1: 1})


def test_a_column_of_a_sequence_of_structs_is_read(tmp_path: Path) -> None:
    captions = [{"raw": ["a red one", "red"], "id": [1, 2]}, {"raw": ["green"], "id": [3]}]
    kind = {"raw": datasets.List(datasets.Value("string")), "id": datasets.List(datasets.Value("int64"))}
    folder = parquet(tmp_path / "data", {"captions": captions}, captions=kind)
    assert load_dataset(own(tmp_path, folder, {}, **CAPTIONS)).captions == (("a red one", "red"), ("green",))
    with pytest.raises(
        InputError, match=r"'own': sample 0 has no captions or answers in the column 'captions', got \{"
    ):
        load_dataset(own(tmp_path, folder, {"field": "text"}, **CAPTIONS))
    with pytest.raises(SettingsError, match="field must be a name, got 3"):
        load_dataset(own(tmp_path, folder, {"field": 3}, **CAPTIONS))


@pytest.mark.parametrize("order", [{}, {"shuffle": 0}])
@pytest.mark.parametrize("values", [["a", None], [["a"], None], [["a"], [None]], [["a"], []]])
def test_a_missing_caption_names_set_sample_and_column(
    tmp_path: Path, values: list[Any], order: dict[str, int]
) -> None:
    folder = parquet(tmp_path / "data", {"text": values})
    name = own(tmp_path, folder, {"columns": {"captions": "text"}, **order}, **CAPTIONS)
    at = r"\d" if order else "1"
    with pytest.raises(
        InputError, match=rf"dataset 'own': sample {at} has no captions or answers in the column 'text'"
    ):
        load_dataset(name)


def test_a_missing_question_and_answers_of_a_wrong_kind_are_refused(tmp_path: Path) -> None:
    columns = {"question": ["what?", None], "answers": [["a"], ["b"]]}
    with pytest.raises(InputError, match=r"sample 1 holds None where a question.*\(column 'question'\)"):
        load_dataset(own(tmp_path, parquet(tmp_path / "data", columns), {}, **QUESTIONS))
    columns = {"question": ["what?", "which?"], "answers": [3, 4]}
    with pytest.raises(InputError, match=r"sample 0 has no captions or answers in the column 'answers', got 3"):
        load_dataset(own(tmp_path, parquet(tmp_path / "other", columns), {}, **QUESTIONS))


def test_an_empty_answer_of_one_person_counts(tmp_path: Path) -> None:
    folder = parquet(tmp_path / "data", {"question": ["what?"], "answers": [["red", "", "red"]]})
    assert load_dataset(own(tmp_path, folder, {}, **QUESTIONS)).questions == ((("what?", "red", "", "red"),),)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": {"lable": "x"}}, "columns has no 'lable'.*Allowed: captions, image"),
        ({"splits": {"tset": "x"}}, "splits has no 'tset'; did you mean 'test'"),
        ({"configuration": 3}, "configuration must be a name, got 3"),
        ({"splits": {"test": "test[:99999999999999999999]"}}, "cannot read"),
        ({"size": 10**9}, "size from 8 to 4096 pixels"),
        ({"shuffle": 10**23}, r"shuffle must be a seed from 0 to 2\*\*32 - 1"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    folder = parquet(tmp_path / "data", {"captions": [["x"]]})
    with pytest.raises(SettingsError, match=message):
        load_dataset(own(tmp_path, folder, options, **CAPTIONS))


@pytest.mark.parametrize("order", [{}, {"shuffle": 0}])
def test_word_weights_are_of_the_number_on_the_card_whatever_n(tmp_path: Path, order: dict[str, int]) -> None:
    captions = [[f"number {at}"] for at in range(9)]
    folder = parquet(tmp_path / "data", {"captions": captions})
    whole = own(tmp_path, folder, order, **CAPTIONS)
    corpora = {load_dataset(whole, n=n).corpus for n in (1, 4, 9, None)}
    assert {len(each) for each in corpora} == {9}
    assert len(corpora) == 1
    some = own(tmp_path, folder, order, **CAPTIONS, n=5)
    data = {n: load_dataset(some, n=n) for n in (1, 4, 5, 9)}
    assert {each.corpus for each in data.values()} == {next(iter(corpora))[:5]}
    assert [len(each.captions) for each in data.values()] == [1, 4, 5, 9]
    ends = own(tmp_path, folder, {**order, "splits": {"test": "test[6:]"}}, **CAPTIONS, n=5)
    assert len(load_dataset(ends, n=2).corpus) == 3


@pytest.mark.parametrize("answer", ["number one", "a number"])
def test_the_score_of_a_caption_does_not_depend_on_n(tmp_path: Path, answer: str) -> None:
    from radapt.evaluation._text_metrics import Cider
    from radapt.evaluation.captioning import Captioning

    texts = [["number one", "the one"], ["a dog"], ["a cat on a mat"], ["number two"]]
    name = own(tmp_path, parquet(tmp_path / "data", {"captions": texts}), {}, **CAPTIONS)
    scores = []
    for n in (1, 2, 4):
        task = Captioning(load_dataset(name, n=n))
        scores.append(task.cider(answer, task.data.captions[0]))
    assert scores[0] == scores[1] == scores[2] == Cider(texts)(answer, texts[0])
    assert scores[0] > 0


def images(folder: Path, contents: list[bytes], **columns: list[Any]) -> Path:
    folder.mkdir()
    rows = datasets.Dataset.from_dict({"image": [{"bytes": each, "path": None} for each in contents], **columns})
    rows.cast_column("image", datasets.Image()).to_parquet(str(folder / "test-00000-of-00001.parquet"))
    return folder


def saved(size: tuple[int, int] = (30, 20), kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.effect_noise(size, 50).convert("RGB").save(stream, kind)
    return stream.getvalue()


BOMB = saved((8, 8), "BMP").replace((8).to_bytes(4, "little") * 2, (60_000).to_bytes(4, "little") * 2)


@pytest.mark.parametrize("order", [{}, {"shuffle": 0}])
@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (saved()[:200], "truncated or broken"),
        (saved(kind="JPEG")[:-400], "truncated or broken"),
        (b"not an image", "is not an image that Pillow can read"),
        (b"", "is not an image that Pillow can read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image that Pillow can read"),
        (BOMB, "has 3600000000 pixels, the limit is"),
        (saved((401, 2)), "at most 200 times the shorter"),
    ],
    ids=["png", "jpeg", "text", "empty", "eps", "bomb", "thin"],
)
def test_a_broken_image_is_named_and_left_out(
    tmp_path: Path, broken: bytes, message: str, order: dict[str, int]
) -> None:
    folder = images(tmp_path / "data", [saved()] * 2 + [broken], captions=[["a"], ["b"], ["c"]])
    name = own(tmp_path, folder, order, **CAPTIONS)
    at = r"(\d)" if order else "(2)"
    with pytest.warns(UserWarning, match=rf"dataset 'own': sample {at}: the image .*{message}.* left out") as caught:
        data = load_dataset(name)
    assert "network" not in str(caught[0].message)
    assert sorted(data.captions) == [("a",), ("b",)]
    assert data.left_out == tuple({0, 1, 2} - {int(key.rpartition("/")[2]) for key in data.keys})
    assert len(data) == 2
    assert "n=2 (1 left out)" in repr(data)
    if not order:
        assert load_dataset(name, n=2).left_out == ()


def test_more_broken_images_than_not_are_refused(tmp_path: Path) -> None:
    folder = images(tmp_path / "data", [b"x", saved(), b"y"], captions=[["a"]] * 3)
    with pytest.raises(InputError, match=r"sample 0: the image is not an image .*; nor can 1 others of 3"):
        load_dataset(own(tmp_path, folder, {}, **CAPTIONS))
    many = images(tmp_path / "many", [b"x"] * 21 + [saved()] * 100, captions=[["a"]] * 121)
    with pytest.raises(InputError, match=r"sample 0: .*; nor can 20 others of 21"):  # read no further
        load_dataset(own(tmp_path, many, {}, **CAPTIONS))


def test_a_broken_image_of_a_folder_is_named_and_left_out(tmp_path: Path) -> None:
    for at, content in enumerate([saved(), saved(kind="JPEG")[:-400], saved()]):
        (tmp_path / "data" / "test" / "ab"[at % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "test" / "ab"[at % 2] / f"{at}.jpg").write_bytes(content)
    name = own(tmp_path, tmp_path / "data", {})
    data = load_dataset(name, n=2)
    assert (data.classes, data.labels.tolist()) == (("a", "b"), [0, 0])
    with pytest.warns(UserWarning, match=r"dataset 'own': sample 2: the image cannot be read to its end"):
        data = load_dataset(name, n=3)
    assert (data.labels.tolist(), data.left_out) == ([0, 0], (2,))


def test_damage_between_rows_names_the_archive_and_gives_no_advice_on_networks(tmp_path: Path) -> None:
    from tests.data.hub_files import archives

    folder = archives(tmp_path / "data", [0] * 40, kind="png")
    archive = folder / "test" / "0.tar"
    archive.write_bytes(archive.read_bytes()[: 30 * 3 * 512 + 700])
    options = {"files": "{split}/*.tar", "columns": {"label": "cls"}, "classes_file": "classnames.txt"}
    with pytest.raises(SettingsError, match=r"shard 1 of 1, '.*test/0.tar', is damaged: unexpected end of") as caught:
        load_dataset(own(tmp_path, folder, options))
    assert "network" not in str(caught.value)


def test_images_may_be_plain_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    rows = datasets.Dataset.from_dict({"jpg": [saved(), saved()], "captions": [["a"], ["b"]]})
    rows.to_parquet(str(folder / "test-00000-of-00001.parquet"))
    assert load_dataset(own(tmp_path, folder, {}, **CAPTIONS)).images.shape == (2, 16, 16, 3)


def test_an_image_that_grows_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    name = own(tmp_path, images(tmp_path / "data", [saved((200, 1))], captions=[["a"]]), {"size": 4096}, **CAPTIONS)
    with pytest.raises(InputError, match=r"sample 0: the image is 200 x 1 pixels, with a shorter side of 4096 it has"):
        load_dataset(name)
