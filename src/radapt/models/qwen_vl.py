"""Qwen2.5-VL and Qwen3-VL: images of any size, which the tower takes as one sequence of flattened patches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL.Image import Image, Resampling
from torch import Tensor, nn
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from radapt.errors import InputError
from radapt.images import open_image
from radapt.types import Pixels

from ._generative import Generative, chat_template
from ._hooks import PixelHook
from ._layout import Grid, Layout, numbers, square
from ._pretrained import pretrained
from ._processors import image_processor
from ._tower import Tower

__all__ = ["LOADS", "MODEL_TYPES", "TEMPLATE", "PackedTower", "QwenVL", "load", "patchify", "qwen_vl", "tower"]

MODEL_TYPES = ("qwen2_5_vl", "qwen3_vl")
LOADS = MODEL_TYPES
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Prompt of the Qwen-VL chat models, for checkpoints that come without one."""
_SIDE = 448


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
    """Unfolds the patches into frames, maps the frames and folds them back; exact and differentiable."""

    argument = "hidden_states"

    def grids(self, pixels: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Grid, ...]:
        shapes = kwargs["grid_thw"] if "grid_thw" in kwargs else args[-1]
        return tuple((h, w) for t, h, w in numbers(shapes) for _ in range(t))

    def change(self, pixels: Tensor, grids: Sequence[Grid]) -> Tensor:
        parts = pixels.split([h * w for h, w in grids])
        return torch.cat([self._one(part, *grid) for part, grid in zip(parts, grids, strict=True)])

    def _one(self, patches: Tensor, h: int, w: int) -> Tensor:
        """Map the frames of one grid of patches, each of which holds all of them."""
        m, p = self.layout.merge, self.patch_size
        frames = patches.shape[1] // (3 * p * p)
        folded = patches.view(h // m, w // m, m, m, 3, frames, p, p)
        images = folded.permute(5, 4, 0, 2, 6, 1, 3, 7).reshape(frames, 3, h * p, w * p)
        images = self.mount.pixels(images)
        folded = images.view(frames, 3, h // m, m, p, w // m, m, p).permute(2, 5, 3, 6, 1, 0, 4, 7)
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


class QwenVL(Generative):
    """A Qwen-VL: an image keeps its size and its shape, up to the nearest whole number of merged patches.

    ``image_size`` is that of a square image; the number of tokens follows the size of the images given.
    """

    @property
    def _unit(self) -> int:
        return int(self.tower.patch_size * self.tower.layout.merge)

    def _image_inputs(self, pixels: Pixels) -> dict[str, Any]:
        height, width = pixels.shape[-2:]
        if height % self._unit or width % self._unit:
            raise InputError(
                f"{self.name} takes images whose sides are multiples of {self._unit} pixels, got {height} x {width}; "
                "bring images to such a size with preprocess"
            )
        config, patch = self.model.config.vision_config, self.tower.patch_size
        normalized = self.normalize(pixels).to(self.model.dtype)
        patches = patchify(normalized, config.temporal_patch_size, patch, self.tower.layout.merge)
        grid = torch.tensor([[1, height // patch, width // patch]] * len(pixels), device=pixels.device)
        return {"pixel_values": patches, "image_grid_thw": grid}

    def image_tokens(self, height: int, width: int) -> int:
        return (height // self._unit) * (width // self._unit)

    def _token_inputs(self, ids: Tensor) -> dict[str, Any]:
        return {"mm_token_type_ids": (ids == self.model.config.image_token_id).int()}

    def preprocess(self, image: Image) -> Float[Tensor, "3 height width"]:
        rgb, limits = open_image(image), self.processor.size
        height, width = smart_resize(
            rgb.height, rgb.width, self._unit,
            min_pixels=limits["shortest_edge"], max_pixels=limits["longest_edge"],
        )  # fmt: skip
        resized = rgb.resize((width, height), Resampling.BICUBIC)
        return torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1).float() / 255


def qwen_vl(name: str, model: Any, tokenizer: Any, processor: Any, template: str = TEMPLATE) -> QwenVL:
    """A ``Qwen2_5_VLForConditionalGeneration`` or ``Qwen3VLForConditionalGeneration`` with its parts."""
    unit = processor.patch_size * processor.merge_size
    least, most = (processor.size[key] for key in ("shortest_edge", "longest_edge"))
    side, _ = smart_resize(_SIDE, _SIDE, unit, min_pixels=least, max_pixels=most)
    return QwenVL(name, model, tokenizer, processor, tower=tower, template=template, image_size=(side, side))


def load(
    source: str | Path | nn.Module,
    *,
    name: str,
    tokenizer: Any = None,
    processor: Any = None,
    dtype: torch.dtype = torch.float32,
    device_map: str | None = None,
) -> QwenVL:
    """Load a Qwen-VL from the hub or a folder, or wrap one that is already loaded.

    Raises:
        ModelError: the files are unavailable or unreadable, or the tokenizer did not really load.
    """
    if isinstance(source, nn.Module):
        config: Any = source.config
        path = getattr(config, "_name_or_path", "")
        template = chat_template(path, processor, tokenizer, default=TEMPLATE, local=True)
        view = tower(source)
        processor = image_processor(
            source,
            name,
            processor,
            Qwen2VLImageProcessorPil,
            patch_size=view.patch_size,
            merge_size=view.layout.merge,
            temporal_patch_size=config.vision_config.temporal_patch_size,
            image_mean=list(view.mean),
            image_std=list(view.std),
        )
        return qwen_vl(name, source, tokenizer, processor, template)
    from transformers import AutoModelForImageTextToText

    given = processor
    model, tokenizer, processor = pretrained(
        AutoModelForImageTextToText,
        Qwen2VLImageProcessorPil,
        source,
        name,
        tokenizer=tokenizer,
        processor=processor,
        dtype=dtype,
        device_map=device_map,
    )
    return qwen_vl(name, model, tokenizer, processor, chat_template(source, given, tokenizer, default=TEMPLATE))
