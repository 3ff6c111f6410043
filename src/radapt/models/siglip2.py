"""SigLIP 2 with variable resolution (NaFlex): images of any shape, which the tower takes as flattened patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor, nn

from radapt.errors import InputError
from radapt.images import open_image
from radapt.types import Embeddings, Pixels

from ._dual import DualEncoder
from ._hooks import PixelHook
from ._layout import Grid, Layout, numbers
from ._pretrained import pretrained
from ._processors import image_processor
from ._tower import Tower, image_tower

__all__ = ["LOADS", "MODEL_TYPES", "PatchTower", "Siglip2", "load", "patchify", "siglip2", "tower", "unpatchify"]

MODEL_TYPES = ("siglip2", "siglip2_vision_model")
LOADS = ("siglip2",)
"""Those of them that ``radapt.load`` loads: a vision tower alone is not a vision-language model."""


def patchify(images: Pixels, patch_size: int) -> Float[Tensor, "batch patches features"]:
    """Flatten images into patches, row by row; within a patch, the channel runs fastest. Differentiable.

    Args:
        images: batch x 3 x height x width, both multiples of the patch size.
        patch_size: side of a patch, in pixels.
    """
    batch, channels, height, width = images.shape
    p = patch_size
    folded = images.reshape(batch, channels, height // p, p, width // p, p)
    return folded.permute(0, 2, 4, 3, 5, 1).reshape(batch, (height // p) * (width // p), p * p * channels)


def unpatchify(patches: Float[Tensor, "batch patches features"], grid: Grid, patch_size: int) -> Pixels:
    """Put patches together again; the inverse of :func:`patchify`.

    Args:
        patches: batch x (rows x columns) x (patch_size^2 x 3).
        grid: patch rows and columns.
        patch_size: side of a patch, in pixels.
    """
    (rows, columns), p = grid, patch_size
    folded = patches.reshape(len(patches), rows, columns, p, p, -1)
    return folded.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), -1, rows * p, columns * p)


class _PatchHook(PixelHook):
    """Maps every image of a padded batch on its own grid; padding stays as it is."""

    argument = "pixel_values"

    def grids(self, pixels: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Grid, ...]:
        shapes = kwargs["spatial_shapes"] if "spatial_shapes" in kwargs else args[2]
        return tuple((rows, columns) for rows, columns in numbers(shapes))

    def change(self, pixels: Tensor, grids: Sequence[Grid]) -> Tensor:
        changed = pixels.clone()
        for grid in dict.fromkeys(grids):
            which = [row for row, each in enumerate(grids) if each == grid]
            tokens = grid[0] * grid[1]
            images = self.mount.pixels(unpatchify(pixels[which, :tokens], grid, self.patch_size))
            changed[which, :tokens] = patchify(images, self.patch_size)
        return changed

    def blend(self, module: nn.Module, hidden: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Map the attention output of all tokens that are no padding."""
        tokens = [rows * columns for rows, columns in grids]
        if len(set(grids)) == 1 and tokens[0] == hidden.shape[1]:
            return self.mount.attention(hidden, grids[:1], self.layout)
        real = torch.arange(hidden.shape[1], device="cpu") < torch.tensor(tokens, device="cpu")[:, None]
        real = real.to(hidden.device)
        changed = hidden.clone()
        changed[real] = self.mount.attention(hidden[real], grids, self.layout)
        return changed


class PatchTower(Tower):
    """A tower that takes one row of flattened patches per image, and how many rows and columns they make."""

    hook = _PatchHook

    def run(self, images: Pixels) -> None:
        self.root(**_inputs(images, self.patch_size))


def _inputs(images: Pixels, patch_size: int) -> dict[str, Tensor]:
    """Arguments of the vision encoder for normalised images of one size: nothing is padding."""
    patches = patchify(images, patch_size)
    grid = [images.shape[-2] // patch_size, images.shape[-1] // patch_size]
    return {
        "pixel_values": patches,
        "pixel_attention_mask": torch.ones(patches.shape[:2], dtype=torch.int32, device=images.device),
        "spatial_shapes": torch.tensor([grid] * len(images), device=images.device),
    }


def tower(model: nn.Module) -> Tower:
    """Vision encoder of a ``Siglip2Model`` or ``Siglip2VisionModel``; its grid is that of its table of positions."""
    half = (0.5, 0.5, 0.5)
    return image_tower(model, Layout(), half, half, PatchTower)


class Siglip2(DualEncoder):
    """A SigLIP 2 that keeps the shape of an image; sides are multiples of the patch size.

    ``image_size`` is that of a square image; the number of tokens follows the size of the images given.
    """

    @staticmethod
    def side(model: Any, processor: Any) -> int:
        return math.isqrt(processor.max_num_patches) * int(processor.patch_size)

    def encode_image(self, pixels: Pixels) -> Embeddings:
        normalized, patch = self.normalize(pixels).to(self.model.dtype), self.tower.patch_size
        height, width = pixels.shape[-2:]
        if min(height, width) < patch or height % patch or width % patch:
            raise InputError(
                f"{self.name} takes images whose sides are multiples of {patch} pixels, got {height} x {width}; "
                "bring images to such a size with preprocess"
            )
        embedding: Tensor = self.model.get_image_features(**_inputs(normalized, patch)).pooler_output
        return embedding

    def preprocess(self, image: Image) -> Float[Tensor, "3 height width"]:
        patches = self.processor(open_image(image), do_normalize=False, return_tensors="pt")
        rows, columns = patches["spatial_shapes"][0].tolist()
        values = torch.as_tensor(patches["pixel_values"][:1, : rows * columns], device="cpu")
        return unpatchify(values, (rows, columns), self.processor.patch_size)[0].clamp(0, 1)


def siglip2(name: str, model: Any, tokenizer: Any, processor: Any) -> Siglip2:
    """A ``transformers.Siglip2Model``; its logits come without their bias, which moves no class above another."""
    return Siglip2(name, model, tokenizer, processor, tower=tower, pad=True)


def load(
    source: str | Path | nn.Module,
    *,
    name: str,
    tokenizer: Any = None,
    processor: Any = None,
    dtype: torch.dtype = torch.float32,
) -> Siglip2:
    """Load a SigLIP 2 with variable resolution from the hub or a folder, or wrap one that is already loaded.

    Raises:
        ModelError: the files are unavailable or unreadable, or the tokenizer did not really load.
    """
    from transformers import Siglip2Model
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

    if isinstance(source, nn.Module):
        wrapped: Any = source
        config = wrapped.config.vision_config
        patches = {"patch_size": config.patch_size, "max_num_patches": config.num_patches}
        processor = image_processor(wrapped, name, processor, Siglip2ImageProcessorPil, **patches)
        return siglip2(name, source, tokenizer, processor)
    parts = pretrained(
        Siglip2Model, Siglip2ImageProcessorPil, source, name, tokenizer=tokenizer, processor=processor, dtype=dtype
    )
    return siglip2(name, *parts)
