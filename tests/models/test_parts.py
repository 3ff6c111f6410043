"""Parts of a vision encoder: every parameter has one place, whatever the family, and wrong parts are explained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.generative import BUILDERS
from tests.models.openclip import CLIP
from tests.models.test_contract import SAVED

import radapt
from radapt.errors import ModelError, SettingsError
from radapt.models import VLM, contrastive, parts


def an_open_clip_object(folder: Path | None = None) -> CLIP:
    live = CLIP()
    live.visual.image_mean, live.visual.image_std = (0.5,) * 3, (0.25,) * 3
    return live


FAMILIES: dict[str, Callable[[Path], Any]] = {**SAVED, **BUILDERS, "open_clip, live": an_open_clip_object}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path: Path) -> VLM:
    return radapt.load(FAMILIES[request.param](tmp_path / "model"))


def reaching(model: VLM, block: int) -> set[str]:
    """Names of the parameters that what enters a block depends on, by their gradients."""
    entered = list[Any]()
    names, parameters = zip(*model.image_parameters().items(), strict=True)
    for parameter in parameters:
        parameter.requires_grad_()
    handle = model.tower.blocks[block].register_forward_pre_hook(
        lambda module, args, kwargs: entered.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    model.encode_image(torch.rand(1, 3, *model.image_size))
    handle.remove()
    weights = torch.rand_like(entered[0])
    gradients = torch.autograd.grad((entered[0] * weights).sum(), parameters, allow_unused=True)
    return {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}


def test_the_embedding_is_what_the_first_block_depends_on(family: VLM) -> None:
    assert set(parts(family, "embedding")) == reaching(family, 0)
    assert set(parts(family, "embedding+block:0")) == reaching(family, 1)


def test_embedding_blocks_and_head_are_everything_and_disjoint(family: VLM) -> None:
    pieces = [parts(family, text) for text in ("embedding", "block:0", "block:1", "head")]
    whole = parts(family, "all")
    assert sum(len(piece) for piece in pieces) == len(whole)
    assert set().union(*pieces) == set(whole)
    assert list(whole) == list(family.image_parameters())
    assert all(whole[name] is parameter for name, parameter in family.image_parameters().items())
    assert list(parts(family, "head+embedding+block:0-1")) == list(whole)


def test_attention_and_deep(family: VLM) -> None:
    for block in (0, 1):
        inside = {id(parameter) for parameter in family.tower.attention_of(block).parameters()}
        attention = parts(family, f"attention:{block}")
        assert {id(parameter) for parameter in attention.values()} == inside
        assert set(attention) < set(parts(family, f"block:{block}"))
    assert set(parts(family, "attention:0-1")) == {*parts(family, "attention:0"), *parts(family, "attention:1")}
    assert set(parts(family, "deep:1-")) == {*parts(family, "block:1"), *parts(family, "head")}
    assert set(parts(family, "deep:0-")) == set(parts(family, "all")) - set(parts(family, "embedding"))


def test_parts_of_a_clip_by_name(tiny_vlm: VLM) -> None:
    assert list(parts(tiny_vlm, "head")) == [
        *("vision_model.post_layernorm.weight", "vision_model.post_layernorm.bias", "visual_projection.weight"),
    ]
    assert "vision_model.pre_layrnorm.weight" in parts(tiny_vlm, "embedding")
    assert set(parts(tiny_vlm, "block:0-")) == set(parts(tiny_vlm, "block:0-1"))
    assert set(parts(tiny_vlm, " embedding + block:1 ")) == {*parts(tiny_vlm, "embedding"), *parts(tiny_vlm, "block:1")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("embeding", "unknown part 'embeding' .*did you mean 'embedding'"),
        ("head+blok:0", "unknown part 'blok:0' .*did you mean 'block:0'"),
        ("", "unknown part ''"),
        ("embedding+", "unknown part ''"),
        ("all:0", "unknown part 'all:0'"),
        ("block", "unknown part 'block'.*block:0"),
        ("block:2", "'block:2': tiny/clip has blocks 0 to 1"),
        ("attention:0-2", "'attention:0-2': tiny/clip has blocks 0 to 1"),
        ("deep:2-", "'deep:2-': tiny/clip has blocks 0 to 1"),
        ("block:1-0", "'block:1-0': .*from the lower to the higher"),
        ("block:", "'block:': write blocks as 0, 0-2 or 6-; tiny/clip has blocks 0 to 1"),
        ("block:-1", "'block:-1': write blocks as"),
        ("block:a", "'block:a': write blocks as"),
        ("deep:0-1", "'deep:0-1': deep goes on to the last block; write deep:0-"),
    ],
)
def test_wrong_parts_are_refused(tiny_vlm: VLM, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parts(tiny_vlm, text)


def test_patches_are_projected_as_the_class_token_is(tiny_vlm: Any) -> None:
    vision, projection, pixels = tiny_vlm.model.vision_model, tiny_vlm.model.visual_projection, torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        hidden = vision(pixel_values=(pixels - 0.5) / 0.25).last_hidden_state
        every = projection(vision.post_layernorm(hidden))
        patches = tiny_vlm.encode_patches(pixels)
        assert torch.allclose(every[:, 0], tiny_vlm.encode_image(pixels), atol=1e-5)
        assert torch.allclose(every[:, 1:], patches, atol=1e-5)
        assert tiny_vlm.encode_patches(torch.rand(1, 3, 48, 40)).shape == (1, 30, 16)
    assert patches.shape == (2, 16, 16)
    assert tiny_vlm.encode_patches(pixels.requires_grad_()).requires_grad


def test_a_model_without_a_projection_of_patches_says_so(tmp_path: Path) -> None:
    for name in ("siglip", "siglip2", "open_clip, live"):
        model = contrastive(radapt.load(FAMILIES[name](tmp_path / name)))
        with pytest.raises(ModelError, match=r"no projection of single patches; this needs a CLIP of transformers"):
            model.encode_patches(torch.rand(1, 3, *model.image_size))


def test_a_live_open_clip_has_its_projection_behind_the_blocks() -> None:
    # It defines the projection before the blocks, and the last norm beside the first.
    model = radapt.load(an_open_clip_object())
    embedding, head = (set(parts(model, part)) for part in ("embedding", "head"))
    first = {"conv1.weight", "class_embedding", "positional_embedding", "ln_pre.weight", "ln_pre.bias"}
    assert embedding == {f"visual.{name}" for name in first}
    assert head == {"visual.proj", "visual.ln_post.weight", "visual.ln_post.bias"}
