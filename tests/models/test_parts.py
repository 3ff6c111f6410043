"""Parts of a vision encoder: every parameter has one place, whatever the family, and wrong parts are explained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.models.openclip import CLIP
from tests.models.test_contract import SAVED

import radapt
from radapt.errors import SettingsError
from radapt.models import VLM, parts

# What must lie before the blocks, and behind them, by a piece of its name.
EXPECTED = {
    "hf-clip": ("patch_embedding class_embedding position_embedding pre_layrnorm", "post_layernorm visual_projection"),
    "siglip": ("patch_embedding position_embedding", "post_layernorm head"),
    "siglip2": ("patch_embedding position_embedding", "post_layernorm head"),
    "open-clip": (
        "patch_embedding class_embedding position_embedding pre_layrnorm",
        "post_layernorm visual_projection",
    ),
    "llava": ("patch_embedding class_embedding position_embedding pre_layrnorm", "post_layernorm"),
    "llava-next": ("patch_embedding class_embedding position_embedding pre_layrnorm", "post_layernorm"),
    "qwen-vl": ("patch_embed pos_embed", "merger"),
}


def check(model: VLM, before: str, behind: str) -> None:
    last = len(model.tower.blocks) - 1
    blocks = [parts(model, f"block:{number}") for number in range(last + 1)]
    pieces = [parts(model, "embedding"), *blocks, parts(model, "head")]
    together = [name for piece in pieces for name in piece]
    assert sorted(together) == sorted(model.image_parameters())  # each once, and none left out
    assert list(parts(model, "all")) == list(model.image_parameters())
    for word in before.split():
        assert any(word in name for name in pieces[0]), word
    for word in behind.split():
        assert any(word in name for name in pieces[-1]), word
    assert all(any(word in name for word in before.split()) for name in pieces[0])
    attention = {id(parameter) for parameter in model.tower.attention_of(last).parameters()}
    assert {id(parameter) for parameter in parts(model, f"attention:{last}").values()} == attention
    assert set(parts(model, f"deep:{last}-")) == {*blocks[last], *pieces[-1]}


@pytest.mark.parametrize("family", SAVED)
def test_every_parameter_has_one_place(family: str, tmp_path: Path) -> None:
    check(radapt.load(SAVED[family](tmp_path / "model")), *EXPECTED.get(family, EXPECTED["qwen-vl"]))


def test_a_live_open_clip_has_its_projection_behind_the_blocks() -> None:
    before, behind = "conv1 class_embedding positional_embedding ln_pre", "ln_post proj"
    check(radapt.load(CLIP()), before, behind)


def test_parts_are_joined_and_ranges_include_their_ends(tiny_vlm: Any) -> None:
    whole = parts(tiny_vlm, "block:0") | parts(tiny_vlm, "block:1")
    assert set(parts(tiny_vlm, "block:0-1")) == set(whole) == set(parts(tiny_vlm, "block:0-"))
    joined = parts(tiny_vlm, "head + embedding")
    assert set(joined) == {*parts(tiny_vlm, "head"), *parts(tiny_vlm, "embedding")}
    assert list(joined) == [name for name in tiny_vlm.image_parameters() if name in joined]  # in their own order
    assert all(value is tiny_vlm.image_parameters()[name] for name, value in joined.items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("embeding", "unknown part 'embeding' of a vision encoder; did you mean 'embedding'"),
        ("blok:0", "did you mean 'block:0'"),
        ("block", "unknown part 'block'"),
        ("all:0", "unknown part 'all:0'"),
        ("", "unknown part ''"),
        ("head+", "unknown part ''"),
        ("block:x", "write blocks as 0, 0-2 or 6-; tiny/clip has blocks 0 to 1"),
        ("block:2", "tiny/clip has blocks 0 to 1"),
        ("block:0-2", "tiny/clip has blocks 0 to 1"),
        ("block:1-0", "from the lower to the higher"),
        ("deep:0", "write deep:0-"),
        ("deep:0-1", "write deep:0-"),
        ("deep:2-", "tiny/clip has blocks 0 to 1"),
    ],
)
def test_what_is_wrong_is_said(tiny_vlm: Any, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parts(tiny_vlm, text)
