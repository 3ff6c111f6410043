"""Models are measured in evaluation mode, whatever the mode of the object that was given, which stays as it is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.models.generative import llava_parts, qwen_parts
from tests.models.openclip import CLIP, open_clip
from tests.models.test_open_clip import MEAN, STD, encoded
from tests.models.test_open_clip_config import built, with_
from tests.tiny import own_labels, tiny_clip
from torch import Tensor, nn

import radapt
from radapt.evaluation import Candidate, Threat, evaluate
from radapt.models import ClassifierModel, evaluating
from radapt.models.llava import llava
from radapt.models.qwen_vl import qwen_vl
from radapt.results import Results


class Normed(nn.Module):
    """A projection with batch norm and dropout before it."""

    def __init__(self, inner: nn.Module, features: int) -> None:
        super().__init__()
        self.norm, self.drop, self.inner = nn.BatchNorm1d(features), nn.Dropout(0.5), inner

    def forward(self, x: Tensor) -> Any:
        return self.inner(self.drop(self.norm(x)))


def shaky(vlm: Any) -> Any:
    """Dropout wherever the model has some, and parts in different modes."""
    for module in vlm.model.modules():
        for name in ("dropout", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.3)
    vlm.model.train()
    next(iter(vlm.tower.blocks)).eval()
    return vlm


def a_clip() -> Any:
    vlm: Any = tiny_clip(factor=10.0)
    vlm.model.visual_projection = Normed(vlm.model.visual_projection, 32)
    vlm.model.text_projection = Normed(vlm.model.text_projection, 32)
    return shaky(vlm)


def an_open_clip() -> Any:
    theirs = built(with_("vision_cfg", patch_dropout=0.5))
    return shaky(radapt.load(theirs, tokenizer=encoded))


def modes(model: nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in model.named_modules()}


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def passes(vlm: Any) -> list[Tensor]:
    """Whatever a model computes."""
    pixels = torch.rand(3, 3, *vlm.image_size, generator=torch.Generator().manual_seed(1)).requires_grad_()
    with torch.no_grad():
        found = [radapt.training_free(vlm).anchor, vlm.encode_image(pixels)]
    if hasattr(vlm, "answer_scores"):
        prompts, answers = ["what shape is it?"] * 3, ["a red star", "a circle", "star"]
        loss = vlm.answer_loss(pixels, prompts, answers)
        found += [loss, torch.autograd.grad(loss.sum(), pixels)[0]]
        said = " ".join(vlm.generate(pixels, prompts, max_new_tokens=4))
        return [*found, torch.tensor([float(ord(letter)) for letter in said])]
    classifier = vlm.classifier([["a red circle"], ["a blue star"]])
    logits = vlm.logits(pixels, classifier)
    return [*found, classifier, logits, torch.autograd.grad(logits.square().sum(), pixels)[0]]


KINDS = {
    "clip": a_clip,
    "open_clip": an_open_clip,
    "llava": lambda: shaky(llava("l", *llava_parts())),
    "qwen": lambda: shaky(qwen_vl("q", *qwen_parts(True))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_computes_in_evaluation_mode_and_keeps_its_own(kind: str) -> None:
    vlm = KINDS[kind]()
    before, weights = modes(vlm.model), state(vlm.model)
    assert {True, False} == set(before.values())
    found = passes(vlm)
    assert modes(vlm.model) == before
    assert all(torch.equal(value, weights[name]) for name, value in vlm.model.state_dict().items())
    vlm.model.eval()
    for ours, expected in zip(found, passes(vlm), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("kind", ["llava", "qwen"])
def test_what_checkpointing_computes_again_is_in_evaluation_mode(kind: str) -> None:
    vlm = KINDS[kind]()
    expected = passes(vlm)
    vlm.gradient_checkpointing = True
    before = modes(vlm.model)
    for ours, plain in zip(passes(vlm), expected, strict=True):
        assert torch.allclose(ours, plain, atol=1e-5)
    assert modes(vlm.model) == before


def test_an_object_in_training_mode_is_evaluated_as_one_in_evaluation_mode(tmp_path: Path) -> None:
    vlm = a_clip()
    data, figures = own_labels(vlm, 6), []
    threats = [Threat(attack="pgd", eps=8 / 255, source="self", options={"steps": 3})]
    for number, train in enumerate((True, False)):
        vlm.model.train(train)
        before = modes(vlm.model)
        with Results(tmp_path / f"{number}.sqlite") as results:
            found = evaluate(
                [Candidate(method="tiny", model=vlm)], data=[data], threats=threats, results=results, quiet=True
            )
        figures.append([(figure.kind, figure.percent) for figure in found])
        assert modes(vlm.model) == before
    assert figures[0] == figures[1]


def test_threads_share_the_mode() -> None:
    vlm = a_clip()
    before, pixels = modes(vlm.model), torch.rand(12, 2, 3, 48, 48)
    with torch.no_grad(), evaluating(vlm.model):
        expected = [vlm.encode_image(each) for each in pixels]

    def run(number: int) -> bool:
        with torch.no_grad():
            return torch.equal(vlm.encode_image(pixels[number % 12]), expected[number % 12])

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(run, range(60)))
    assert modes(vlm.model) == before


def test_modes_come_back_after_an_error_and_after_blocks_in_each_other() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2)).eval())
    before = modes(model)
    with evaluating(model):
        with pytest.raises(ZeroDivisionError), evaluating(model):
            raise ZeroDivisionError
        assert not any(modes(model).values())
    assert modes(model) == before


@pytest.mark.parametrize(
    ("part", "named"),
    [
        (nn.Dropout(0.5), "Dropout"),
        (nn.BatchNorm2d(3), "BatchNorm2d"),
        (nn.InstanceNorm2d(3, track_running_stats=True), "InstanceNorm2d"),
        (nn.Dropout(0.0), ""),
        (nn.Dropout(0.5).eval(), ""),
        (nn.LayerNorm(48), ""),
    ],
)
def test_a_classifier_keeps_its_mode_with_a_warning(part: nn.Module, named: str) -> None:
    model = nn.Sequential(part, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    part_mode = part.training
    vlm = ClassifierModel("mine", model, image_size=(48, 48))
    if named:
        with pytest.warns(UserWarning, match=rf"mine has {named} in training mode.*call \.eval\(\) on it"):
            classifier = vlm.classifier([["a"], ["b"], ["c"]])
    else:
        classifier = vlm.classifier([["a"], ["b"], ["c"]])
    assert vlm.logits(torch.rand(2, 3, 48, 48), classifier).shape == (2, 3)
    assert part.training == part_mode


def test_a_method_of_another_family_is_in_evaluation_mode_too() -> None:
    live = CLIP()
    live.visual.image_mean, live.visual.image_std = MEAN, STD
    vlm: Any = radapt.load(live)

    class Other(type(vlm)):  # type: ignore[misc]
        def encode_image(self, pixels: Tensor) -> Tensor:
            return F.dropout(super().encode_image(pixels), 0.5, self.model.training)

    other = Other("other", live.train(), None, None)
    pixels = torch.rand(2, 3, 32, 32)
    assert torch.equal(other.encode_image(pixels), vlm.encode_image(pixels))
    assert live.training
    assert open_clip()


def test_blocks_of_models_that_share_parts_may_overlap() -> None:
    whole = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5)))
    part: Any = whole[1]
    part[1].eval()
    before = modes(whole)
    first, second = evaluating(whole), evaluating(part)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert whole[0].training
    assert not any(modes(part).values())
    second.__exit__(None, None, None)
    assert modes(whole) == before
