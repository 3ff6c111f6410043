"""Attention maps against those of transformers, and how much they hang on the image, against a loop in float64."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.openclip import CLIP
from tests.tiny import tiny_clip
from torch import Tensor

import radapt
from radapt.analysis import attention_maps, attention_sensitivity
from radapt.errors import InputError, ModelError, SettingsError
from radapt.evaluation._kept import attention_of
from radapt.models import VLM, patch_attention

pytestmark = pytest.mark.filterwarnings("ignore:.*came without an image processor:UserWarning")

SIDE = 32


def weights(model: VLM, pixels: Tensor) -> np.ndarray:
    """Attention of all blocks, blocks x images x heads x queries x keys, from transformers itself."""
    eager = copy.deepcopy(model.model)
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        found = eager.vision_model(pixel_values=model.normalize(pixels), output_attentions=True).attentions
    return torch.stack(found).double().numpy()


def distance(maps: np.ndarray) -> np.ndarray:
    """Sums over the images of a batch of the distance between the maps of each and of the next, blocks x heads."""
    blocks, images, heads, queries, _ = maps.shape
    total = np.zeros((blocks, heads))
    for block in range(blocks):
        for head in range(heads):
            for image in range(images):
                a, b = maps[block, image, head], maps[block, (image + 1) % images, head]
                total[block, head] += np.mean([np.abs(a[q] - b[q]).sum() / 2 for q in range(queries)])
    return total


def hooks(model: VLM) -> int:
    return sum(len(module._forward_hooks) for module in model.model.modules())


@pytest.mark.parametrize("query", ["mean", "class"])
@pytest.mark.parametrize("block", [0, 1])
def test_maps_are_what_patches_receive_stretched_and_enlarged(tiny_vlm: VLM, query: str, block: int) -> None:
    pixels, other = torch.rand(3, 3, SIDE, SIDE), tiny_clip("other", side=SIDE, seed=1, factor=10.0)
    found = attention_maps({"one": tiny_vlm, "two": other}, pixels, block=block, query=query)
    assert found.rows == ("image", "one", "two")
    assert found.columns == ("1", "2", "3")
    assert found.title == f"Attention in block {block + 1}"
    assert np.allclose(found.images[0], pixels.permute(0, 2, 3, 1), atol=1e-4)
    for row, model in enumerate((tiny_vlm, other), 1):
        maps = weights(model, pixels)[block].mean(1)
        attended = (maps[:, 0] if query == "class" else maps.mean(1))[:, 1:]
        low, high = attended.min(1, keepdims=True), attended.max(1, keepdims=True)
        squares = ((attended - low) / (high - low)).reshape(3, 4, 4)
        assert np.allclose(found.images[row], np.kron(squares, np.ones((8, 8))), atol=1e-3)


def test_a_map_that_is_the_same_everywhere_is_black(tiny_vlm: VLM) -> None:
    with torch.no_grad():
        tiny_vlm.tower.attention.q_proj.weight.zero_()
        tiny_vlm.tower.attention.q_proj.bias.zero_()
    found = attention_maps(tiny_vlm, torch.rand(1, 3, SIDE, SIDE))
    assert found.rows == ("image", "tiny/clip")
    assert not np.any(found.images[1][0])


def test_sensitivity_is_the_ratio_of_distances(tiny_vlm: VLM) -> None:
    other, batches = tiny_clip("other", side=SIDE, seed=1, factor=8.0), torch.rand(12, 3, SIDE, SIDE).split([5, 4, 3])
    mine, its = (sum(distance(weights(each, pixels)) for pixels in batches) / 12 for each in (tiny_vlm, other))
    alone = attention_sensitivity(tiny_vlm, None, iter(batches))
    assert alone.rows == ("B1", "B2")
    assert alone.columns == ("H1", "H2", "H3", "H4", "all")
    assert np.allclose(alone.values, np.hstack([mine, mine.mean(1, keepdims=True)]), atol=1e-6)
    assert alone.centre is None
    found = attention_sensitivity(tiny_vlm, other, iter(batches))
    assert np.allclose(np.array(found.values)[:, :4], mine / its, rtol=1e-4)
    assert np.allclose(np.array(found.values)[:, 4], mine.mean(1) / its.mean(1), rtol=1e-4)
    assert found.centre == 1
    assert "n = 12" in found.title


def test_a_model_is_as_sensitive_as_itself_and_a_flat_one_not_at_all(tiny_vlm: VLM) -> None:
    pixels = torch.rand(5, 3, SIDE, SIDE)
    assert np.allclose(attention_sensitivity(tiny_vlm, tiny_vlm, [pixels]).values, 1)
    flat = tiny_clip("flat", side=SIDE, factor=10.0)
    with torch.no_grad():
        flat.tower.attention.q_proj.weight.zero_()
    values = np.array(attention_sensitivity(flat, tiny_vlm, [pixels]).values)
    # Its attention still hangs on the keys of the image by the bias of the queries, which is zero here.
    assert values[0].max() < 1e-5
    assert values[1].min() > 1e-3
    with pytest.raises(InputError, match="B1, H1 of the reference flat attends in the same way to all images"):
        attention_sensitivity(tiny_vlm, flat, [pixels])


def test_the_batches_hang_together_only_within(tiny_vlm: VLM) -> None:
    pixels = torch.rand(6, 3, SIDE, SIDE)
    whole = np.array(attention_sensitivity(tiny_vlm, None, [pixels[:3], pixels[3:]]).values)
    parts = [np.array(attention_sensitivity(tiny_vlm, None, [part]).values) for part in pixels.split(3)]
    assert np.allclose(whole, sum(parts) / 2, atol=1e-6)
    # A last batch of one image is joined to the one before.
    joined = attention_sensitivity(tiny_vlm, None, pixels[:4].split(3))
    assert joined == attention_sensitivity(tiny_vlm, None, [pixels[:4]])


def test_the_model_is_as_before_also_after_an_error(tiny_vlm: VLM) -> None:
    pixels, config = torch.rand(3, 3, SIDE, SIDE), tiny_vlm.model.config.vision_config
    before, facts = tiny_vlm.encode_image(pixels), tiny_vlm.model.config.to_dict()
    attention_sensitivity(tiny_vlm, None, [pixels])
    attention_maps(tiny_vlm, pixels)
    with pytest.raises(RuntimeError, match="Kernel size"), torch.no_grad():
        attention_sensitivity(tiny_vlm, None, [torch.rand(2, 3, SIDE, 1)])
    assert config._attn_implementation == "sdpa"
    assert hooks(tiny_vlm) == 0
    assert tiny_vlm.model.config.to_dict() == facts
    assert torch.equal(tiny_vlm.encode_image(pixels), before)


def test_a_llava_shows_the_attention_of_its_clip(tiny_llava: Any, tiny_vlm: VLM) -> None:
    pixels = torch.rand(2, 3, SIDE, SIDE)
    llava = radapt.load(tiny_llava)
    llava.processor.image_mean, llava.processor.image_std = [0.5] * 3, [0.25] * 3
    ours, theirs = (attention_maps({"it": each}, pixels).images[1] for each in (tiny_vlm, llava))
    assert np.allclose(ours, theirs, atol=1e-3)


def test_a_model_without_maps_is_refused(tiny_qwen: Any) -> None:
    pixels = torch.rand(2, 3, SIDE, SIDE)
    for model in (radapt.load(tiny_qwen), radapt.load(CLIP().requires_grad_(False))):
        with pytest.raises(ModelError, match=f"{model.name} gives no attention maps; a CLIP, a SigLIP and a LLaVA"):
            attention_maps(model, pixels)
        with pytest.raises(ModelError, match="gives no attention maps"):
            attention_sensitivity(model, None, [pixels])
        assert hooks(model) == 0
    with pytest.raises(ModelError, match="has no class token; use query 'mean'"):
        attention_maps(radapt.load(tiny_qwen), pixels, query="class")


@pytest.mark.parametrize("block", [1.0, "1", True, None, math.nan])
def test_what_is_no_number_of_a_block_is_refused(tiny_vlm: VLM, unchecked: None, block: Any) -> None:
    with pytest.raises(SettingsError, match=r"tiny/clip has no block .*; its blocks are 0 to 1"):
        attention_maps(tiny_vlm, torch.rand(2, 3, SIDE, SIDE), block=block)


def test_wrong_input_is_refused(tiny_vlm: VLM) -> None:
    pixels = torch.rand(2, 3, SIDE, SIDE)
    with pytest.raises(SettingsError, match="unknown query 'clas'; did you mean 'class'"):
        attention_maps(tiny_vlm, pixels, query="clas")
    for block in (2, -1):
        with pytest.raises(SettingsError, match=f"tiny/clip has no block {block}; its blocks are 0 to 1"):
            attention_maps(tiny_vlm, pixels, block=block)
    with pytest.raises(InputError, match="need models and images, got 0 and 2"):
        attention_maps({}, pixels)
    with pytest.raises(InputError, match="need models and images, got 1 and 0"):
        attention_maps(tiny_vlm, pixels[:0])
    with pytest.raises(InputError, match="attention-sensitivity needs at least 2 images per batch, got 1"):
        attention_sensitivity(tiny_vlm, None, [pixels[:1]])
    with pytest.raises(ModelError, match="tiny/clip has 32 x 32 pixels and 2 blocks and tiny has 48 x 48 pixels"):
        attention_sensitivity(tiny_vlm, tiny_clip(), [pixels])
    fewer = tiny_clip("fewer", side=SIDE)
    config = fewer.model.config.to_dict()
    config["vision_config"]["num_attention_heads"] = 2
    fewer = radapt.load(type(fewer.model)(type(fewer.model.config).from_dict(config)))
    with pytest.raises(ModelError, match="tiny/clip has 4 heads and CLIPModel has 2 heads"):
        attention_sensitivity(tiny_vlm, fewer, [pixels])


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_a_compiled_model_gives_its_maps(tiny_vlm: VLM) -> None:
    pixels = torch.rand(2, 3, SIDE, SIDE)
    expected = attention_maps(tiny_vlm, pixels).images[1]
    tiny_vlm.model.vision_model.compile(backend="eager")
    tiny_vlm.encode_image(pixels)
    assert np.allclose(attention_maps(tiny_vlm, pixels).images[1], expected, atol=1e-3)


@pytest.mark.parametrize(("maps", "tokens", "message"), [(4, 8, "no grid"), (3, 17, "3 attention maps of 2 images")])
def test_maps_without_a_place_in_the_image_are_refused_and_lose_no_result(
    tiny_vlm: VLM, monkeypatch: pytest.MonkeyPatch, maps: int, tokens: int, message: str
) -> None:
    given = [torch.rand(maps, tokens, tokens)]
    monkeypatch.setattr("radapt.models._attention.attention_weights", lambda *_: given)
    images = torch.rand(2, 3, SIDE, SIDE)
    with pytest.raises(ModelError, match=message):
        patch_attention(tiny_vlm, images)
    assert attention_of(tiny_vlm, images) == [b"", b""]
