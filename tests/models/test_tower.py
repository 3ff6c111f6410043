from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.tiny import SHAPE, lively
from torch import nn
from transformers import (
    Dinov2Config,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    SiglipVisionConfig,
)

from radapt.adapters import training_free
from radapt.errors import ModelError
from radapt.models import Layout, place_tokens, tower_of
from radapt.models.qwen_vl import patchify

SIDES = st.integers(1, 5)


def numbered(prefix: int, height: int, width: int) -> torch.Tensor:
    return torch.arange((prefix + height * width) * 2.0).view(-1, 2)


def test_tokens_stay_as_they_are_on_their_own_grid() -> None:
    tokens = numbered(1, 3, 4)
    assert torch.equal(place_tokens(tokens, (3, 4), (3, 4), Layout(prefix=1)), tokens)


@given(rows=SIDES, columns=SIDES, merge=st.integers(1, 3), prefix=st.integers(0, 2))
def test_merged_layouts_lay_square_after_square(rows: int, columns: int, merge: int, prefix: int) -> None:
    height, width = rows * merge, columns * merge
    expected = list(range(prefix))
    for top in range(0, height, merge):
        for left in range(0, width, merge):
            expected += [prefix + y * width + x for y in range(top, top + merge) for x in range(left, left + merge)]
    tokens = numbered(prefix, height, width)
    placed = place_tokens(tokens, (height, width), (height, width), Layout(prefix=prefix, merge=merge))
    assert torch.equal(placed, tokens[expected])


@given(grid=st.tuples(SIDES, SIDES), to=st.tuples(SIDES, SIDES), prefix=st.integers(0, 2))
def test_interpolation_keeps_prefix_tokens_and_constant_grids(
    grid: tuple[int, int], to: tuple[int, int], prefix: int
) -> None:
    head, patch = torch.rand(prefix, 3), torch.rand(1, 3)
    tokens = torch.cat([head, patch.expand(grid[0] * grid[1], 3)])
    placed = place_tokens(tokens, grid, to, Layout(prefix=prefix))
    assert placed.shape == (prefix + to[0] * to[1], 3)
    assert torch.equal(placed[:prefix], head)
    assert torch.allclose(placed[prefix:], patch.expand(to[0] * to[1], 3), atol=1e-6)


def test_interpolation_keeps_rows_and_columns_apart() -> None:
    # A grid that varies along its rows only must do so after interpolation, whatever the shapes.
    tokens = torch.arange(4.0).repeat_interleave(3)[:, None]  # 4 rows x 3 columns
    placed = place_tokens(tokens, (4, 3), (8, 5), Layout()).view(8, 5)
    assert torch.allclose(placed, placed[:, :1].expand(8, 5), atol=1e-5)
    assert (placed[:, 0].diff() > 0).all()


def test_interpolation_then_merge_order() -> None:
    tokens = torch.rand(12, 2)
    rows = place_tokens(tokens, (3, 4), (4, 6), Layout())
    merged = place_tokens(tokens, (3, 4), (4, 6), Layout(merge=2))
    assert torch.equal(merged[:8], rows[[0, 1, 6, 7, 2, 3, 8, 9]])


def test_towers_of_every_family(tiny_clip: Any, tiny_llava: Any, tiny_qwen: Any) -> None:
    vision = tiny_clip.vision_model
    for model in (tiny_clip, torch.compile(tiny_clip, backend="eager")):
        tower = tower_of(model)
        assert tower.root is vision
        assert tower.attention is vision.encoder.layers[0].self_attn
        assert (tower.width, tower.grid, tower.patch_size, tower.layout, tower.tokens) == (32, (4, 4), 8, Layout(1), 17)
    for llava in (tiny_llava, tiny_llava.model):
        tower = tower_of(llava)
        assert tower.root is tiny_llava.model.vision_tower
        assert (tower.width, tower.grid, tower.layout) == (32, (4, 4), Layout(prefix=1))
    for qwen in (tiny_qwen, tiny_qwen.model):
        tower = tower_of(qwen)
        assert tower.attention is tiny_qwen.model.visual.blocks[0].attn
        assert (tower.width, tower.grid, tower.patch_size, tower.layout) == (32, (4, 4), 8, Layout(prefix=0, merge=2))


