"""Attention: the weights of the blocks of a vision encoder, and how much each patch of an image is attended to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from radapt.errors import ModelError, SettingsError
from radapt.registry import nearest
from radapt.types import Pixels

from ._capture import Take, capture
from ._vlm import VLM

__all__ = ["attention_weights", "eager", "patch_attention"]

_QUERIES = ("mean", "class")


def patch_attention(
    model: VLM, pixels: Pixels, *, block: int = 0, query: str = "mean"
) -> Float[Tensor, "images rows columns"]:
    """How much each patch of some images is attended to in a block: the mean over heads, and over queries.

    Every map is stretched to [0, 1] by itself, so that maps compare in shape and not in strength; one that is the same
    everywhere is 0.

    Args:
        model: a model, with whatever is attached to it.
        pixels: images in [0, 1], of the model's size.
        block: number of the block, 0 being the first.
        query: whose attention it is: the ``mean`` over all tokens, or the ``class`` token's.

    Raises:
        SettingsError: an unknown query, or no such block.
        ModelError: the model gives no attention maps, or none with a place per patch, or has no class token.
    """
    if query not in _QUERIES:
        raise SettingsError(f"unknown query {query!r}{nearest(query, _QUERIES)}")
    tower = model.tower
    depth = len(tower.blocks)
    if isinstance(block, bool) or not isinstance(block, int) or not 0 <= block < depth:
        raise SettingsError(f"{model.name} has no block {block!r}; its blocks are 0 to {depth - 1}")
    if query == "class" and not tower.layout.prefix:
        raise ModelError(f"{model.name} has no class token; use query 'mean'")
    [weights] = attention_weights(model, pixels, [block], lambda weights: weights.float().mean(1))
    if len(weights) % len(pixels):
        raise ModelError(f"{model.name} gives {len(weights)} attention maps of {len(pixels)} images")
    # The tiles of an image follow one another, the whole image first (LLaVA-NeXT): that one is shown.
    weights = weights.view(len(pixels), -1, *weights.shape[1:])[:, 0]
    attended = weights[:, 0] if query == "class" else weights.mean(1)
    patches = attended[:, tower.layout.prefix :]
    height, width = pixels.shape[-2:]
    grid = (height // tower.patch_size, width // tower.patch_size)
    if grid[0] * grid[1] != patches.shape[1]:
        grid = tower.grid
    if grid[0] * grid[1] != patches.shape[1]:
        raise ModelError(f"{model.name} attends to {patches.shape[1]} patches, which are no grid of {grid}")
    low, high = patches.aminmax(dim=1, keepdim=True)
    scaled = (patches - low) / (high - low).where(high > low, 1.0)
    return scaled.view(-1, *grid)


@torch.no_grad()
def attention_weights(model: VLM, pixels: Pixels, blocks: Sequence[int], take: Take) -> list[Tensor]:
    """What ``take`` makes of the attention maps (rows x heads x queries x keys) of some blocks.

    Raises:
        ModelError: the model gives no attention maps.
    """

    def weights(output: Any) -> Tensor:
        if not (
            isinstance(output, tuple) and len(output) > 1 and isinstance(output[1], Tensor) and output[1].ndim == 4
        ):
            raise ModelError(
                f"{model.name} gives no attention maps; a CLIP, a SigLIP and a LLaVA on one do, in the format of "
                "transformers (radapt.load turns a checkpoint of open_clip into that), and a Qwen-VL does not"
            )
        kept: Tensor = take(output[1])
        return kept

    modules = [model.tower.attention_of(block) for block in blocks]
    with eager(model), capture(modules, weights) as captured:
        model.encode_image(pixels.to(model.device))
    return [captured[position] for position in range(len(blocks))]


@contextmanager
def eager(model: VLM) -> Iterator[None]:
    """Let the vision encoder compute its attention step by step, so that it gives its maps; as before at the end.

    Fused kernels (``sdpa``, flash attention) never hold a map. The outputs differ by rounding inside.

    Args:
        model: a model; one whose encoder is not of ``transformers`` stays as it is, and gives none.
    """
    root: Any = model.tower.root
    before = getattr(getattr(root, "config", None), "_attn_implementation", None)
    if before is None or not hasattr(root, "set_attn_implementation"):
        yield
        return
    try:
        root.set_attn_implementation("eager")
        yield
    finally:
        root.set_attn_implementation(before)
