"""CLIP in the Hugging Face format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from ._dual import DualEncoder
from ._layout import Layout
from ._pretrained import pretrained
from ._processors import image_processor
from ._tower import Tower, image_tower

__all__ = ["LOADS", "MODEL_TYPES", "clip", "load", "tower"]

MODEL_TYPES = ("clip", "clip_vision_model")
LOADS = ("clip",)
"""Those of them that ``radapt.load`` loads: a vision tower alone is not a vision-language model."""


def tower(model: nn.Module) -> Tower:
    """Vision encoder of a ``CLIPModel``, ``CLIPVisionModel`` or ``CLIPVisionModelWithProjection``."""
    return image_tower(model, Layout(prefix=1), OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)


def clip(name: str, model: Any, tokenizer: Any, processor: Any) -> DualEncoder:
    """A ``transformers.CLIPModel`` with its tokenizer and its image processor."""
    return DualEncoder(name, model, tokenizer, processor, tower=tower)


def load(
    source: str | Path | nn.Module,
    *,
    name: str,
    tokenizer: Any = None,
    processor: Any = None,
    dtype: torch.dtype = torch.float32,
) -> DualEncoder:
    """Load a CLIP from the hub or a folder, or wrap one that is already loaded.

    Raises:
        ModelError: the files are unavailable or unreadable, or the tokenizer did not really load.
    """
    from transformers import CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    if isinstance(source, nn.Module):
        wrapped: Any = source
        side = wrapped.config.vision_config.image_size
        size = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
        processor = image_processor(wrapped, name, processor, CLIPImageProcessorPil, **size)
        return clip(name, source, tokenizer, processor)
    parts = pretrained(
        CLIPModel, CLIPImageProcessorPil, source, name, tokenizer=tokenizer, processor=processor, dtype=dtype
    )
    return clip(name, *parts)
