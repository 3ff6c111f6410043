"""Generative models under attack: goals one after the other, the worst answer kept, the same whoever the neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.generative import llava_parts

import radapt
from radapt.attacks.apgd import APGD
from radapt.attacks.pgd import PGD
from radapt.data import Dataset
from radapt.errors import InputError, ModelError, SettingsError
from radapt.evaluation import Candidate, Threat, evaluate
from radapt.evaluation._targeted import Targeted
from radapt.evaluation.captioning import Captioning
from radapt.evaluation.vqa import VQA
from radapt.models import VLM
from radapt.models.llava import llava
from radapt.results import Results

N = 5


@pytest.fixture(scope="module")
def model() -> VLM:
    return llava("tiny", *llava_parts())


@pytest.fixture(scope="module")
def captions(model: VLM) -> Dataset:
    """Pictures whose captions are what the model says about them, so that it is always right."""
    data = radapt.load_dataset("shapeworld-captions", n=N)
    said = model.generate(data.pixels(range(N)), [data.prompt()] * N)
    captions = tuple((text, f"{text} star", f"star {text}") for text in said)
    return replace(data, captions=captions, corpus=captions + data.corpus)


@pytest.fixture(scope="module")
def questions(model: VLM) -> Dataset:
    data = radapt.load_dataset("shapeworld-vqa", n=N)
    asked = [each[at % len(each)][0] for at, each in enumerate(data.questions)]
    said = model.generate(data.pixels(range(N)), [data.prompt(each) for each in asked], max_new_tokens=5)
    return replace(data, questions=tuple(((each, text),) for each, text in zip(asked, said, strict=True)))


def attacked(bound: Any, attack: Any, rows: Sequence[int], *, stop: bool = True, batch_size: int = 3) -> Any:
    keys = [bound.data.keys[row] for row in rows]
    return bound.attack(attack, bound.data.pixels(rows), rows, keys=keys, seed=0, batch_size=batch_size, stop=stop)


@pytest.mark.slow
def test_captions_get_worse_goal_by_goal_and_the_worst_is_kept(model: VLM, captions: Dataset) -> None:
    bound: Any = Captioning(captions).bind(model)
    assert [goal.name for goal in bound.goals] == ["caption 0", "caption 1", "caption 2", "again"]
    clean = [answer.score for answer in bound.answers(captions.pixels(range(N)), range(N), 3)]
    assert min(clean) > 1
    attack = PGD(eps=16 / 255, steps=4)
    outcome = attacked(bound, attack, range(N))
    scores = [answer.score for answer in bound.answers(outcome.pixels, range(N), 3)]
    assert all(now <= before for now, before in zip(scores, clean, strict=True))
    assert sum(scores) < 0.8 * sum(clean)
    assert outcome.fooled.tolist() == [score <= 0.1 for score in scores]
    # The goals one by one: what the pipeline keeps is no better than the best of them for any sample.
    standing = torch.ones(N, dtype=torch.bool)
    alone = []
    for number in range(3):
        objective = bound._towards(bound.goals[number], torch.full((N,), number), range(N), True)
        keys = [f"{key}/caption {number}" for key in captions.keys]
        found = attack(objective, captions.pixels(range(N)), keys=keys, batch_size=3)
        answers = torch.tensor([answer.score for answer in bound.answers(found.pixels, range(N), 3)])
        alone.append(torch.where(standing, answers, torch.inf))
        standing &= answers > 0.1
    worst = torch.stack([torch.tensor(clean), *alone]).amin(0)
    assert (torch.tensor(scores) <= worst + 1e-6).all()
    # Who is low already is not attacked again: each goal costs four steps.
    assert set(outcome.iterations.tolist()) <= {0, 4, 8, 12, 16}
    assert (outcome.iterations[outcome.fooled] <= 16).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["captions", "questions"])
def test_neighbours_order_and_shards_change_roundings_only(
    model: VLM, request: pytest.FixtureRequest, kind: str
) -> None:
    data = request.getfixturevalue(kind)
    task = Captioning(data) if kind == "captions" else VQA(data)
    attack = APGD(eps=8 / 255, steps=3)
    bound = task.bind(model)
    whole = attacked(bound, attack, range(N))
    turned = attacked(bound, attack, range(N)[::-1])
    shards = [attacked(task.bind(model), attack, range(first, N, 2)) for first in range(2)]
    again = attacked(task.bind(model), attack, range(N))
    assert torch.equal(again.pixels, whole.pixels)
    # The sign of a gradient near zero may round either way.
    assert (turned.pixels.flip(0) - whole.pixels).abs().mean() < 2e-4
    assert torch.equal(turned.fooled.flip(0), whole.fooled)
    for first, shard in enumerate(shards):
        assert (shard.pixels - whole.pixels[first::2]).abs().mean() < 2e-4
        assert torch.equal(shard.backwards, whole.backwards[first::2])


def test_questions_stop_where_one_answer_alone_is_right(model: VLM, questions: Dataset) -> None:
    bound: Any = VQA(questions).bind(model)
    assert [goal.name for goal in bound.goals] == ["answer 0", "again", "maybe", "Word"]
    assert [answer.score for answer in bound.answers(questions.pixels(range(N)), range(N), 3)] == [1.0] * N
    # What a model says may hold tokens that its text does not show: only exact answers say when to stop.
    exact = bound._says(torch.arange(N))
    objective = bound.objective(range(N), stop=True)
    fooled = objective(questions.pixels(range(N)), torch.arange(N)).fooled
    assert not fooled.any()
    moved = objective(torch.rand(N, 3, 48, 48), torch.arange(N)).fooled
    assert not (moved & ~exact).any()
    # Images for another model are attacked with the whole budget.
    spent = attacked(bound, PGD(eps=32 / 255, steps=6), range(N), stop=False)
    assert (spent.iterations >= 6).all()


@pytest.mark.slow
def test_a_question_is_settled_as_soon_as_its_one_answer_is_not_said() -> None:
    model = radapt.load("micro/llava")
    data = radapt.load_dataset("shapeworld-vqa", n=8)
    bound: Any = VQA(data).bind(model)
    before = bound.answers(data.pixels(range(8)), range(8), 4)
    outcome = attacked(bound, PGD(eps=16 / 255, steps=40), range(8), batch_size=4)
    right = torch.tensor([answer.score == 1 for answer in before])
    assert right.sum() >= 6
    assert (outcome.fooled & right).sum() >= 5
    assert outcome.iterations[right & outcome.fooled].float().mean() < 40
    assert (outcome.iterations[~right] == 0).all()


def test_images_for_another_model_are_attacked_even_where_the_source_is_wrong(model: VLM, questions: Dataset) -> None:
    wrong = replace(questions, questions=tuple(((own[0][0], "nonsense"),) for own in questions.questions))
    bound = VQA(wrong).bind(model)
    assert (attacked(bound, PGD(eps=8 / 255, steps=2), range(N)).iterations == 0).all()
    spent = attacked(bound, PGD(eps=8 / 255, steps=2), range(N), stop=False)
    assert (spent.iterations == 2).all()
    assert not torch.equal(spent.pixels, wrong.pixels(range(N)))


def test_several_right_answers_are_attacked_in_order_of_frequency(model: VLM, questions: Dataset) -> None:
    many = tuple(((own[0][0], "star", "ring", "ring", "bar"),) for own in questions.questions)
    bound: Any = VQA(replace(questions, questions=many)).bind(model)
    assert [goal.answers[0] for goal in bound.goals if goal.answers] == ["ring", "star", "bar", "maybe", "Word"]
    assert not bound.goals[0].decisive.any()
    assert bound.score("ring", 0).score == pytest.approx((2 * 1 / 3 + 2 * 2 / 3) / 4)


@pytest.mark.slow
def test_a_targeted_attack_makes_the_model_say_a_word(model: VLM, captions: Dataset) -> None:
    words = model.generate(torch.rand(30, 3, 48, 48), [captions.prompt()] * 30, max_new_tokens=1)
    clean = " ".join(text for texts in captions.captions for text in texts).lower()
    word = next((each for each in words if each and each not in clean), "")
    assert word, "the tiny model says one word only"
    task = Targeted(captions, word)
    bound = task.bind(model)
    assert all(answer.score == 1 for answer in bound.answers(captions.pixels(range(N)), range(N), 3))
    outcome = attacked(bound, PGD(eps=1.0, steps=60, step_size=0.05), range(N))
    assert outcome.fooled.any()
    said = bound.answers(outcome.pixels, range(N), 3)
    assert [answer.score == 0 for answer in said] == outcome.fooled.tolist()
    assert all(word.lower() in answer.text.lower() for answer in said if answer.score == 0)
    assert len({Targeted(captions, each).content for each in (word, "another", f" {word}")}) == 2
    with pytest.raises(SettingsError, match="target is empty"):
        Targeted(captions, "  ")
    with pytest.raises(InputError, match="neither captions nor questions"):
        Targeted(radapt.load_dataset("shapes", n=2), "star")


def test_relative_scores_are_against_the_model_without_its_defence(model: VLM, captions: Dataset) -> None:
    adapter = radapt.training_free(model, alpha=1.5)
    task = Captioning(captions)
    with adapter.attach(model):
        bound = task.bind(model)
        answers = bound.answers(captions.pixels(range(N)), range(N), 3)
        assert radapt.attached(model)
    bare = task.bind(model).answers(captions.pixels(range(N)), range(N), 3)
    assert [answer.also["relative"] for answer in bare] == pytest.approx([1.0] * N)
    for mine, plain in zip(answers, bare, strict=True):
        assert (mine.also["relative"] == pytest.approx(1)) == (mine.text == plain.text)
    assert any(mine.text != plain.text for mine, plain in zip(answers, bare, strict=True))


@pytest.mark.slow
def test_evaluation_stores_answers_and_further_metrics(
    model: VLM, captions: Dataset, questions: Dataset, tmp_path: Path
) -> None:
    adapter = radapt.training_free(model, alpha=0.5)
    lines = [Candidate(method="LLaVA", model=model), Candidate(method="R-Adapt", model=model, adapter=adapter)]
    threats = [Threat(attack="pgd", eps=8 / 255, source=who, options={"steps": 2}) for who in ("undefended", "self")]
    settings: dict[str, Any] = {"threats": threats, "batch_size": 3, "sanity": False, "quiet": True}
    with Results(tmp_path / "r.sqlite") as results:
        figures = evaluate(lines, data=[captions, questions], results=results, **settings)
        named = {(f.setting.dataset, f.setting.method, f.kind, f.setting.metric): f for f in results.all()}
        assert len([figure for figure in figures if figure.main]) == 2 * (2 + 3)  # the model is its own source
        clean = named["shapeworld-captions", "LLaVA", "clean", "CIDEr"]
        assert [s.answer for s in results.samples(clean.setting)] == [texts[0] for texts in captions.captions]
        assert named["shapeworld-captions", "LLaVA", "clean", "relative"].percent == pytest.approx(100)
        assert named["shapeworld-vqa", "LLaVA", "clean", "accuracy"].percent == 100
        white = named["shapeworld-captions", "R-Adapt", "white-box", "CIDEr"]
        again = evaluate(lines, data=[captions, questions], results=results, **settings)
        assert [f.percent for f in again] == [f.percent for f in figures]
        assert [f.seconds for f in again] == [f.seconds for f in figures]
    assert white.backwards > 0
    # The same figures, sharded in chunks of another size and in another order of candidates.
    with Results(tmp_path / "other.sqlite") as results:
        other = evaluate(lines[::-1], data=[questions, captions], results=results, **settings)
    assert {(f.setting.key, f.percent) for f in other} == {(f.setting.key, f.percent) for f in figures}


def test_yes_and_no_are_scored_by_f1(model: VLM) -> None:
    data = radapt.load_dataset("shapeworld-pope", n=6)
    assert {pair[1] for own in data.questions for pair in own} <= {"yes", "no"}
    task = VQA(data)
    bound = task.bind(model)
    answers = bound.answers(data.pixels(range(6)), range(6), 3)
    for position, answer in enumerate(answers):
        assert answer.score == (answer.prediction == task.label(position)) == answer.also["accuracy"]
    # A random model never says no, so that it says yes.
    assert {answer.prediction for answer in answers} == {1}


def test_models_that_generate_nothing_are_refused(captions: Dataset) -> None:
    with pytest.raises(ModelError, match="has no language model; this needs a LLaVA or Qwen-VL"):
        Captioning(captions).bind(radapt.load("micro/clip"))
    with pytest.raises(InputError, match="has no captions"):
        Captioning(radapt.load_dataset("shapes", n=2))
    with pytest.raises(InputError, match="has no questions"):
        VQA(captions)
