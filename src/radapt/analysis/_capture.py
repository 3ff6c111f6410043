"""The tokens that the blocks of a vision encoder give, by image, and their names."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from radapt.errors import InputError
from radapt.models import Tower

__all__ = ["block_names", "by_image"]


def by_image(tower: Tower, output: Any, images: int) -> Float[Tensor, "images tokens features"]:
    """The tokens that a block gave, image by image.

    They come as one row of tokens per image; with the tokens first (open_clip); or with the images laid end to end
    (Qwen-VL), and then all must have one grid, as those of one batch do. The tiles of an image (LLaVA-NeXT) follow one
    another in its row.

    Args:
        tower: the vision encoder.
        output: what a block gave, alone or as the first of a tuple.
        images: number of images that went in.

    Raises:
        InputError: there is not the same number of tokens per image.
    """
    tokens: Tensor = output[0] if isinstance(output, tuple) else output
    if tokens.ndim == 3 and not getattr(tower.attention, "batch_first", True):
        tokens = tokens.transpose(0, 1)
    if tokens[..., 0].numel() % images:
        raise InputError(
            f"the encoder gave {tokens[..., 0].numel()} tokens for {images} images; all images of a batch must have "
            "one size, so that each has the same number of tokens"
        )
    return tokens.reshape(images, -1, tokens.shape[-1])


def block_names(tower: Tower) -> tuple[str, ...]:
    """Names of what :func:`capture` keeps of the blocks with ``entering``: ``Emb.``, ``B1``, ``B2``..."""
    return "Emb.", *(f"B{number}" for number in range(1, len(tower.blocks) + 1))
