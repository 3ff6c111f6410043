"""Adapters on generative models: LLaVA on a CLIP, and Qwen3-VL with images of any size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from radapt.adapters import gaussian_filter, training_free
from radapt.models import Layout, place_tokens
from radapt.models.qwen_vl import patchify

pytestmark = pytest.mark.filterwarnings("ignore:.*came without an image processor:UserWarning")

CUTOFF = 40 / 224
PROMPT = torch.tensor([[1, 2, *[59] * 16, 3]])


def answer(model: Any, pixels: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=PROMPT, pixel_values=pixels).logits
    return logits


def test_a_llava_carries_the_adapter_of_its_clip(tiny_clip: Any, tiny_llava: Any) -> None:
    adapter, pixels = training_free(tiny_clip, alpha=0.7), torch.randn(1, 3, 32, 32)
    before, filtered = answer(tiny_llava, pixels), answer(tiny_llava, gaussian_filter(pixels, CUTOFF))
    with adapter.change(alpha=0.0).attach(tiny_llava):
        assert torch.equal(answer(tiny_llava, pixels), filtered)
    states: list[Tensor] = []
    tower = tiny_llava.model.vision_tower
    with adapter.attach(tiny_clip):
        expected = tiny_clip.vision_model(pixel_values=pixels).last_hidden_state
    handle = tower.register_forward_hook(lambda m, i, o: states.append(o.last_hidden_state))
    with adapter.attach(tiny_llava):
        adapted = answer(tiny_llava, pixels)
    handle.remove()
    assert torch.allclose(states[0], expected, atol=1e-6)
    assert (adapted - before).abs().max() > 1e-3
    assert torch.equal(answer(tiny_llava, pixels), before)


def test_a_llava_generates_with_the_adapter(tiny_clip: Any, tiny_llava: Any) -> None:
    adapter, pixels = training_free(tiny_clip, alpha=1.0), torch.randn(1, 3, 32, 32)
    with adapter.attach(tiny_llava):
        ids = tiny_llava.generate(input_ids=PROMPT, pixel_values=pixels, max_new_tokens=3, do_sample=False)
        sequence = PROMPT
        for _ in range(ids.shape[1] - PROMPT.shape[1]):  # greedy search without a cache
            logits = tiny_llava(input_ids=sequence, pixel_values=pixels).logits
            sequence = torch.cat([sequence, logits[:, -1:].argmax(-1)], 1)
    assert ids.shape[1] > PROMPT.shape[1]
    assert torch.equal(ids, sequence)


def grids(*sizes: tuple[int, int]) -> Tensor:
    return torch.tensor([[1, height // 8, width // 8] for height, width in sizes])


def packed(*images: Tensor) -> Tensor:
    return torch.cat([patchify(image, 2, 8, 2) for image in images])


def inside(visual: Any, patches: Tensor, thw: Tensor) -> dict[str, Tensor]:
    """What enters the patch embedding, leaves the first attention and leaves the last block."""
    seen: dict[str, Tensor] = {}
    handles = [
        visual.patch_embed.register_forward_pre_hook(lambda m, i: seen.update(patches=i[0])),
        visual.blocks[0].attn.register_forward_hook(lambda m, i, o: seen.update(attention=o)),
        visual.blocks[-1].register_forward_hook(lambda m, i, o: seen.update(last=o)),
    ]
    visual(patches, grid_thw=thw)
    for handle in handles:
        handle.remove()
    return seen


def test_patches_are_those_of_the_processor_formula() -> None:
    image, p, m = torch.arange(3 * 32 * 16.0).view(1, 3, 32, 16), 8, 2
    expected = []
    for top in range(0, 32, p * m):
        for left in range(0, 16, p * m):
            for y in (top, top + p):
                for x in (left, left + p):
                    patch = image[0, :, y : y + p, x : x + p]
                    expected.append(torch.stack([patch, patch], 1).flatten())  # channel, frame, row, column
    assert torch.equal(patchify(image, 2, p, m), torch.stack(expected))


@pytest.mark.parametrize("size", [(32, 32), (48, 32), (16, 64)])
def test_filtering_patches_is_filtering_the_image(tiny_qwen: Any, size: tuple[int, int]) -> None:
    image = torch.rand(1, 3, *size)
    with training_free(tiny_qwen, alpha=0.0).attach(tiny_qwen):
        seen = inside(tiny_qwen.model.visual, packed(image), grids(size))
    assert torch.allclose(seen["patches"], packed(gaussian_filter(image, CUTOFF)), atol=1e-6)


def test_every_frame_of_a_video_is_filtered_by_itself(tiny_qwen: Any) -> None:
    frames = torch.rand(4, 3, 32, 32)
    images = [patchify(f[None], 1, 8, 2).view(16, 3, 1, 64) for f in frames]
    video = torch.cat([torch.cat(images[:2], 2).flatten(1), torch.cat(images[2:], 2).flatten(1)])
    filtered = [patchify(f[None], 1, 8, 2).view(16, 3, 1, 64) for f in gaussian_filter(frames, CUTOFF)]
    expected = torch.cat([torch.cat(filtered[:2], 2).flatten(1), torch.cat(filtered[2:], 2).flatten(1)])
    adapter = training_free(tiny_qwen, alpha=1.0)
    with adapter.attach(tiny_qwen):
        seen = inside(tiny_qwen.model.visual, video, torch.tensor([[2, 4, 4]]))
    assert torch.allclose(seen["patches"], expected, atol=1e-6)
    placed = place_tokens(adapter.anchor, (4, 4), (4, 4), Layout(merge=2))
    assert torch.allclose(seen["attention"], torch.cat([placed, placed]), atol=1e-6)


def test_two_images_of_different_sizes_in_one_sequence(tiny_qwen: Any) -> None:
    first, second = torch.rand(1, 3, 48, 32), torch.rand(1, 3, 32, 64)
    visual, adapter = tiny_qwen.model.visual, training_free(tiny_qwen, alpha=0.6)
    with adapter.attach(tiny_qwen):
        together = inside(visual, packed(first, second), grids((48, 32), (32, 64)))
        alone = [inside(visual, packed(image), grids(tuple(image.shape[-2:]))) for image in (first, second)]
        for part in ("patches", "attention", "last"):
            expected = torch.cat([seen[part] for seen in alone])
            assert torch.allclose(together[part], expected, atol=1e-4), part
    with adapter.change(alpha=1.0).attach(tiny_qwen):
        attention = inside(visual, packed(first, second), grids((48, 32), (32, 64)))["attention"]
    placed = [place_tokens(adapter.anchor, (4, 4), grid, Layout(merge=2)) for grid in ((6, 4), (4, 8))]
    assert torch.allclose(attention, torch.cat(placed), atol=1e-6)


def test_a_qwen_answers_differently_with_the_adapter_and_as_before_without(tiny_qwen: Any) -> None:
    ids = torch.tensor([[1, 57, *[59] * 6, 56, 3]])
    inputs = {"input_ids": ids, "mm_token_type_ids": (ids == 59).int(), "image_grid_thw": grids((48, 32))}
    pixels = torch.rand(1, 3, 48, 32, requires_grad=True)
    run = lambda: tiny_qwen(**inputs, pixel_values=packed(pixels)).logits  # noqa: E731
    before = run()
    with training_free(tiny_qwen, alpha=0.7).attach(tiny_qwen):
        adapted = run()
        (gradient,) = torch.autograd.grad(adapted.square().sum(), pixels)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0
    assert (adapted - before).abs().max() > 1e-3
    assert torch.equal(run(), before)
