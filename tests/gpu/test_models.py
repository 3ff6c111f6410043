"""Every family on the accelerator computes what it computes on the CPU, with and without an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.generative import BUILDERS
from tests.tiny import own_labels, tiny_clip
from torch import Tensor

import radapt
from radapt import adapters
from radapt.adapters import Adapter, gaussian_filter, training_free
from radapt.models import contrastive, generative

pytestmark = pytest.mark.gpu

MICRO = ("micro/clip", "micro/fare", "micro/tecoa", "micro/tga", "micro/llava", "micro/qwen-vl")


def close(found: Tensor, expected: Tensor, digits: float = 1e-3) -> None:
    """Equal up to a share of the largest entry."""
    assert found.dtype == expected.dtype
    assert (found.cpu() - expected.cpu()).abs().max() <= digits * expected.abs().max()


def both(name: str | Path, device: torch.device) -> tuple[Any, Any]:
    return radapt.load(name), radapt.load(name, device=device)


def pictures(model: Any, n: int = 3) -> Tensor:
    return torch.rand(n, 3, *model.image_size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", MICRO)
def test_a_micro_model_encodes_as_on_the_cpu(name: str, device: torch.device) -> None:
    here, there = both(name, device)
    pixels = pictures(here)
    with torch.no_grad():
        expected, found = here.encode_image(pixels), there.encode_image(pixels.to(device))
    assert found.device == there.device
    close(found, expected)


@pytest.mark.parametrize("name", MICRO)
def test_a_micro_model_carries_the_cpus_adapter(name: str, device: torch.device) -> None:
    here, there = both(name, device)
    pixels, adapter = pictures(here), training_free(here, alpha=0.6)
    with torch.no_grad(), adapter.attach(here), adapter.attach(there):
        expected, found = here.encode_image(pixels), there.encode_image(pixels.to(device))
    close(found, expected)
    with torch.no_grad():
        close(there.encode_image(pixels.to(device)), here.encode_image(pixels))


@pytest.mark.parametrize("name", MICRO)
def test_the_gradient_of_the_pixels_is_the_cpus(name: str, device: torch.device) -> None:
    gradients = []
    for model in both(name, device):
        pixels = pictures(model).to(model.device).requires_grad_(True)
        with training_free(model, alpha=0.6).attach(model):
            gradients.append(torch.autograd.grad(model.encode_image(pixels).float().square().sum(), pixels)[0])
    close(gradients[1], gradients[0])


@pytest.mark.parametrize("name", ["micro/clip", "micro/fare"])
def test_a_classifier_scores_as_on_the_cpu(name: str, device: torch.device) -> None:
    here, there = (contrastive(model) for model in both(name, device))
    prompts, pixels = [["a red star"], ["a blue disc", "a disc"], ["a square"]], pictures(here)
    with torch.no_grad():
        close(there.classifier(prompts), here.classifier(prompts))
        found = there.logits(pixels.to(device), there.classifier(prompts))
        close(found, here.logits(pixels, here.classifier(prompts)))
    assert there.logit_scale == pytest.approx(here.logit_scale)


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_family_that_generates_answers_as_on_the_cpu(kind: str, device: torch.device, tmp_path: Path) -> None:
    here, there = both(BUILDERS[kind](tmp_path), device)
    pixels, prompts = pictures(here, 2), ["what shape is there ?", "is there a star ?"]
    adapter = training_free(here, alpha=0.5)
    with adapter.attach(here), adapter.attach(there), torch.no_grad():
        expected = here.answer_scores(pixels, here.tokenize(prompts, ["star", "yes"]))
        found = there.answer_scores(pixels.to(device), there.tokenize(prompts, ["star", "yes"]))
        close(found[0], expected[0])
        assert found[1].cpu().equal(expected[1])
        assert there.generate(pixels.to(device), prompts, max_new_tokens=4) == here.generate(
            pixels, prompts, max_new_tokens=4
        )


@pytest.mark.parametrize("kind", BUILDERS)
def test_checkpointing_gives_the_same_gradient(kind: str, device: torch.device, tmp_path: Path) -> None:
    gradients = []
    for gradient_checkpointing in (False, True):
        model: Any = radapt.load(BUILDERS[kind](tmp_path), device=device, gradient_checkpointing=gradient_checkpointing)
        pixels = pictures(model, 2).to(device).requires_grad_(True)
        loss, _ = model.answer_scores(pixels, model.tokenize(["what shape ?"] * 2, ["star", "disc"]))
        gradients.append(torch.autograd.grad(loss.sum(), pixels)[0])
    close(gradients[1], gradients[0], 1e-4)


@pytest.mark.parametrize("method", adapters.names())
def test_every_adapter_method_makes_the_cpus_adapter(method: str, device: torch.device) -> None:
    made: list[Adapter] = []
    for model in both("micro/clip", device):
        settings: dict[str, Any] = {}
        if method == "model-guided":
            settings["guide"] = radapt.load("micro/fare", device=model.device)
        if method == "data-driven":
            data = radapt.load_dataset("shapes", split="train", n=16)
            settings |= {"data": data, "steps": 2, "batch_size": 8, "quiet": True}
        made.append(radapt.adapt(method, model, **settings))
    expected, found = made
    assert found.anchor.device.type == "cpu"
    close(found.anchor, expected.anchor, 1e-2 if method == "data-driven" else 1e-3)


@pytest.mark.parametrize("adversary", ["static", "adaptive"])
@pytest.mark.parametrize("loss", ["embedding", "text"])
def test_an_anchor_is_trained_to_the_same_bits_twice(loss: Any, adversary: Any, device: torch.device) -> None:
    model, data = radapt.load("micro/clip", device=device), radapt.load_dataset("shapes", split="train", n=12)
    settings: dict[str, Any] = {"steps": 2, "batch_size": 6, "attack_steps": 2, "quiet": True, "data": data}
    one, other = (
        radapt.adapt("data-driven", model, loss=loss, adversary=adversary, **settings).anchor for _ in range(2)
    )
    assert one.equal(other)


@pytest.mark.parametrize("size", [(48, 48), (224, 224), (97, 130)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_filter_is_the_cpus(size: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
    images = torch.rand(2, 3, *size).to(dtype)
    for method in ("fft", "separable"):
        found = gaussian_filter(images.to(device), 0.179, method=method)
        close(found, gaussian_filter(images, 0.179, method=method), 1e-5 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_points_the_same_way(dtype: str, device: torch.device) -> None:
    full, half = radapt.load("micro/clip", device=device), radapt.load("micro/clip", device=device, dtype=dtype)
    pixels = pictures(full).to(device)
    with torch.no_grad():
        cosine = torch.cosine_similarity(half.encode_image(pixels).float(), full.encode_image(pixels))
    assert cosine.min() > 0.999


@pytest.mark.parametrize("where", ["auto", "device"])
@pytest.mark.parametrize("name", ["micro/llava", "micro/qwen-vl"])
def test_accelerate_puts_a_model_where_it_answers_as_before(name: str, where: str, device: torch.device) -> None:
    here: Any = radapt.load(name)
    there: Any = radapt.load(name, device_map="auto" if where == "auto" else str(device))
    pixels, prompts = pictures(here, 2), ["what shape is there ?"] * 2
    tokens = here.tokenize(prompts, ["star", "disc"])
    with torch.no_grad():
        close(there.answer_scores(pixels.to(there.device), tokens)[0], here.answer_scores(pixels, tokens)[0])
    assert generative(there).generate(pixels.to(there.device), prompts) == here.generate(pixels, prompts)


def test_images_and_labels_may_lie_on_the_cpu(device: torch.device) -> None:
    model = tiny_clip()
    data = own_labels(model, 6)
    outcomes = []
    for place in (torch.device("cpu"), device):
        model.to(place)
        classes = model.classifier(data.prompts)

        class Logits(torch.nn.Module):
            def __init__(self, classes: Tensor = classes) -> None:
                super().__init__()
                self.inner, self.classes = model.model, classes

            def forward(self, pixels: Tensor) -> Tensor:
                return model.logits(pixels, self.classes)

        found = radapt.attack(
            Logits(), data.pixels(range(6)), data.labels, attack="pgd", eps=2 / 255, steps=3, quiet=True
        )
        assert found.pixels.device.type == place.type
        outcomes.append(found)
    close(outcomes[1].clean_loss, outcomes[0].clean_loss)
