"""Radial frequencies of a picture, and means over rings of them."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["HIGHEST", "radial", "ring_sums"]

HIGHEST = 0.5**0.5
"""Highest radial frequency of a grid of pixels, that of a chessboard, in cycles per pixel."""


def radial(height: int, width: int) -> Float[Tensor, "height width"]:
    """Distance from DC, in cycles per pixel, of the entries of a 2-D discrete Fourier transform, in float64."""
    rows, columns = (torch.fft.fftfreq(size, dtype=torch.float64) for size in (height, width))
    return torch.hypot(rows[:, None], columns)


def ring_sums(
    values: Float[Tensor, "batch height width"], ring: Int[Tensor, "height width"], rings: int
) -> Float[Tensor, "batch rings"]:
    """Sums of values over rings.

    Args:
        values: one value per frequency.
        ring: number of the ring of each frequency; those of ``rings`` and above are left out.
        rings: number of rings.
    """
    sums = values.new_zeros(len(values), int(ring.max()) + 1)
    sums.index_add_(1, ring.flatten(), values.flatten(1))
    missing = max(0, rings - sums.shape[1])
    return torch.nn.functional.pad(sums, (0, missing))[:, :rings]
