"""Attention weights: what the self-attention of chosen blocks gives for some images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from radapt.errors import ModelError
from radapt.models import VLM
from radapt.types import Pixels

from ._capture import capture, eager

__all__ = ["attention_weights"]


@torch.no_grad()
def attention_weights(model: VLM, pixels: Pixels, blocks: Sequence[int], take: Any) -> list[Tensor]:
    """What ``take`` makes of the attention maps (rows x heads x queries x keys) of some blocks."""

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
