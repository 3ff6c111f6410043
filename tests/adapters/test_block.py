"""Anchors of other blocks and of other images than the paper's: what the ablations compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from radapt.adapters import Adapter, attached, capture_anchor, model_guided, training_free
from radapt.errors import AdapterError, InputError, SettingsError


@pytest.fixture
def pixels() -> Tensor:
    return torch.rand(3, 3, 32, 32)


def attention_output(vision: Any, block: int, pixels: Tensor) -> Tensor:
    """Attention output of a block on normalised pixels, by a hook of the test's own."""
    seen: list[Tensor] = []
    handle = vision.encoder.layers[block].self_attn.register_forward_hook(lambda m, i, o: seen.append(o[0]))
    with torch.no_grad():
        vision(pixel_values=(pixels - 0.5) / 0.25)
    handle.remove()
    return seen[0]


def test_the_anchor_of_a_block_is_its_attention_on_the_image(tiny_vlm: Any, pixels: Tensor) -> None:
    vision = tiny_vlm.model.vision_model
    white = attention_output(vision, 1, torch.ones(1, 3, 32, 32))[0]
    assert torch.allclose(capture_anchor(tiny_vlm, block=1), white, atol=1e-5)
    mean = attention_output(vision, 0, pixels.mean(0, keepdim=True))[0]
    assert torch.allclose(capture_anchor(tiny_vlm, image="mean", pixels=pixels), mean, atol=1e-5)


def test_noise_is_always_the_same_and_no_uniform_image(tiny_vlm: Any) -> None:
    noise = capture_anchor(tiny_vlm, image="noise")
    torch.manual_seed(5)
    assert torch.equal(noise, capture_anchor(tiny_vlm, image="noise"))
    assert not any(torch.allclose(noise, capture_anchor(tiny_vlm, image=each)) for each in ("white", "grey", "black"))


@pytest.mark.parametrize("mix", ["interpolate", "add"])
def test_a_block_is_blended_as_the_formula_says_and_no_other(tiny_vlm: Any, pixels: Tensor, mix: str) -> None:
    vision, alpha = tiny_vlm.model.vision_model, 0.6
    adapter = training_free(tiny_vlm, cutoff=None, alpha=alpha, mix=mix, block=1)
    before = [attention_output(vision, block, pixels) for block in (0, 1)]
    with adapter.attach(tiny_vlm):
        # A hook registered later sees what the adapter made of the output.
        after = [attention_output(vision, block, pixels) for block in (0, 1)]
    keep = 1 - alpha if mix == "interpolate" else 1.0
    assert torch.equal(after[0], before[0])
    assert torch.allclose(after[1], keep * before[1] + alpha * adapter.anchor, atol=1e-5)
    assert not attached(tiny_vlm)
    assert torch.equal(attention_output(vision, 1, pixels), before[1])


def test_the_block_is_saved_read_and_part_of_the_fingerprint(tiny_vlm: Any, tmp_path: Path) -> None:
    first, second = (training_free(tiny_vlm, block=block) for block in (0, 1))
    read = Adapter.from_pretrained(second.save_pretrained(tmp_path))
    assert read.settings.block == 1
    assert read.fingerprint == second.fingerprint != first.fingerprint
    assert Adapter(first.settings, second.anchor).fingerprint != second.fingerprint
    assert "| block | 1 (from 0) |" in (tmp_path / "README.md").read_text()


def test_a_file_without_a_block_is_that_of_the_first(tiny_vlm: Any, tmp_path: Path) -> None:
    adapter = training_free(tiny_vlm)
    config = adapter.save_pretrained(tmp_path) / "radapt_config.json"
    config.write_text(config.read_text().replace(',\n  "block": 0', ""))
    assert "block" not in config.read_text()
    assert Adapter.from_pretrained(tmp_path).fingerprint == adapter.fingerprint


def test_a_guide_gives_its_anchor_of_the_same_block(tiny_vlm: Any) -> None:
    adapter = model_guided(tiny_vlm, tiny_vlm, block=1)
    assert adapter.settings.block == 1
    assert torch.equal(adapter.anchor, capture_anchor(tiny_vlm, block=1))


def test_a_block_that_does_not_exist_is_refused(tiny_vlm: Any) -> None:
    with pytest.raises(AdapterError, match="no block 2; the vision tower has blocks 0 to 1"):
        capture_anchor(tiny_vlm, block=2)
    adapter = training_free(tiny_vlm).change(block=7)
    with pytest.raises(AdapterError, match="no block 7"):
        adapter.attach(tiny_vlm)
    assert not attached(tiny_vlm)
    with pytest.raises(SettingsError, match="block must be a whole number from 0 up, got -1"):
        training_free(tiny_vlm).change(block=-1)


@pytest.mark.parametrize(
    ("image", "shape", "message"),
    [
        ("mean", None, "pixels are for image='mean', which needs them"),
        ("white", (2, 3, 32, 32), "pixels are for image='mean'"),
        ("mean", (0, 3, 32, 32), "with at least one image, got \\(0, 3, 32, 32\\)"),
        ("mean", (2, 3, 32, 40), "must be N x 3 x 32 x 32, got \\(2, 3, 32, 40\\)"),
    ],
)
def test_pixels_must_fit_the_image(tiny_vlm: Any, image: str, shape: tuple[int, ...] | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        capture_anchor(tiny_vlm, image=image, pixels=None if shape is None else torch.ones(shape))
