"""An attack in the pass-band of a low-pass filter: the obvious one against a blur."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from radapt.spectral import gaussian_circulant, separable
from radapt.types import Pixels

from ._filtered import FilteredAPGD
from ._settings import number

__all__ = ["ATTACK", "LowFrequency"]

_WIDENING = 2.0
"""Radius of the coefficients' ball over eps: the filter takes away about half of what gradients ask for."""


@final
@dataclass(frozen=True, kw_only=True)
class LowFrequency(FilteredAPGD):
    """Auto-PGD on the coefficients of a low-pass perturbation (after Sharma et al. 2019, arXiv:1903.00073).

    ``x = P(x0 + G w)`` with ``G`` the Gaussian filter ``H(u, v) = exp(-(u^2 + v^2) / (2 cutoff^2))`` and ``P`` the
    projection onto the ball and [0, 1]. The coefficients ``w`` take APGD's steps, along ``G grad L(x)``, in a ball of
    radius 2 eps around zero: so frequencies near the cut-off still reach eps, and those far above it never do. The
    mask of the source, zero or one in the DCT domain, is a Gaussian here, that of the defence.

    Args:
        norm: ``linf`` or ``l2``.
        eps: radius of the ball in pixel units (4/255); at most 1 for ``linf``.
        steps: steps per restart.
        restarts: how often a sample that is not fooled starts again, the first time included.
        loss: one of the objective's losses; empty for its first (cross-entropy for a classifier).
        cutoff: where the filter's gain is exp(-1/2), in cycles per pixel, above 0; by default 40 cycles per 224 pixels.

    Raises:
        SettingsError: a setting is out of range.
    """

    name: ClassVar[str] = "low-frequency"
    cutoff: float = 40 / 224

    def __post_init__(self) -> None:
        super().__post_init__()
        number("cutoff", self.cutoff, 0, above=True)

    def _widening(self, size: Sequence[int]) -> float:
        return _WIDENING

    def _filter(self, images: Pixels) -> Pixels:
        vertical, horizontal = (
            gaussian_circulant(size, self.cutoff, images.device, images.dtype) for size in images.shape[2:]
        )
        return separable(images, vertical, horizontal)


ATTACK = LowFrequency
