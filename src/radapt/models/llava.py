"""LLaVA: its vision tower (a CLIP), so that adapters of a CLIP attach to the LLaVA built on it."""

from __future__ import annotations

from typing import Any

from torch import nn

from radapt.errors import ModelError

from . import hf_clip
from ._tower import Tower

__all__ = ["MODEL_TYPES", "tower"]

MODEL_TYPES = ("llava",)


def tower(model: nn.Module) -> Tower:
    """Vision encoder of a ``LlavaForConditionalGeneration`` or ``LlavaModel`` on a CLIP.

    Raises:
        ModelError: its vision encoder is no CLIP.
    """
    inner: Any = getattr(model, "model", model)
    kind = inner.vision_tower.config.model_type
    if kind not in hf_clip.MODEL_TYPES:
        raise ModelError(f"a LLaVA on a {kind!r} cannot carry an adapter; allowed is a CLIP ({hf_clip.MODEL_TYPES[1]})")
    return hf_clip.tower(inner.vision_tower)
