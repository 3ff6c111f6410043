"""Qwen2.5-VL and Qwen3-VL: their vision tower, which takes images of any size as one sequence of flattened patches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from radapt.types import Pixels

from ._tower import Layout, PixelHook, Tower, square

__all__ = ["MODEL_TYPES", "PackedTower", "patchify", "tower"]

MODEL_TYPES = ("qwen2_5_vl", "qwen3_vl")


def patchify(images: Pixels, frames: int, patch_size: int, merge: int) -> Tensor:
    """Flatten images into Qwen-VL's patches, each image repeated in time; differentiable.

    Args:
        images: batch x 3 x height x width, normalised.
        frames: frames per temporal patch.
        patch_size: side of a patch, in pixels.
        merge: side of the squares of patches that lie together.

    Returns:
        (batch x patches) x (3 x frames x patch_size^2).
    """
    batch, _, height, width = images.shape
    rows, columns, p = height // patch_size // merge, width // patch_size // merge, patch_size
    folded = images.view(batch, 3, rows, merge, p, columns, merge, p).permute(0, 2, 5, 3, 6, 1, 4, 7)
    folded = folded[:, :, :, :, :, :, None].expand(*folded.shape[:6], frames, p, p)
    return folded.reshape(batch * rows * columns * merge * merge, -1)


class _PackedHook(PixelHook):
    """Unfolds the patches of each image into frames, maps the frames and folds them back; exact and differentiable."""

    argument = "hidden_states"

    def change(self, pixels: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        grids = (kwargs["grid_thw"] if "grid_thw" in kwargs else args[-1]).tolist()
        self.grids = [(h, w) for t, h, w in grids for _ in range(t)]
        parts = pixels.split([t * h * w for t, h, w in grids])
        return torch.cat([self._one(part, *grid) for part, grid in zip(parts, grids, strict=True)])

    def _one(self, patches: Tensor, t: int, h: int, w: int) -> Tensor:
        m, p = self.layout.merge, self.patch_size
        frames = patches.shape[1] // (3 * p * p)
        folded = patches.view(t, h // m, w // m, m, m, 3, frames, p, p)
        images = folded.permute(0, 6, 5, 1, 3, 7, 2, 4, 8).reshape(t * frames, 3, h * p, w * p)
        images = self.mount.pixels(images)
        folded = images.view(t, frames, 3, h // m, m, p, w // m, m, p).permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
        return folded.reshape(patches.shape)


class PackedTower(Tower):
    """A tower that takes flattened patches of all images in one sequence (Qwen3-VL)."""

    hook = _PackedHook

    def run(self, images: Tensor) -> None:
        height, width = images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size
        grid = torch.tensor([[1, height, width]] * len(images), device=images.device)
        config: Any = self.root.config
        self.root(patchify(images, config.temporal_patch_size, self.patch_size, self.layout.merge), grid_thw=grid)


def tower(model: nn.Module) -> Tower:
    """Vision encoder of a ``Qwen2_5_VLForConditionalGeneration``, ``Qwen3VLForConditionalGeneration`` or inner model.

    Qwen2.5-VL has no table of positions, so that no grid is its own: anchors are taken on two by two of its windows.
    """
    inner: Any = getattr(model, "model", model)
    root = inner.visual
    config = root.config
    positions = getattr(config, "num_position_embeddings", None)
    windowed = positions is None
    side = 2 * config.window_size // config.patch_size if windowed else 0
    window = config.window_size // config.patch_size // config.spatial_merge_size if windowed else 0
    return PackedTower(
        root=root,
        patch_embedding=root.patch_embed.proj,
        blocks=root.blocks,
        attention=root.blocks[0].attn,
        width=config.hidden_size,
        grid=(side, side) if positions is None else square(positions),
        patch_size=config.patch_size,
        layout=Layout(merge=config.spatial_merge_size, window=window),
        mean=OPENAI_CLIP_MEAN if windowed else (0.5, 0.5, 0.5),
        std=OPENAI_CLIP_STD if windowed else (0.5, 0.5, 0.5),
    )
