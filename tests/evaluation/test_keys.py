"""A figure is measured again when anything changes that it depends on, and only then; the last question counts."""

from __future__ import annotations

import copy
import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.tiny import own_labels, tiny_clip

import radapt
from radapt.attacks import Attack
from radapt.attacks.pgd import PGD
from radapt.data import Dataset, load_dataset
from radapt.errors import InputError, SettingsError
from radapt.evaluation import Candidate, Threat, evaluate
from radapt.fingerprint import version_of
from radapt.models import VLM
from radapt.reports.table import tabulate
from radapt.results import Result, Results, with_worst_cases

CARD = """
name: own
title: Own
task: zero-shot
source: shapeworld
metric: top-1
licence: none
citation: none
description: none
tests: none
options: {label: shape}
templates: ["TEMPLATE"]
"""


def ask(
    path: Path, model: Any, data: Any = "shapes", *, n: int | None = 4, attack: Any = None, **more: Any
) -> list[Result]:
    given: dict[str, Any] = {"eps": 4 / 255, "source": "self", "sanity": False, "quiet": True, "batch_size": 4, **more}
    return radapt.evaluate(model, data=data, n=n, attack=attack, results=path, **given)


def shown(path: Path) -> list[float]:
    with Results(path, read_only=True) as results:
        return [result.percent for result in results.all()]


def measured(path: Path) -> int:
    """Settings that were ever measured."""
    with Results(path, read_only=True) as results:
        return len(results.all(superseded=True))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "r.sqlite"


@pytest.mark.slow
def test_a_corrected_template_is_measured_anew(file: Path, tmp_path: Path) -> None:
    card = tmp_path / "own.yaml"
    figures = []
    for template in ("{c} nothing at all, only words", "a photo of {a c}", "{c} nothing at all, only words"):
        card.write_text(CARD.replace("TEMPLATE", template))
        figures.append(ask(file, "micro/clip", card, n=40)[0].percent)
        assert shown(file) == [figures[-1]]
        assert shown(file) == [ask(tmp_path / f"{len(figures)}.sqlite", "micro/clip", card, n=40)[0].percent]
    assert figures[0] == figures[2] < figures[1]
    assert measured(file) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("title: Own", "title: Other"),
        lambda text: text.replace("licence: none", "licence: MIT").replace("tests: none", "tests: all"),
        lambda text: text + "n: 500\n",
    ],
)
def test_what_a_card_only_describes_changes_no_figure(change: Callable[[str], str], file: Path, tmp_path: Path) -> None:
    card = tmp_path / "own.yaml"
    card.write_text(CARD.replace("TEMPLATE", "a photo of {a c}"))
    ask(file, tiny_clip(), card)
    card.write_text(change(card.read_text()))
    ask(file, tiny_clip(), card)
    assert measured(file) == 1


def changed_classes(data: Dataset) -> Dataset:
    return replace(data, classes=tuple(reversed(data.classes)))


def changed_label(data: Dataset) -> Dataset:
    labels = data.labels.clone()
    labels[1] = (labels[1] + 1) % len(data.classes)
    return replace(data, labels=labels)


def changed_image(data: Dataset) -> Dataset:
    images = data.images.copy()
    images[1, 5, 5] ^= 255
    return replace(data, images=images)


def other_images(data: Dataset) -> Dataset:
    return replace(data, images=np.ascontiguousarray(data.images[:, ::-1]))


