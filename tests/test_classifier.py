"""Any classifier: what it is given is its own, and what it gives must be logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import radapt
from radapt.attacks import attack
from radapt.classifier import AnyClassifier
from radapt.errors import InputError, ModelError
from radapt.models import ClassifierModel

IMAGES = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def linear(kind: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(108, 5)).to(kind)


class Wrapped:
    def __init__(self, logits: Any) -> None:
        self.logits = logits


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize(
    "change", [lambda x: x.sub_(0.5).div_(0.25), lambda x: x.zero_(), lambda x: x.copy_(x.flip(3))]
)
def test_pixels_stay_as_they_are(change: Any, gradients: bool) -> None:
    model, pixels = linear(), IMAGES.clone().requires_grad_(gradients)
    logits = AnyClassifier(lambda x: model(change(x)))(pixels)
    assert torch.equal(pixels, IMAGES)
    assert torch.equal(logits, model(change(IMAGES.clone())))
    if gradients:
        (gradient,) = torch.autograd.grad(logits.sum(), pixels)
        assert gradient.shape == IMAGES.shape


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_a_module_gets_pixels_in_the_precision_of_its_weights(kind: torch.dtype) -> None:
    model = linear(kind)
    classifier = AnyClassifier(model)
    for _ in range(2):
        logits = classifier(IMAGES)
        assert torch.equal(logits, model(IMAGES.to(kind)).float())
    wrapped = ClassifierModel("half", model, image_size=(6, 6))
    assert torch.equal(wrapped.logits(IMAGES, wrapped.classifier([["x"]] * 5)), logits)


def test_an_error_of_the_model_itself_is_not_hidden() -> None:
    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError(f"cannot take {x.dtype}")

    with pytest.raises(RuntimeError, match=r"cannot take torch.float64"):
        AnyClassifier(Failing())(IMAGES)


@pytest.mark.parametrize("wrap", [lambda logits: logits, Wrapped])
def test_logits_may_be_an_attribute(wrap: Any) -> None:
    model = linear()
    assert torch.equal(AnyClassifier(lambda x: wrap(model(x)))(IMAGES), model(IMAGES))


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda logits: (logits,), "the model must map images to logits, .* from 4 images it made a tuple of 1"),
        (lambda logits: {"logits": logits}, "a dict of 'logits'; give a function"),
        (lambda logits: Wrapped(None), "a NoneType"),
        (lambda logits: logits[:1], r"from 4 images it made a tensor of shape \(1, 5\)"),
        (lambda logits: logits.sum(1), r"a tensor of shape \(4,\)"),
    ],
)
def test_what_are_no_logits_is_refused(wrap: Any, message: str) -> None:
    model = linear()
    with pytest.raises(InputError, match=message):
        AnyClassifier(lambda x: wrap(model(x)))(IMAGES)
    own = ClassifierModel("mine", lambda x: wrap(model(x)), image_size=(6, 6))
    with pytest.raises(InputError, match=message.replace("the model", "mine")):
        own.encode_image(IMAGES)


@pytest.mark.parametrize("kind", ["vit", "clip"])
def test_a_classifier_of_transformers_is_one_and_wants_normalised_images(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    from transformers import CLIPConfig, CLIPForImageClassification, ViTConfig, ViTForImageClassification

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**shape, "image_size": 48, "patch_size": 8}
    made: Any = (
        ViTForImageClassification(ViTConfig(**vision, num_labels=12))
        if kind == "vit"
        else CLIPForImageClassification(CLIPConfig(vision_config=vision, text_config=shape, num_labels=12))
    ).eval()
    options: dict[str, Any] = {"data": "shapes", "n": 2, "undefended": "micro/clip", "quiet": True}
    with pytest.warns(UserWarning, match="ForImageClassification of transformers.*normalised"):
        radapt.evaluate({"mine": made}, attack="none", **options)
    with pytest.warns(UserWarning, match="ForImageClassification of transformers.*normalised"):
        attack(made, torch.rand(2, 3, 48, 48), torch.tensor([0, 1]), attack="pgd", eps=0.1, steps=1, quiet=True)
    radapt.evaluate({"mine": lambda pixels: made((pixels - 0.5) / 0.5)}, attack="none", **options)
    with pytest.raises(ModelError, match="classes of its own"):
        radapt.load(made)
