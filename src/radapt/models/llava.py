"""LLaVA 1.5 and 1.6: their vision tower, so that adapters of a CLIP or SigLIP attach to the LLaVA built on it."""

from __future__ import annotations

from typing import Any

from torch import nn

from radapt.errors import ModelError
from radapt.find import nearest

from . import hf_clip, siglip
from ._tower import Tower

__all__ = ["MODEL_TYPES", "tower"]

MODEL_TYPES = ("llava", "llava_next")


def tower(model: nn.Module) -> Tower:
    """Vision encoder of a ``LlavaForConditionalGeneration``, ``LlavaNextForConditionalGeneration`` or inner model.

    Raises:
        ModelError: its vision encoder is neither a CLIP nor a SigLIP.
    """
    inner: Any = getattr(model, "model", model)
    kind = inner.vision_tower.config.model_type
    for family in (hf_clip, siglip):
        if kind in family.MODEL_TYPES:
            found: Tower = family.tower(inner.vision_tower)
            return found
    allowed = (hf_clip.MODEL_TYPES[1], siglip.MODEL_TYPES[1])
    raise ModelError(f"a LLaVA on a {kind!r} cannot carry an adapter{nearest(kind, allowed)}")
