"""The actions behind the page: what they show is what the library says, escaped, and honest about its source."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import radapt
from radapt.data import fill
from radapt.errors import InputError, ModelError
from radapt.ui._actions import _UNKNOWN, Actions, Choice, _verdict
from radapt.ui._shelf import SLIDERS, Shelf
from radapt.ui._views import Row

pytestmark = pytest.mark.usefixtures("unchecked")
Choose = Callable[..., Choice]


def percents(html: str) -> list[list[float]]:
    """The shares of the bars, panel by panel."""
    return [[float(each) for each in re.findall(r"([\d.]+) %<", part)] for part in html.split("<h3>")[1:]]


def attacked(actions: Actions, choice: Choice, **given: Any) -> list[tuple[str, str, str]]:
    settings = {"name": "pgd", "eps": "8/255", "source": "self", "user": "me"} | given
    return list(actions.attack(choice, **settings))


def cells(html: str) -> list[list[str]]:
    """The table of an outcome, as texts."""
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    return [
        [" ".join(re.sub("<[^>]+>", " ", cell).split()) for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)]
        for row in rows
    ]


def test_the_bars_are_what_the_library_says(actions: Actions, choose: Choose) -> None:
    choice = choose()
    clip = radapt.load("micro/clip")
    names = [name.strip() for name in choice.words.classes.split(",")]
    classifier = clip.classifier([[fill(text, name) for text in choice.words.templates.split("\n")] for name in names])
    pixels = choice.picture.pixels["micro/clip"][None]
    plain = clip.logits(pixels, classifier).softmax(1)[0].sort(descending=True).values[:6]
    with radapt.training_free(clip, cutoff=40 / 224, alpha=0.4).attach(clip):
        defended = clip.logits(pixels, classifier).softmax(1)[0].sort(descending=True).values[:6]
    shown = percents(actions.predict(choice))
    assert shown == [[pytest.approx(100 * float(each), abs=0.06) for each in part] for part in (plain, defended)]


def test_a_slider_changes_the_defended_answer_alone(actions: Actions, choose: Choose) -> None:
    one, two = (percents(actions.predict(choose(alpha=alpha))) for alpha in (0.2, 1.5))
    assert one[0] == two[0]
    assert one[1] != two[1]


def test_a_class_name_full_of_html_is_text(actions: Actions, choose: Choose) -> None:
    evil = "<img src=x onerror=alert(1)>"
    choice = choose(classes=f"{evil}, star & bar, ${{alert(2)}}", right=evil)
    html = actions.predict(choice)
    assert "<img src=x" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html
    assert "star &amp; bar" in html
    *_, (outcome, traces, _) = attacked(actions, choice)
    assert "<img src=x" not in outcome + traces
    assert "&lt;img src=x" in outcome


def test_a_question_gets_the_answers_of_the_model(actions: Actions, choose: Choose) -> None:
    html = actions.predict(choose(model="micro/llava", set="shapeworld-vqa"))
    assert re.findall(r'"ra-name">(\w+)', html) == ["star", "star"]
    assert all(0 < each <= 100 for part in percents(html) for each in part)


@pytest.mark.parametrize("model", ["micro/clip", pytest.param("micro/llava", marks=pytest.mark.slow)])
@pytest.mark.parametrize("source", ["self", "undefended"])
def test_both_outcomes_of_an_attack_are_shown(actions: Actions, choose: Choose, model: str, source: str) -> None:
    *steps, (outcome, traces, attention) = attacked(actions, choose(model=model), source=source)
    assert steps
    assert "step " in steps[0][0]
    assert "white-box" in steps[0][0]
    table = cells(outcome)
    titles = ["the defended model (white-box)", "the model without the defence (transfer)"]
    assert [row[0] for row in table[1:]] == ["no attack", *(titles if source == "self" else titles[::-1])]
    assert all(re.search("(right|wrong)$", cell) for row in table[1:] for cell in row[1:])
    assert "Made on the defended model" in traces
    assert traces.count("<svg") == 2
    assert attention.count("after the attack") == 4
    assert attention.count("data:image/png") == 4


@pytest.mark.slow
def test_a_large_white_box_attack_succeeds(actions: Actions, choose: Choose) -> None:
    *_, (outcome, _, _) = attacked(actions, choose(right=""), eps="16/255", name="apgd")
    assert cells(outcome)[2][0] == "the defended model (white-box)"
    assert cells(outcome)[2][2].endswith("wrong")


def test_a_wrong_answer_without_an_attack_is_no_success_of_one(actions: Actions, choose: Choose) -> None:
    *_, (outcome, _, _) = attacked(actions, choose(right="bar"))
    assert "wrong already, without an attack" in outcome


Said = tuple[tuple[str, bool], tuple[str, bool]]


def row(said: Said | None) -> Row:
    return Row("title", "waits" if said else _UNKNOWN, said=said)


@pytest.mark.parametrize(
    ("transfer", "own", "words", "kind"),
    [
        (True, False, "It holds against transfer, but that is not robustness. An attack that sees the defended", "bad"),
        (False, False, "An attack that sees the defended model (white-box) fools it.", "bad"),
        (True, None, "which says nothing about robustness. The white-box outcome is not known", "open"),
        (None, None, "The white-box outcome is not known", "open"),
        (False, True, "An attack on the model without the defence (transfer) fools the defended model, too", "bad"),
        (True, True, "holds against this attack, white-box and by transfer, on this one picture", "good"),
        (None, True, "the transfer outcome is not known", "open"),
    ],
)
def test_a_success_by_transfer_is_never_called_robustness(
    transfer: bool | None, own: bool | None, words: str, kind: str
) -> None:
    clean: Said = (("star", True), ("star", True))

    def said(right: bool | None) -> Said | None:
        return None if right is None else (("bar", False), ("star" if right else "bar", right))

    text, found = _verdict({"self": row(said(own)), "undefended": row(said(transfer))}, clean)
    assert words in text
    assert found == kind


def test_stop_ends_an_attack_and_its_outcome_is_not_known(actions: Actions, choose: Choose) -> None:
    running = actions.attack(choose(), "square", "1/255", "self", "someone")
    next(running)
    assert actions.stop("somebody else") == "No attack of yours is running."
    next(running)
    assert actions.stop("someone") == "The attack is stopped."
    *_, (outcome, _, _) = running
    assert [cells(outcome)[at][1] for at in (2, 3)] == ["not known: the attack was stopped"] * 2
    assert "The white-box outcome is not known" in outcome
    assert actions.stop("someone") == "No attack of yours is running."


def test_an_attack_that_ran_out_of_time_shows_nothing_held(
    actions: Actions, choose: Choose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("radapt.ui._live._SECONDS", 0.0)
    html = attacked(actions, choose(), eps="16/255")[-1][0]
    assert "ran out of time" in html
    assert "holds against this attack" not in html


def test_a_second_attack_of_a_user_ends_the_first(actions: Actions, choose: Choose) -> None:
    first = actions.attack(choose(), "square", "1/255", "self", "someone")
    next(first)
    second = actions.attack(choose(), "fgsm", "1/255", "self", "someone")
    assert "step 1 of 1" in next(second)[0]
    assert "the attack was stopped" in list(first)[-1][0]
    assert "the attack was stopped" not in list(second)[-1][0]


@pytest.mark.slow
def test_users_at_the_same_time_get_what_they_get_alone(actions: Actions, choose: Choose) -> None:
    choices = [choose(alpha=0.1), choose(alpha=1.2), choose(defence="micro/shallow"), choose(model="micro/llava")]

    def everything(number: int) -> tuple[str, str, str, str]:
        choice = choices[number % 4]
        *_, (outcome, traces, attention) = attacked(actions, choice, user=str(number), name="fgsm", eps="1/255")
        return actions.predict(choice), outcome, traces, attention

    alone = [everything(number) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(everything, range(8)))
    assert together == alone * 2
    assert len({answers for answers, *_ in alone}) == 4


def test_a_saved_adapter_is_the_one_of_the_page(actions: Actions, choose: Choose, tmp_path: Path) -> None:
    file = actions.save(choose(alpha=0.85), tmp_path)
    with zipfile.ZipFile(file) as packed:
        assert {"radapt_config.json", "README.md"} <= set(packed.namelist())
        packed.extractall(tmp_path / "adapter")
    adapter = radapt.Adapter.from_pretrained(tmp_path / "adapter")
    assert adapter.settings.alpha == 0.85
    assert file.name == f"adapter-{adapter.fingerprint}.zip"


def test_only_the_last_saved_adapters_are_kept(actions: Actions, choose: Choose, tmp_path: Path) -> None:
    files = [actions.save(choose(alpha=number / 20), tmp_path) for number in range(1, 25)]
    assert files[-1].exists()
    assert len(list(tmp_path.glob("*.zip"))) == 16


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"picture": None}, "choose a picture first"),
        ({"classes": ""}, "at least two class names"),
        ({"classes": ", ".join(map(str, range(5000)))}, "there are 5000 class names; give 200 at most"),
        ({"templates": "photo"}, "has no place for the class name"),
        ({"right": "stra"}, "must be one of the class names, got 'stra'; did you mean 'star'"),
        ({"model": "micro/llava", "question": " "}, "ask a question"),
        ({"model": "gpt"}, "there is no model 'gpt' here"),
        ({"defence": "none"}, "there is no defence 'none'"),
    ],
)
def test_what_is_missing_or_wrong_is_said(
    actions: Actions, choose: Choose, other: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        actions.predict(choose(**other))
    with pytest.raises(InputError, match=message):
        attacked(actions, choose(**other))


def test_an_unknown_source_is_refused(actions: Actions, choose: Choose) -> None:
    with pytest.raises(InputError, match="undefended or self, got 'other'"):
        attacked(actions, choose(), source="other")


@pytest.mark.slow
def test_a_model_without_attention_maps_is_attacked_all_the_same() -> None:
    from radapt.ui._answers import Words
    from radapt.ui._pictures import built_in

    actions = Actions(Shelf(["micro/qwen-vl"]))
    picture = built_in(actions.shelf.models, "shapeworld-vqa", 3)
    choice = Choice(picture, "micro/qwen-vl", SLIDERS, 40, 0.4, Words("", "", "what shape is it?", "star"))
    with pytest.raises(ModelError, match="gives no attention maps"):
        actions.look(choice)
    *_, (outcome, _, attention) = attacked(actions, choice, name="fgsm")
    assert "no attack" in outcome
    assert attention == ""


def test_the_attention_is_that_of_the_library(actions: Actions, choose: Choose) -> None:
    from radapt.analysis import attention_maps

    clip, choice = radapt.load("micro/clip"), choose(alpha=1.0, d0=20.0)
    pixels = choice.picture.pixels["micro/clip"][None]
    plain = torch.tensor(attention_maps(clip, pixels).images[1])
    with radapt.training_free(clip, cutoff=20 / 224, alpha=1.0).attach(clip):
        defended = torch.tensor(attention_maps(clip, pixels).images[1])
    assert not torch.equal(plain, defended)
    shown = re.findall(r"data:image/png;base64,[^\"]+", actions.look(choice))
    assert len(set(shown)) == 2