def test_an_unsupported_family_names_the_supported_ones() -> None:
    with pytest.raises(
        ModelError,
        match=r"'Linear' cannot carry an adapter.*clip.*clip_vision_model.*llava.*qwen2_5_vl.*qwen3_vl.*siglip",
    ):
        tower_of(nn.Linear(2, 2))


def llava_on(vision: Any) -> nn.Module:
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    text = LlamaConfig(**SHAPE, num_key_value_heads=4, vocab_size=60)
    return LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=59))


def test_a_llava_may_stand_on_a_siglip_and_on_nothing_unknown() -> None:
    tower = tower_of(llava_on(SiglipVisionConfig(**SHAPE, image_size=32, patch_size=8)))
    assert (tower.grid, tower.layout, tower.width) == ((4, 4), Layout(), 32)
    with pytest.raises(ModelError, match=r"on a 'dinov2' cannot carry.*clip_vision_model, siglip_vision_model"):
        tower_of(llava_on(Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, image_size=28)))


def test_llava_next_has_the_tower_of_its_clip(tiny_clip: Any) -> None:
    text = LlamaConfig(**SHAPE, num_key_value_heads=4, vocab_size=60)
    config = LlavaNextConfig(vision_config=tiny_clip.config.vision_config, text_config=text, image_token_index=59)
    model = LlavaNextForConditionalGeneration(config)
    assert tower_of(model).root is model.model.vision_tower
    assert tower_of(model).tokens == 17


@pytest.fixture
def tiny_qwen25() -> Any:
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "depth": 2,
        "num_heads": 4,
        "patch_size": 8,
        "window_size": 32,
    }
    vision |= {"spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 32, "fullatt_block_indexes": [1]}
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 1e4}
    text = {**SHAPE, "num_key_value_heads": 4, "vocab_size": 60, "rope_parameters": rope}
    tokens = {"image_token_id": 59, "video_token_id": 58, "vision_start_token_id": 57, "vision_end_token_id": 56}
    torch.manual_seed(0)
    return lively(
        Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(vision_config=vision, text_config=text, **tokens))
    )


def test_the_windows_of_qwen25_are_its_own(tiny_qwen25: Any) -> None:
    from transformers.vision_utils import get_vision_window_index

    tower = tower_of(tiny_qwen25)
    assert (tower.grid, tower.patch_size, tower.layout) == ((8, 8), 8, Layout(merge=2, window=2))
    for rows, columns in ((8, 8), (6, 10), (4, 2), (14, 6)):
        index, _ = get_vision_window_index(
            torch.tensor([[1, rows, columns]]), spatial_merge_size=2, window_size=32, patch_size=8
        )
        squares = Layout(merge=2).order((rows, columns)).view(-1, 4)
        assert torch.equal(tower.layout.order((rows, columns)), squares[index].reshape(-1))


@pytest.mark.filterwarnings("ignore:.*came without an image processor:UserWarning")
@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_the_anchor_of_qwen25_comes_back_where_it_was_taken(tiny_qwen25: Any, size: tuple[int, int]) -> None:
    # With its own attention output on the same image as the anchor, and all weight on it, nothing changes.
    visual = tiny_qwen25.model.visual
    tower, image = tower_of(tiny_qwen25), torch.ones(1, 3, *size)
    grid = torch.tensor([[1, size[0] // 8, size[1] // 8]])
    adapter = training_free(tiny_qwen25, alpha=1.0, cutoff=None)
    patches = patchify(tower.normalize(image), 2, 8, 2)
    with torch.no_grad():
        bare = visual(patches, grid_thw=grid).pooler_output
        with adapter.attach(tiny_qwen25):
            adapted = visual(patches, grid_thw=grid).pooler_output
        noise = patchify(torch.randn_like(image), 2, 8, 2)
        other = visual(noise, grid_thw=grid).pooler_output
        with adapter.attach(tiny_qwen25):
            changed = visual(noise, grid_thw=grid).pooler_output
    if size == (64, 64):
        assert (adapted - bare).abs().max() < 1e-4
    assert (changed - other).abs().max() > 1e-2
