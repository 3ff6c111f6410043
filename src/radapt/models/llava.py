"""LLaVA: its vision tower (a CLIP), so that adapters of a CLIP attach to the LLaVA built on it."""

from __future__ import annotations

from typing import Any

from torch import nn

from . import hf_clip
from ._tower import Tower

__all__ = ["MODEL_TYPES", "tower"]

MODEL_TYPES = ("llava",)


def tower(model: nn.Module) -> Tower:
    """Vision encoder of a ``LlavaForConditionalGeneration`` or ``LlavaModel`` on a CLIP."""
    inner: Any = getattr(model, "model", model)
    return hf_clip.tower(inner.vision_tower)
