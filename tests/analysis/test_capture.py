"""Captures: what is seen inside of a model, and that the model is as it was afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.models.openclip import CLIP
from torch import Tensor, nn

import radapt
from radapt.analysis._batches import batches_of
from radapt.analysis._capture import block_names, by_image
from radapt.errors import InputError
from radapt.models import VLM, capture, tower_of
from radapt.models._attention import eager

pytestmark = pytest.mark.filterwarnings("ignore:.*came without an image processor:UserWarning")


def first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_what_is_captured_are_the_hidden_states_of_transformers(tiny_vlm: VLM) -> None:
    pixels = torch.rand(3, 3, 32, 32)
    with capture(list(tiny_vlm.tower.blocks), first, entering=True) as kept:
        tiny_vlm.encode_image(pixels)
    states = tiny_vlm.model.vision_model(
        pixel_values=tiny_vlm.normalize(pixels), output_hidden_states=True
    ).hidden_states
    assert len(kept) == len(states) == 3
    for position, state in enumerate(states):
        assert torch.equal(kept[position], state)
    assert block_names(tiny_vlm.tower) == ("Emb.", "B1", "B2")


def test_outputs_weights_and_state_dict_stay_to_the_bit(tiny_vlm: VLM) -> None:
    pixels = torch.rand(3, 3, 32, 32)
    before, weights = tiny_vlm.encode_image(pixels), {k: v.clone() for k, v in tiny_vlm.model.state_dict().items()}
    with capture(list(tiny_vlm.tower.blocks), lambda output: first(output) * 0, entering=True):
        assert hooks(tiny_vlm.model) == 3
        assert torch.equal(tiny_vlm.encode_image(pixels), before)
        assert tiny_vlm.model.state_dict().keys() == weights.keys()
    assert hooks(tiny_vlm.model) == 0
    assert torch.equal(tiny_vlm.encode_image(pixels), before)
    assert all(torch.equal(value, weights[name]) for name, value in tiny_vlm.model.state_dict().items())


def test_hooks_are_gone_after_an_error(tiny_vlm: VLM) -> None:
    def broken(output: Any) -> Tensor:
        raise InputError("broken")

    blocks = list(tiny_vlm.tower.blocks)
    with pytest.raises(InputError, match="broken"), capture(blocks, broken, entering=True):
        tiny_vlm.encode_image(torch.rand(1, 3, 32, 32))
    assert hooks(tiny_vlm.model) == 0


def test_the_images_of_a_qwen_lie_end_to_end(tiny_qwen: Any) -> None:
    model = radapt.load(tiny_qwen)
    pixels = torch.rand(3, 3, 32, 48)

    def tokens(images: Tensor) -> Tensor:
        with capture(list(model.tower.blocks), lambda output: by_image(model.tower, output, len(images))) as kept:
            model.encode_image(images)
        return kept[1]

    together = tokens(pixels)
    assert together.shape == (3, 24, 32)
    for row in range(3):
        assert torch.allclose(together[row], tokens(pixels[row : row + 1])[0], atol=1e-4)
    with pytest.raises(InputError, match="gave 10 tokens for 3 images; all images of a batch must have one size"):
        by_image(model.tower, torch.rand(10, 32), 3)


@pytest.mark.parametrize("batch_first", [True, False])
def test_an_open_clip_object_may_put_its_tokens_first(batch_first: bool) -> None:
    model = CLIP(batch_first=batch_first).requires_grad_(False)
    tower, images = tower_of(model), torch.rand(3, 3, 32, 32)
    with capture(list(tower.blocks), lambda output: by_image(tower, output, 3), entering=True) as kept:
        tower.run(images)
    reference = CLIP(batch_first=True).requires_grad_(False).visual
    hidden = reference.conv1(images).flatten(2).transpose(1, 2)
    hidden = torch.cat([reference.class_embedding.expand(3, 1, -1), hidden], 1) + reference.positional_embedding
    hidden = reference.ln_pre(hidden)
    for position, block in enumerate([nn.Identity(), *reference.transformer.resblocks]):
        hidden = block(hidden, None) if position else hidden
        assert torch.allclose(kept[position], hidden, atol=1e-4)


def test_eager_attention_is_for_the_time_of_the_analysis(tiny_vlm: VLM) -> None:
    pixels, config = torch.rand(2, 3, 32, 32), tiny_vlm.model.config.vision_config
    before, facts = tiny_vlm.encode_image(pixels), tiny_vlm.model.config.to_dict()
    assert config._attn_implementation == "sdpa"

    def within() -> None:
        with eager(tiny_vlm):
            assert config._attn_implementation == "eager"
            assert torch.allclose(tiny_vlm.encode_image(pixels), before, atol=1e-4)
            raise InputError("broken")

    with pytest.raises(InputError, match="broken"):
        within()
    assert config._attn_implementation == tiny_vlm.model.config._attn_implementation == "sdpa"
    assert tiny_vlm.model.config.text_config._attn_implementation == "sdpa"
    assert torch.equal(tiny_vlm.encode_image(pixels), before)
    assert tiny_vlm.model.config.to_dict() == facts


def test_batches_come_as_they_are_but_for_a_last_one_that_is_too_small() -> None:
    pixels = torch.rand(11, 3, 4, 4)

    def sizes(*given: int) -> list[int]:
        parts = list(batches_of(4, pixels[: sum(given)].split(list(given)), "this"))
        assert torch.equal(torch.cat(parts), pixels[: sum(given)])
        return [len(part) for part in parts]

    assert sizes(4, 5) == [4, 5]
    assert sizes(4, 4, 3) == [4, 7]
    assert sizes(7, 4, 0) == [7, 4]
    assert sizes(9) == [9]
    for given in ((3,), (3, 8), (4, 3, 4), (0,)):
        with pytest.raises(InputError, match=f"this needs at least 4 images per batch, got {min(given)}"):
            sizes(*given)
    with pytest.raises(InputError, match="this needs images, got no batch"):
        list(batches_of(4, [], "this"))
    with pytest.raises(InputError, match="got 2; only the last of several batches of one size"):
        list(batches_of(4, [pixels, torch.rand(2, 3, 8, 8)], "this"))
