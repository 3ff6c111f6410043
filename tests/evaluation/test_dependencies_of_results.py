"""What a result depends on beside its own sample is in its key, or is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from tests.models.generative import llava_parts

import radapt
from radapt.attacks import Attack
from radapt.attacks.pgd import PGD
from radapt.data import Dataset
from radapt.errors import SettingsError
from radapt.evaluation import Candidate, Task, Threat, evaluate
from radapt.evaluation import _answering as answering
from radapt.evaluation._threat import depends_on
from radapt.evaluation.captioning import Captioning
from radapt.evaluation.retrieval import Retrieval
from radapt.evaluation.vqa import VQA
from radapt.models import VLM
from radapt.models.llava import llava
from radapt.results import Results


@pytest.fixture(scope="module")
def model() -> VLM:
    return llava("tiny", *llava_parts())


def first(data: Dataset, n: int) -> Dataset:
    return replace(data, images=data.images[:n], captions=data.captions[:n], questions=data.questions[:n])


def test_weights_of_words_are_those_of_the_corpus_or_of_the_captions_that_are_there() -> None:
    data = replace(radapt.load_dataset("shapeworld-captions", n=6), corpus=())
    few, many = Captioning(first(data, 3)), Captioning(data)
    assert few.cider(*own(few)) != many.cider(*own(many))
    assert few.content != many.content
    shared = radapt.load_dataset("shapeworld-captions", n=6)
    assert Captioning(first(shared, 3)).content == Captioning(shared).content


def own(task: Captioning) -> tuple[str, Any]:
    return task.data.captions[0][0], task.data.captions[0]


def test_how_often_an_image_is_attacked_is_a_part_of_the_task(model: VLM) -> None:
    data = radapt.load_dataset("shapeworld-vqa", n=4)
    last = tuple((each[0], "red", "blue", "green") for each in data.questions[3])
    data = replace(data, questions=(*data.questions[:3], last))
    few, many = VQA(first(data, 3)), VQA(data)
    goals: list[Any] = [task.bind(model) for task in (few, many)]
    assert len(goals[0].goals) < len(goals[1].goals)
    assert few.content != many.content
    assert VQA(first(data, 2)).content == few.content


@pytest.mark.parametrize(
    ("task", "name", "metric"),
    [
        (Retrieval, "shapeworld-captions", "recall@1"),
        (Captioning, "shapeworld-retrieval", "CIDEr"),
        (VQA, "shapeworld-pope", "F1"),
        (VQA, "shapeworld-vqa", "accuracy"),
    ],
)
def test_a_task_names_its_own_metric_whatever_the_card_is_for(task: type[Task], name: str, metric: str) -> None:
    made: Any = task
    assert made(radapt.load_dataset(name, n=3)).metric == metric


@dataclass(frozen=True)
class Pruned:
    """A defence that is neither an adapter nor a transform of the input."""

    fingerprint: str = "pruned"

    @contextmanager
    def attach(self, model: VLM) -> Iterator[None]:
        weight = model.tower.patch_embedding.weight
        before = weight.detach().clone()
        with torch.no_grad():
            weight.zero_()
        try:
            yield
        finally:
            with torch.no_grad():
                weight.copy_(before)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_answers_are_compared_with_those_of_the_model_without_its_defence(
    model: VLM, tmp_path: Path, order: tuple[int, int]
) -> None:
    data = radapt.load_dataset("shapeworld-vqa", n=6)
    asked = [data.prompt(each[at % len(each)][0]) for at, each in enumerate(data.questions)]
    said = model.generate(data.pixels(range(6)), asked, max_new_tokens=5)
    with Pruned().attach(model):
        pruned = model.generate(data.pixels(range(6)), asked, max_new_tokens=5)
    same = 100 * sum(one == other for one, other in zip(said, pruned, strict=True)) / 6
    assert same < 100
    candidates = [Candidate(method="plain", model=model), Candidate(method="pruned", model=model, adapter=Pruned())]
    chosen = [candidates[at] for at in order]
    found = evaluate(chosen, data=data, attack=None, results=tmp_path / "r.sqlite", sanity=False, quiet=True)
    with Results(tmp_path / "r.sqlite", read_only=True) as results:
        samples = {each.setting.method: results.samples(each.setting) for each in found}
    relative = {name: 100 * sum(each.also["relative"] for each in some) / 6 for name, some in samples.items()}
    assert relative == {"plain": 100, "pruned": pytest.approx(same)}


def test_the_tokens_that_end_an_answer_are_a_part_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    speaker = llava("tiny", *llava_parts())
    before = speaker.fingerprint
    config: Any = speaker.model.generation_config
    monkeypatch.setattr(config, "eos_token_id", 5)
    assert speaker.fingerprint != before


def test_gradients_in_half_precision_are_a_part_of_a_result(model: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    task = VQA(radapt.load_dataset("shapeworld-vqa", n=2))
    candidate = Candidate(method="tiny", model=model)
    threat = Threat(attack="pgd", eps=8 / 255, source="self")
    here = depends_on(candidate, candidate, task, threat, {})
    assert "gradients" not in here
    monkeypatch.setattr(answering, "gradients_of", lambda model: "bfloat16")
    monkeypatch.setattr("radapt.evaluation.vqa.gradients_of", lambda model: "bfloat16")
    assert depends_on(candidate, candidate, task, threat, {}) == {**here, "gradients": "bfloat16"}


class Stronger(PGD):
    """Not a dataclass: its setting is no field."""

    def __init__(self, strength: float = 1.0, **settings: Any) -> None:
        super().__init__(**settings)
        object.__setattr__(self, "strength", strength)


@dataclass(frozen=True, kw_only=True)
class Outer(PGD):
    name: ClassVar[str] = "outer"
    inner: Attack | None = None
    table: object = None


@dataclass(frozen=True, kw_only=True)
class Inner(PGD):
    name: ClassVar[str] = "inner"


def test_an_attack_whose_settings_results_cannot_tell_is_refused() -> None:
    with pytest.raises(SettingsError, match="Stronger has the attribute strength, which is no field"):
        Threat(attack=Stronger(strength=5, eps=4 / 255), source="self")
    for value in (torch.zeros(2), len, {1, 2}):
        with pytest.raises(SettingsError, match=r"table of the attack outer is .*plain values"):
            Threat(attack=Outer(eps=4 / 255, table=value), source="self")
    assert Threat(attack=Outer(eps=4 / 255, table=[1, 2]), source="self").settings()["table"] == [1, 2]


def test_an_attack_within_an_attack_is_known_by_its_class() -> None:
    one, other = (
        Threat(attack=Outer(eps=4 / 255, inner=kind(eps=4 / 255)), source="self").settings() for kind in (PGD, Inner)
    )
    assert one != other
    inner: Any = other["inner"]
    assert inner["attack"] == f"{Inner.__module__}.Inner"
    assert {entry.name for entry in fields(Inner)} < set(inner)
