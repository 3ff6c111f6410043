"""Linear maps of images that act on rows and on columns: filters, and changes of size."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from radapt.types import Pixels

__all__ = ["separable"]


def separable(
    images: Pixels, vertical: Float[Tensor, "*one height height"], horizontal: Float[Tensor, "*one width width"]
) -> Pixels:
    """``vertical @ image @ horizontal.T`` of every channel, in the images' own precision even under autocast.

    Matrix products give the same gradients, bit for bit, on every call; interpolation kernels add theirs up in any
    order on an accelerator.

    Args:
        images: batch x 3 x height x width.
        vertical, horizontal: one matrix per axis, or batch x 1 of them.
    """
    with torch.autocast(images.device.type, enabled=False):
        return vertical.to(images) @ (images @ horizontal.to(images).mT)
