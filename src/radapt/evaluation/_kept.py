"""Images that are kept beside a result: as PNG, with where the model looks in them."""

from __future__ import annotations

import io

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from radapt.errors import ModelError
from radapt.models import VLM, patch_attention
from radapt.types import Pixels

__all__ = ["attention_of", "png"]


def png(image: Float[Tensor, "*channels height width"]) -> bytes:
    """An image of values in [0, 1], in colour or grey, as PNG."""
    pixels = (image.detach().cpu() * 255).round().clamp(0, 255).to(torch.uint8)
    buffer = io.BytesIO()
    Image.fromarray((pixels.permute(1, 2, 0) if pixels.ndim == 3 else pixels).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def attention_of(model: VLM, images: Pixels) -> list[bytes]:
    """The attention of the first block to each patch, as a grey PNG per image; empty of a model that gives none.

    Args:
        model: a model, with its defence.
        images: images in [0, 1].
    """
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):  # nothing else may depend on whether a random defence has run once more
            return [png(each) for each in patch_attention(model, images)]
    except ModelError:
        return [b""] * len(images)
