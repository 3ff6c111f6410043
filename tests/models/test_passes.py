"""A pass leaves the host nothing to wait for: it reads no number from the device, and copies none to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.models.openclip import MODEL_CFG, open_clip
from tests.tiny import SHAPE, lively, tiny_clip
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import radapt
from radapt.attacks import AnswerObjective, ClassificationObjective
from radapt.attacks._objective import Subset

WAITS = ("_local_scalar_dense", "lift_fresh", "scalar_tensor")
"""What reads a tensor as a number, and what makes a tensor of numbers, which are then copied to the device."""


class Watch(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def siglip() -> Any:
    from transformers import SiglipConfig, SiglipModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    shape = {**SHAPE, "image_size": 48, "patch_size": 8}
    text = {**SHAPE, "vocab_size": 80, "max_position_embeddings": 16, "projection_size": 32}
    model = lively(SiglipModel(SiglipConfig(vision_config=shape, text_config=text)))
    processor = SiglipImageProcessorPil(size={"height": 48, "width": 48})
    return radapt.load(model, name="tiny/siglip", processor=processor)


def built_by_open_clip() -> Any:
    package: Any = open_clip()
    model = package.CLIP(**MODEL_CFG).eval()
    return radapt.load(model, name="tiny/open_clip", processor=CLIPImageProcessorPil(size={"shortest_edge": 32}))


BUILDERS: dict[str, Callable[[], Any]] = {"clip": tiny_clip, "siglip": siglip, "open_clip": built_by_open_clip}


@pytest.mark.parametrize("kind", BUILDERS)
def test_logits_wait_for_nothing(kind: str) -> None:
    model = BUILDERS[kind]()
    pixels = torch.rand(2, 3, *model.image_size)
    with torch.no_grad():
        width = model.encode_image(pixels).shape[1]
        classifier = torch.nn.functional.normalize(torch.randn(5, width), dim=1)
        expected = model.logits(pixels, classifier)
        with Watch() as watch:
            found = model.logits(pixels, classifier)
    assert found.equal(expected)
    assert watch.seen["mm"] + watch.seen["addmm"] > 0
    assert {name: watch.seen[name] for name in WAITS} == dict.fromkeys(WAITS, 0)


@pytest.mark.parametrize("kind", BUILDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_scaled_as_the_models_number_says(kind: str, dtype: torch.dtype) -> None:
    model = BUILDERS[kind]()
    with torch.no_grad():
        model.model.logit_scale.fill_(1.7)
        model.model.to(dtype)
        pixels = torch.rand(2, 3, *model.image_size)
        embedding = torch.nn.functional.normalize(model.encode_image(pixels).float(), dim=1)
        found = model.logits(pixels, torch.eye(embedding.shape[1])[:3])
    assert found.dtype == torch.float32
    assert found.equal(model.logit_scale * embedding @ torch.eye(embedding.shape[1])[:3].T)


def test_an_objective_moves_labels_and_rows_once_to_where_samples_are_counted() -> None:
    weight, labels = torch.randn(3 * 4, 4), torch.tensor([0, 3, 1, 2, 2])
    whole = ClassificationObjective(lambda pixels: pixels.flatten(1) @ weight.to(pixels), labels, 4)
    pixels, index = torch.rand(2, 3, 2, 2), torch.tensor([2, 0])
    found = Subset(whole, torch.tensor([4, 1, 2]))(pixels, index)
    assert found.loss.equal(whole(pixels, torch.tensor([2, 4])).loss)

    there = ClassificationObjective(lambda pixels: pixels.flatten(1)[:, :4], labels, 4)
    part, copies = Subset(there, torch.tensor([4, 1, 2])), list[int]()
    for _ in range(3):
        with Watch() as watch:
            assert part(pixels.to("meta"), index.to("meta")).loss.is_meta
        copies.append(watch.seen["_to_copy"])
    # The first time there are labels and rows beside the copy of the pixels that a model may overwrite.
    assert copies == [copies[1] + 2, copies[1], copies[1]]


def test_an_answers_flags_move_once_too() -> None:
    objective = AnswerObjective(lambda pixels, index: (pixels.sum((1, 2, 3)), index > 0), 3, stop=torch.ones(3) > 0)
    pixels, index, copies = torch.rand(2, 3, 2, 2, device="meta"), torch.tensor([2, 0]).to("meta"), list[int]()
    for _ in range(2):
        with Watch() as watch:
            objective(pixels, index)
        copies.append(watch.seen["_to_copy"])
    assert copies == [1, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("inside", [False, True])
def test_normalisation_is_made_once_per_type_and_serves_every_later_pass(dtype: torch.dtype, inside: bool) -> None:
    model = tiny_clip()
    pixels = torch.rand(2, 3, 48, 48, dtype=dtype)
    mean, std = (torch.tensor(values, dtype=dtype).view(3, 1, 1) for values in (model.tower.mean, model.tower.std))
    with torch.inference_mode(inside):
        assert model.normalize(pixels).equal((pixels - mean) / std)
    # What was made in inference mode must serve a pass with gradients.
    leaf = pixels.clone().requires_grad_(True)
    model.normalize(leaf).sum().backward()
    assert leaf.grad is not None
    with Watch() as watch:
        model.normalize(pixels)
    assert watch.seen["lift_fresh"] == watch.seen["_to_copy"] == 0
