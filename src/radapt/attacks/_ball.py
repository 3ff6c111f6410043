"""The ball of allowed perturbations around a clean image: projection, distance and steepest ascent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final, get_args

import torch
from torch import Tensor

from radapt.errors import SettingsError
from radapt.types import Norm, PerSample, Pixels

from ._settings import number, word

__all__ = ["NORMS", "Ball", "unit"]

NORMS: tuple[Norm, ...] = get_args(Norm)
_LEAST = 1e-6


@final
@dataclass(frozen=True)
class Ball:
    """All images within ``eps`` of a clean one, in a norm, and within [0, 1].

    Args:
        norm: ``linf`` (largest change of a pixel) or ``l2`` (Euclidean length of the change).
        eps: radius in pixel units, from 1e-6 on; at most 1 for ``linf``.

    Raises:
        SettingsError: unknown norm, or a radius out of range.
    """

    norm: Norm
    eps: float

    def __post_init__(self) -> None:
        word("norm", self.norm, NORMS)
        number("eps", self.eps, 0, above=True)
        if self.norm == "linf" and self.eps > 1:
            raise SettingsError(
                f"eps must be at most 1 for linf, got {self.eps}; it is in pixel units, so write 4/255 instead of 4"
            )
        if self.eps < _LEAST:
            raise SettingsError(f"eps must be at least {_LEAST:g}, got {self.eps}: float32 has no finer pixels")

    def project(self, points: Pixels, clean: Pixels) -> Pixels:
        """Nearest image of the ball, cut to [0, 1]; the cut only shortens a change, so the result stays in the ball."""
        if self.norm == "linf":
            return torch.minimum(torch.maximum(points, clean - self.eps), clean + self.eps).clamp(0, 1)
        change = points - clean
        longer = _length(change)[:, None, None, None].clamp(min=self.eps)
        return (clean + change * self.eps / longer).clamp(0, 1)

    def distance(self, points: Pixels, clean: Pixels) -> PerSample:
        """Distance from the clean images, in the norm."""
        change = points - clean
        return change.abs().amax((1, 2, 3)) if self.norm == "linf" else _length(change)

    def ascent(self, gradient: Pixels) -> Pixels:
        """Direction of steepest ascent of unit length in the norm; zero where the gradient is zero."""
        return gradient.sign() if self.norm == "linf" else unit(gradient)

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """A random direction from the clean image, of any length: uniform (``linf``) or normal (``l2``)."""
        if self.norm == "linf":
            return 2 * torch.rand(*shape, generator=generator, dtype=torch.float32, device="cpu") - 1
        return torch.randn(*shape, generator=generator, dtype=torch.float32, device="cpu")

    def unit(self, direction: Pixels) -> Pixels:
        """Directions scaled to length 1 in the norm; zero stays zero."""
        if self.norm == "l2":
            return unit(direction)
        largest = direction.abs().amax((1, 2, 3), keepdim=True)
        return direction / largest.where(largest > 0, 1.0)


def unit(vectors: Pixels) -> Pixels:
    """Every sample scaled to Euclidean length 1; zero stays zero.

    The scaling goes through the largest entry, so that gradients too small to be squared in float32 keep their
    direction.
    """
    scale = vectors.abs().amax((1, 2, 3), keepdim=True)
    scaled = vectors / scale.where(scale > 0, 1.0)
    length = _length(scaled)[:, None, None, None]
    return scaled / length.where(length > 0, 1.0)


def _length(vectors: Pixels) -> PerSample:
    # Not torch.linalg.vector_norm: on a CPU it adds up in sequence, and loses two digits on a 224 x 224 image.
    return vectors.square().flatten(1).sum(1).sqrt()
