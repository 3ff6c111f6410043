"""GIF, the Gaussian Input Filter: an exact low-pass filter in the frequency domain."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from radapt.caching import cached
from radapt.errors import SettingsError
from radapt.registry import nearest
from radapt.spectral import gaussian_circulant, gaussian_response

__all__ = ["REFERENCE_SIZE", "cutoff_from_d0", "gaussian_filter"]

REFERENCE_SIZE = 224
"""Image size at which the paper states D0, in pixels."""
_METHODS = ("auto", "fft", "separable")
_LARGEST_DENSE = 512


def cutoff_from_d0(d0: float, size: int = REFERENCE_SIZE) -> float:
    """Cut-off in cycles per pixel of a D0 in cycles per image of ``size`` pixels (40 at 224 px is 0.179)."""
    return d0 / size


@cached(maxsize=32)
def _half_plane(height: int, width: int, cutoff: float, device: torch.device) -> Tensor:
    half = gaussian_response(width, cutoff)[: width // 2 + 1]
    return (gaussian_response(height, cutoff)[:, None] * half).to(torch.float32).to(device)


def gaussian_filter(
    images: Float[Tensor, "*batch height width"], cutoff: float, *, method: str = "auto"
) -> Float[Tensor, "*batch height width"]:
    """Low-pass images with H(u, v) = exp(-D^2 / (2 D0^2)); unit gain at DC, so it commutes with normalisation.

    The convolution is circular, as multiplication in the frequency domain is. ``separable`` multiplies by one
    exact circulant matrix per axis, ``fft`` goes through the real FFT; they agree to 1e-5. A kernel cut to a few
    taps would not: the response is not zero at the Nyquist frequency, so the exact kernel has slow tails.
    ``auto`` takes the faster one: ``separable`` up to 512 pixels, where it is a small dense matrix product.

    Args:
        images: any leading axes, real, any float type; computed in float32.
        cutoff: D0 in cycles per pixel, > 0.
        method: ``auto``, ``fft`` or ``separable``.

    Raises:
        SettingsError: a cut-off that is not positive, or an unknown method.
    """
    if method not in _METHODS:
        raise SettingsError(f"unknown filter method {method!r}{nearest(method, _METHODS)}")
    if not cutoff > 0:
        raise SettingsError(f"the cut-off must be > 0 cycles per pixel, got {cutoff} (0.179 is the paper's D0 of 40)")
    if math.isinf(cutoff):
        return images
    height, width = map(int, images.shape[-2:])
    dense = method == "separable" or (method == "auto" and max(height, width) <= _LARGEST_DENSE)
    with torch.autocast(images.device.type, enabled=False):
        exact = images.float()
        filtered: Tensor
        if dense:
            rows, columns = (gaussian_circulant(side, cutoff, images.device) for side in (height, width))
            filtered = rows @ (exact @ columns)
        else:
            transfer = _half_plane(height, width, cutoff, images.device)
            filtered = torch.fft.irfft2(torch.fft.rfft2(exact) * transfer, s=(height, width))
    return filtered.to(images.dtype)
