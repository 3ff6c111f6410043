from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from radapt.errors import ModelError
from radapt.models import Layout, place_tokens, tower_of

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
    with pytest.raises(ModelError, match=r"'Linear' cannot carry an adapter.*clip.*clip_vision_model.*llava.*qwen3_vl"):
        tower_of(nn.Linear(2, 2))


def test_a_llava_on_another_vision_tower_is_refused() -> None:
    from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = SiglipVisionConfig(**sizes, image_size=32, patch_size=8)
    text = LlamaConfig(**sizes, num_key_value_heads=4, vocab_size=60)
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=59))
    with pytest.raises(ModelError, match="siglip_vision_model"):
        tower_of(model)
