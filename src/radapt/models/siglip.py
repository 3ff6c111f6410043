"""SigLIP, and SigLIP 2 at a fixed resolution, in the Hugging Face format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ._dual import DualEncoder
from ._layout import Layout
from ._pretrained import pretrained
from ._processors import image_processor
from ._tower import Tower, image_tower

__all__ = ["LOADS", "MODEL_TYPES", "load", "siglip", "tower"]

MODEL_TYPES = ("siglip", "siglip_vision_model")
LOADS = ("siglip",)
"""Those of them that ``radapt.load`` loads: a vision tower alone is not a vision-language model."""


def tower(model: nn.Module) -> Tower:
    """Vision encoder of a ``SiglipModel`` or ``SiglipVisionModel``."""
    return image_tower(model, Layout(), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def siglip(name: str, model: Any, tokenizer: Any, processor: Any) -> DualEncoder:
    """A ``transformers.SiglipModel``; its logits come without their bias, which moves no class above another."""
    return DualEncoder(name, model, tokenizer, processor, tower=tower, pad=True)


def load(
    source: str | Path | nn.Module,
    *,
    name: str,
    tokenizer: Any = None,
    processor: Any = None,
    dtype: torch.dtype = torch.float32,
) -> DualEncoder:
    """Load a SigLIP from the hub or a folder, or wrap one that is already loaded.

    Raises:
        ModelError: the files are unavailable or unreadable, or the tokenizer did not really load.
    """
    from transformers import SiglipModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    if isinstance(source, nn.Module):
        wrapped: Any = source
        side = wrapped.config.vision_config.image_size
        size = {"height": side, "width": side}
        processor = image_processor(wrapped, name, processor, SiglipImageProcessorPil, size=size)
        return siglip(name, source, tokenizer, processor)
    parts = pretrained(
        SiglipModel, SiglipImageProcessorPil, source, name, tokenizer=tokenizer, processor=processor, dtype=dtype
    )
    return siglip(name, *parts)