@pytest.mark.parametrize("change", [changed_classes, changed_label, changed_image, other_images])
def test_changed_data_are_measured_anew(
    change: Callable[[Dataset], Dataset], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_clip()
    data = own_labels(model, 6)
    first = ask(file, model, data, n=None, attack="pgd")
    again = ask(file, model, change(data), n=None, attack="pgd")
    fresh = ask(tmp_path / "fresh.sqlite", model, change(data), n=None, attack="pgd")
    assert [each.percent for each in again] == [each.percent for each in fresh] == shown(file)
    back = ask(file, model, data, n=None, attack="pgd")
    assert [each.percent for each in back] == [each.percent for each in first] == shown(file)


def test_only_the_chunk_that_changed_is_measured_anew(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, added, add = tiny_clip(), list[int](), Results.add
    data = own_labels(model, 6)
    ask(file, model, data, n=None, chunk_size=2)

    def watched(self: Results, setting: Any, samples: Any, **more: Any) -> None:
        added.extend(each.position for each in samples)
        add(self, setting, samples, **more)

    monkeypatch.setattr(Results, "add", watched)
    ask(file, model, changed_image(data), n=None, chunk_size=2)
    assert added == [0, 1]


def test_fewer_samples_after_more_are_fewer_samples(file: Path, tmp_path: Path) -> None:
    model = tiny_clip()
    data = [own_labels(model, n) for n in (12, 5, 12)]
    for each in data:
        got = ask(file, model, each, n=None, attack="pgd")
        fresh = ask(tmp_path / f"{len(each)}.sqlite", model, each, n=None, attack="pgd")
        assert [(r.n, r.percent, r.forwards) for r in got] == [(r.n, r.percent, r.forwards) for r in fresh]
        assert [r.n for r in got] == [len(each)] * 2
        assert shown(file) == [r.percent for r in got]


def activation(model: VLM) -> None:
    model.model.config.vision_config.hidden_act = "relu"


def module(model: VLM) -> None:
    for layer in model.model.vision_model.encoder.layers:
        layer.mlp.activation_fn = torch.nn.ReLU()


def normalisation(model: VLM) -> None:
    model.processor.image_mean = [0.4, 0.5, 0.6]  # type: ignore[attr-defined]


def deviation(model: VLM) -> None:
    model.processor.image_std = [0.3] * 3  # type: ignore[attr-defined]


def weight(model: VLM) -> None:
    with torch.no_grad():
        model.model.text_projection.weight[0, 0] += 1e-3


def buffer(model: VLM) -> None:
    model.model.register_buffer("extra", torch.zeros(2))


def precision(model: VLM) -> None:
    model.model.to(torch.bfloat16)


def tokens(model: VLM) -> None:
    model.tokenizer.add_tokens(["circle"])  # type: ignore[attr-defined]


def scale(model: VLM) -> None:
    model.model.vision_model.encoder.layers[0].self_attn.scale = 0.1


def hook(model: VLM) -> None:
    model.model.vision_model.register_forward_pre_hook(lambda module, args: None)


def attention(model: VLM) -> None:
    model.model.config._attn_implementation = "eager"


CHANGES = (activation, module, normalisation, deviation, weight, buffer, precision, tokens, scale, hook, attention)


@pytest.mark.parametrize("change", CHANGES)
def test_a_model_that_changed_is_another_one(change: Callable[[VLM], None]) -> None:
    model, same = tiny_clip(), tiny_clip()
    assert model.fingerprint == same.fingerprint
    change(model)
    assert model.fingerprint != same.fingerprint


def test_what_changes_no_output_changes_no_fingerprint(tmp_path: Path) -> None:
    model = tiny_clip()
    before = model.fingerprint
    model.encode_text(["a circle", "a much longer sentence than that one"])  # the tokenizer remembers its padding
    model.model.train()
    copied = copy.deepcopy(model)
    assert [model.fingerprint, copied.fingerprint] == [before, before]
    with radapt.training_free(model).attach(model):
        assert model.fingerprint == before  # an adapter has a fingerprint of its own
    model.save_pretrained(tmp_path)
    assert radapt.load(tmp_path).fingerprint == radapt.load(tmp_path).fingerprint


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file_name", "change"),
    [
        ("config.json", lambda c: c["vision_config"].update(hidden_act="relu")),
        ("config.json", lambda c: c["text_config"].update(hidden_act="relu")),
        ("preprocessor_config.json", lambda c: c.update(image_mean=[0.4, 0.4, 0.4])),
        ("preprocessor_config.json", lambda c: c.update(image_std=[0.2, 0.2, 0.2])),
    ],
)
def test_a_folder_whose_configuration_changed_is_measured_anew(
    file_name: str, change: Callable[[dict[str, Any]], None], file: Path, tmp_path: Path
) -> None:
    radapt.load("micro/clip").save_pretrained(tmp_path / "model")
    ask(file, str(tmp_path / "model"), n=8)
    content = json.loads((tmp_path / "model" / file_name).read_text())
    change(content)
    (tmp_path / "model" / file_name).write_text(json.dumps(content))
    got = ask(file, str(tmp_path / "model"), n=8)
    assert measured(file) == 2
    assert shown(file) == [got[0].percent] == [ask(tmp_path / "f.sqlite", str(tmp_path / "model"), n=8)[0].percent]


def test_another_version_of_what_computes_a_figure_is_another_figure(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from radapt.evaluation.zero_shot import ZeroShot

    model = tiny_clip()
    data = own_labels(model, 4)
    ask(file, model, data, n=None, attack="pgd")
    monkeypatch.setattr(PGD, "revision", 99, raising=False)
    ask(file, model, data, n=None, attack="pgd")
    assert measured(file) == 3  # the clean figure stays
    monkeypatch.setattr(ZeroShot, "revision", 7, raising=False)
    ask(file, model, data, n=None, attack="pgd")
    assert measured(file) == 5
    assert len(shown(file)) == 2


OWN = """
from dataclasses import dataclass
from radapt.attacks.pgd import PGD

class Between(PGD):
    bonus = 1

class Own(Between):
    name = "own"
"""


def test_an_attack_of_ones_own_is_known_by_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    versions = []
    for number, code in enumerate((OWN, OWN, OWN.replace("bonus = 1", "bonus = 2"), OWN + "    more = 1\n")):
        (tmp_path / f"own_attack_{number}.py").write_text(code)
        versions.append(version_of(importlib.import_module(f"own_attack_{number}").Own))
    assert version_of(PGD) == version_of(Attack) == "3"
    assert versions[0] == versions[1]
    assert len({"3", *versions}) == 4


@pytest.mark.parametrize("name", ["self", "undefended"])
def test_a_candidate_is_not_called_like_a_source(name: str, file: Path) -> None:
    with pytest.raises(SettingsError, match=f"cannot be called '{name}', which is a source"):
        ask(file, {name: tiny_clip()})


def test_a_model_under_two_names_is_no_transfer(file: Path) -> None:
    one, other = tiny_clip("one"), tiny_clip("other")
    data = own_labels(one, 4)
    candidates = [Candidate(method="One", model=one), Candidate(method="Other", model=other)]
    threat = Threat(attack="pgd", eps=4 / 255, source="One")
    with Results(file) as results:
        made = evaluate(candidates, data=[data], threats=[threat], results=results, sanity=False, quiet=True)
    assert [each.kind for each in made] == ["clean", "white-box"] * 2
    bare = [Candidate(method="A", model=one, adapter=radapt.training_free(one))]
    with Results(file) as results:
        made = evaluate(bare, data=[data], threats=[replace_source(threat)], results=results, sanity=False, quiet=True)
    assert [each.kind for each in made] == ["clean", "transfer"]


def replace_source(threat: Threat) -> Threat:
    return Threat(attack=threat.attack, eps=threat.eps, source="undefended")


def test_a_model_is_attacked_by_itself_once(file: Path) -> None:
    got = ask(file, tiny_clip(), attack="pgd", source=("undefended", "self"))
    assert [each.kind for each in got] == ["clean", "white-box"]


def test_what_is_wrong_without_an_attack_is_not_attacked(file: Path) -> None:
    model = tiny_clip()
    data = own_labels(model, 6)
    data = replace(data, labels=(data.labels + torch.tensor([0, 1, 0, 1, 1, 0])) % len(data.classes))
    adapter = radapt.training_free(model, alpha=0.05, cutoff=0.6)
    with Results(file) as results:
        made = evaluate(
            [Candidate(method="A", model=model, adapter=adapter), Candidate(method="B", model=model)],
            data=[data],
            threats=[Threat(attack="pgd", eps=8 / 255, source=each) for each in ("undefended", "self")],
            results=results,
            sanity=False,
            quiet=True,
        )
        stored = {(r.setting.method, r.kind): results.samples(r.setting) for r in made}
    for (method, kind), samples in stored.items():
        if kind != "clean":
            for sample, clean in zip(samples, stored[method, "clean"], strict=True):
                assert (sample.forwards > 0) == (clean.score > 0)
                assert sample.score <= clean.score
    assert {kind for _, kind in stored} == {"clean", "transfer", "white-box"}


def test_a_model_of_nan_is_no_figure(file: Path) -> None:
    model = tiny_clip()
    with torch.no_grad():
        model.model.visual_projection.weight.fill_(torch.nan)
    with pytest.raises(InputError, match=r"tiny puts out NaN on every image of shapes \(4 were shown to it\); check"):
        ask(file, model, attack="pgd")


def test_an_image_of_nan_is_flagged(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_clip()
    data = own_labels(model, 4)
    logits = type(model).logits

    def broken(self: VLM, pixels: torch.Tensor, classifier: torch.Tensor) -> torch.Tensor:
        out = logits(self, pixels, classifier)  # type: ignore[attr-defined]
        return torch.where((pixels == data.pixels([2])[0]).all(1).all(1).all(1)[:, None], torch.nan, out)

    monkeypatch.setattr(type(model), "logits", broken)
    (clean,) = ask(file, model, data, n=None)
    assert clean.percent == 75
    assert clean.flags == {"not finite": "NaN on 1 of 4 samples, counted as wrong"}


def test_the_gallery_is_part_of_a_retrieval_figure() -> None:
    from radapt.evaluation.retrieval import Retrieval

    data = load_dataset("shapeworld-retrieval", n=6)
    other = replace(data, images=np.concatenate([data.images[:5], 255 - data.images[5:]]))
    assert Retrieval(data).content != Retrieval(other).content
    assert Retrieval(data).content == Retrieval(load_dataset("shapeworld-retrieval", n=6)).content


def robust(path: Path) -> dict[str, float]:
    """What the table shows of each line: clean, and in the one cell that is called robust."""
    with Results(path, read_only=True) as results:
        table = tabulate(with_worst_cases(results))
    (section,) = table.sections
    (line,) = section.lines
    cells = {column.title: cell for column, cell in zip(table.columns, line.cells, strict=True) if cell}
    (title,) = (column.title for column in table.columns if column.robust)
    return {"clean": cells["clean"].percent, "robust": cells[title].percent}


@pytest.mark.parametrize("what", ["weights", "card", "images"])
def test_the_table_tells_nothing_of_what_was_replaced(what: str, file: Path, tmp_path: Path) -> None:
    model = tiny_clip(factor=4.0)
    data = own_labels(model, 8)
    given: dict[str, Any] = {"n": None, "eps": 1 / 255, "options": {"pgd.steps": 8}}
    _, fgsm, *_ = ask(file, {"A": model}, data, attack=["fgsm", "pgd"], **given)
    if what == "weights":
        with torch.no_grad():
            model.model.visual_projection.weight.mul_(-1)
    elif what == "card":
        data = changed_classes(data)
    else:
        data = other_images(data)
    given["options"] = {"steps": 8}
    ask(file, {"A": model}, data, attack="pgd", **given)
    clean, pgd = ask(tmp_path / "fresh.sqlite", {"A": model}, data, attack="pgd", **given)
    assert fgsm.percent > pgd.percent
    assert robust(file) == {"clean": clean.percent, "robust": pgd.percent}
