"""Scores of free text, against pycocoevalcap on whole corpora and against the published formulas."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocoevalcap.cider.cider import Cider as Coco

from radapt.data import load_dataset
from radapt.errors import SettingsError
from radapt.evaluation._text_metrics import Cider, bleu, canonical, says_yes, vqa_accuracy, words

ANSWERS = ["a large red star on a navy background", "a small object", "star", ""]


def corpus() -> tuple[tuple[str, ...], ...]:
    return load_dataset("shapeworld-captions", n=20).captions


def test_cider_is_that_of_pycocoevalcap_on_the_whole_corpus() -> None:
    references = corpus()
    answers = [texts[at % 5] if at % 3 else ANSWERS[at % 4] for at, texts in enumerate(references)]
    gts = {at: [words(text) for text in texts] for at, texts in enumerate(references)}
    _, expected = Coco().compute_score(gts, {at: [words(text)] for at, text in enumerate(answers)})
    ours = Cider(references)
    for answer, texts, value in zip(answers, references, expected, strict=True):
        assert ours(answer, texts) == pytest.approx(value)
    assert ours("", references[0]) == 0


def test_cider_of_a_sample_does_not_depend_on_the_others() -> None:
    whole, few = load_dataset("shapeworld-captions", n=30), load_dataset("shapeworld-captions", n=3)
    assert few.corpus == whole.corpus
    assert len(few.corpus) == few.card.n
    one, other = Cider(few.corpus), Cider(whole.corpus)
    assert [one(ANSWERS[0], texts) for texts in few.captions] == [other(ANSWERS[0], texts) for texts in few.captions]


def test_bleu_rises_with_agreement_and_knows_its_ends() -> None:
    reference = "a large striped red star on a navy background"
    steps = ["square", "a large star", "a large striped red star", reference]
    scores = [bleu(text, [reference]) for text in steps]
    assert all(low < high for low, high in pairwise(scores))
    assert scores[-1] == pytest.approx(1, abs=1e-6)
    # Seven words against nine: the brevity penalty is exp(1 - 9 / 7), and every n-gram agrees.
    assert bleu("a large striped red star on a", [reference]) == pytest.approx(2.718281828 ** (1 - 9 / 7), rel=1e-3)


def test_without_pycocoevalcap_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.split(".")[0] == "pycocoevalcap":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    for score in (lambda: Cider([["a star"]]), lambda: bleu("a star", ["a star"])):
        with pytest.raises(SettingsError, match=r'pip install "radapt\[captions\]"'):
            score()
    # Short answers need no more than this library.
    assert vqa_accuracy("a star", ["star"]) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The red Star.", "red star"),
        ("two", "2"),
        ("don't know", "don't know"),
        ("An apple, a pear", "apple pear"),
        ("None", "0"),
        ("", ""),
    ],
)
def test_short_answers_are_compared_as_vqa_does(text: str, expected: str) -> None:
    assert canonical(text) == expected


# What the official script (github.com/GT-Vision-Lab/VQA, vqaEval.py at a013f00) makes of each, its slips included.
OFFICIAL = [
    ("a dog", "dog"),
    ("The Red Star.", "red star"),
    ("two", "2"),
    ("None", "0"),
    ("zero dogs", "0 dogs"),
    ("TEN", "10"),
    ("eleven", "eleven"),
    ("t-shirt", "t shirt"),
    ("black-and-white", "black and white"),
    ("black - and white", "black and white"),
    ("black- and-white", "black andwhite"),
    ("1,000", "1000"),
    ("1,000-2,000", "10002000"),
    ("1, 000", "1 000"),
    ("10,5 and 3-4", "105 and 34"),
    ("2.5", "2.5"),
    (".5", ".5"),
    ("0.50 m", "0.50 m"),
    ("5.", "5"),
    ("v.2", "v.2"),
    ("U.S.A.", "usa"),
    ("st. louis", "st louis"),
    ("mt.everest", "mteverest"),
    ("...", ""),
    ("3...4", "3.4"),
    ("10:30", "10:30"),
    ("10:30 a.m.", "10:30 am"),
    ("o'clock", "o'clock"),
    ("5 oclock", "5 o'clock"),
    ("dont know", "don't know"),
    ("don't know", "don't know"),
    ("Dont", "don't"),
    ("cant", "can't"),
    ("wont", "won't"),
    ("its", "its"),
    ("it's", "it's"),
    ("shes", "shes"),
    ("youre", "you're"),
    ("couldnt've", "couldn't've"),
    ("couldn'tve", "couldn't've"),
    ("couldntve", "couldntve"),
    ("yall'd've", "y'all'd've"),
    ("'ows'at", "'ow's'at"),
    ("somebody'd", "somebodyd"),
    ("lets", "lets"),
    ("im", "im"),
    ("Id've", "id've"),
    ("ill", "ill"),
    ("dog's", "dog's"),
    ("rock'n'roll", "rock'n'roll"),
    ("50%", "50%"),
    ("$5", "$5"),
    ("$1,500.00", "$1500.00"),
    ("A", ""),
    ("a an the", ""),
    ("an a-frame", "frame"),
    ("x/y", "x y"),
    ("x / y", "x y"),
    ("yes/no", "yes no"),
    ("yes, no", "yes no"),
    ("yes,no", "yes no"),
    ("what?", "what"),
    ("what ?", "what"),
    ("wow!", "wow"),
    ('"stop"', "stop"),
    ('"stop" sign', "stop sign"),
    ("(red)", "red"),
    ("[red] one", "red 1"),
    ("a_b", "b"),
    ("user@mail.com", "user mailcom"),
    ("c++", "c"),
    ("c:\\dir", "c: dir"),
    ("<unk>", "unk"),
    ("`quoted`", "quoted"),
    ("a+b = c", "b c"),
    ("line\none", "line 1"),
    ("tab\tone", "tab 1"),
    ("  two   spaces ", "2 spaces"),
    ("Ünïcode-Text", "ünïcode text"),
    ("one-two", "1 2"),
    ("the-one", "1"),
    ("a;b", "b"),
    ("no .", "no"),
    ("three,four", "3 4"),
    ("3rd", "3rd"),
    ("half & half", "half & half"),
    ("#1", "#1"),
    ("nine/ten", "9 10"),
    ("p.j.'s", "pj's"),
    ("won t", "won t"),
    (". " * 40, " ".join("." * 8)),
]


@pytest.mark.parametrize(("text", "expected"), OFFICIAL, ids=[repr(text) for text, _ in OFFICIAL])
def test_awkward_answers_are_compared_as_the_official_script_does(text: str, expected: str) -> None:
    assert canonical(text) == expected


def test_contractions_lack_one_apostrophe() -> None:
    assert canonical("hed've he'dve hedve wouldntve") == "he'd've he'd've hedve wouldntve"


def test_people_who_write_alike_agree() -> None:
    people = ["T-shirt", "t shirt", "a t-shirt.", "shirt"]
    assert vqa_accuracy("the t-shirt", people) == pytest.approx((3 * 2 / 3 + 1) / 4)
    assert vqa_accuracy("1000", ["1,000"] * 10) == vqa_accuracy("1,000", ["1000"] * 10) == 1
    assert vqa_accuracy("25", ["2.5"] * 10) == 0


def by_hand(agreeing: int, people: int = 10) -> float:
    """Antol et al. 2015: over all ways to leave one person out, min(1, agreeing others / 3)."""
    out_agreeing, out_other = agreeing * min(1, (agreeing - 1) / 3), (people - agreeing) * min(1, agreeing / 3)
    return (out_agreeing + out_other) / people


@pytest.mark.parametrize("agreeing", range(11))
def test_accuracy_of_ten_people_is_the_published_one(agreeing: int) -> None:
    given = ["Yes."] * agreeing + ["no"] * (10 - agreeing)
    assert vqa_accuracy("yes", given) == pytest.approx(by_hand(agreeing))


@given(st.lists(st.sampled_from(["star", "a star", "ring"]), min_size=1, max_size=5))
def test_accuracy_of_few_people_is_one_where_all_agree_and_none_where_nobody_does(people: Sequence[str]) -> None:
    assert 0 <= vqa_accuracy("star", people) <= 1
    assert vqa_accuracy("cross", people) == 0
    if all(canonical(each) == "star" for each in people):
        assert vqa_accuracy("the star", people) == 1


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("yes", True),
        ("Yes, there is.", True),
        ("no", False),
        ("No.", False),
        ("it is not there", False),
        ("star", True),
    ],
)
def test_yes_and_no_are_read_as_pope_does(text: str, yes: bool) -> None:
    assert says_yes(text) is yes
