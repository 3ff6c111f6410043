"""Frequencies of images: the Gaussian low-pass filter, rings of frequencies, and maps that act on rows and columns.

What a defence filters and what an attack hides from it come from here, so that the two cannot drift apart.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from radapt.caching import cached

__all__ = ["HIGHEST", "gaussian_circulant", "gaussian_response", "radial", "ring", "ring_sums", "separable"]

HIGHEST = 0.5**0.5
"""Highest radial frequency of a grid of pixels, that of a chessboard, in cycles per pixel."""


def gaussian_response(size: int, cutoff: float) -> Float[Tensor, " size"]:
    """One axis of the Gaussian low-pass filter at the DFT frequencies, in float64.

    H(u, v) = exp(-D(u, v)^2 / (2 D0^2)) factorises into H(u) H(v) since D^2 = u^2 + v^2 (arXiv 2603.12799, GIF).

    Args:
        size: image height or width, in pixels.
        cutoff: D0 in cycles per pixel; infinity passes everything.
    """
    return torch.exp(-torch.fft.fftfreq(size, dtype=torch.float64, device="cpu").square() / (2 * cutoff * cutoff))


@cached(maxsize=64)
def gaussian_circulant(
    size: int, cutoff: float, device: torch.device, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "size size"]:
    """The filter along one axis as a (symmetric) circulant matrix: circular convolution with the exact kernel.

    Args:
        size, cutoff: as in :func:`gaussian_response`.
        device, dtype: of the matrix, which is computed in float64 on the CPU.
    """
    places = torch.arange(size, device="cpu")
    # The inverse transform of an even function has cosines alone; compilers know nothing of complex numbers.
    cosines = torch.cos((places[:, None] * places % size).double() * (2 * math.pi / size))
    kernel = cosines @ gaussian_response(size, cutoff) / size
    return kernel[(places[:, None] - places) % size].to(dtype).to(device)


def separable(
    images: Float[Tensor, "batch channels height width"],
    vertical: Float[Tensor, "*one rows height"],
    horizontal: Float[Tensor, "*one columns width"],
) -> Float[Tensor, "batch channels rows columns"]:
    """``vertical @ image @ horizontal.T`` of every channel, in the images' own precision even under autocast.

    Matrix products give the same gradients, bit for bit, on every call; interpolation kernels add theirs up in any
    order on an accelerator.

    Args:
        images: batch x channels x height x width.
        vertical, horizontal: one matrix per axis, or batch x 1 of them.
    """
    with torch.autocast(images.device.type, enabled=False):
        return vertical.to(images) @ (images @ horizontal.to(images).mT)


def radial(height: int, width: int) -> Float[Tensor, "height width"]:
    """Distance from DC, in cycles per pixel, of the entries of a 2-D discrete Fourier transform, in float64."""
    rows, columns = (torch.fft.fftfreq(size, dtype=torch.float64, device="cpu") for size in (height, width))
    return torch.hypot(rows[:, None], columns)


@cached(maxsize=32)
def ring(height: int, width: int, low: float, high: float) -> Bool[Tensor, "height width"]:
    """Which entries of a 2-D discrete Fourier transform have a radial frequency from ``low`` to below ``high``."""
    distance = radial(height, width)
    return (distance >= low) & (distance < high)


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
