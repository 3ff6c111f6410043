"""An attack in a ring of frequencies: it shows in which of them a model can be fooled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from radapt.caching import cached
from radapt.errors import SettingsError
from radapt.spectral import HIGHEST, ring
from radapt.types import Pixels

from ._filtered import FilteredAPGD
from ._search import State
from ._settings import number

__all__ = ["ATTACK", "Band"]


@final
@dataclass(frozen=True, kw_only=True)
class Band(FilteredAPGD):
    """Auto-PGD on the coefficients of a perturbation in a frequency ring (after Yin et al. 2019, arXiv:1906.08988).

    ``x = P(x0 + M (P(x0 + M w) - x0))`` with ``M`` the ideal filter of the ring, 1 where ``low <= sqrt(u^2 + v^2) <
    high`` and 0 elsewhere, and ``P`` the projection onto the ball and [0, 1]. The coefficients ``w`` take APGD's steps,
    along ``M grad L(x)``, in a ball around zero whose radius is eps over the root of the ring's share of all
    frequencies: what random coefficients lose to the filter. The source perturbs images with one frequency at a time;
    here the attack chooses among those of the ring.

    What ``P`` cuts off has frequencies outside of the ring. So the image is filtered and cut a second time, which
    leaves little of them. With the whole range, ``M`` changes nothing, and this is APGD.

    Args:
        norm: ``linf`` or ``l2``.
        eps: radius of the ball in pixel units (4/255); at most 1 for ``linf``.
        steps: steps per restart.
        restarts: how often a sample that is not fooled starts again, the first time included.
        loss: one of the objective's losses; empty for its first (cross-entropy for a classifier).
        low, high: ends of the ring in cycles per pixel, the upper one not in it; there is no frequency above 0.707.

    Raises:
        SettingsError: a setting is out of range; at the call, the images have no frequency in the ring.
    """

    name: ClassVar[str] = "band"
    low: float = 0.0
    high: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        number("low", self.low, 0, HIGHEST)
        number("high", self.high, 0, above=True)
        if self.low >= self.high:
            raise SettingsError(f"high must be above low, got {self.low} and {self.high}")

    def _widening(self, size: Sequence[int]) -> float:
        height, width = size
        share = float(ring(height, width, self.low, self.high).double().mean())
        if not share:
            raise SettingsError(
                f"images of {height} x {width} pixels have no frequency from {self.low} to {self.high} cycles per "
                f"pixel; theirs lie {1 / max(size):.3g} apart: make the ring wider"
            )
        return 1 / math.sqrt(share)

    def _placed(self, clean: Pixels, unfiltered: Pixels, state: State) -> tuple[Pixels, State]:
        cut, state = super()._placed(clean, unfiltered, state)
        points = self.ball.project(clean + self._filter(cut - clean), clean)
        return points, {**state, "points": points}

    def _filter(self, images: Pixels) -> Pixels:
        height, width = images.shape[2:]
        if ring(height, width, self.low, self.high).all():
            return images
        mask = _half_plane(height, width, self.low, self.high, images.device, images.dtype)
        with torch.autocast(images.device.type, enabled=False):
            filtered: Tensor = torch.fft.irfft2(torch.fft.rfft2(images) * mask, s=(height, width))
        return filtered


@cached(maxsize=32)
def _half_plane(
    height: int, width: int, low: float, high: float, device: torch.device, kind: torch.dtype
) -> Float[Tensor, "height half"]:
    """The ring as the transform of real numbers needs it."""
    return ring(height, width, low, high)[:, : width // 2 + 1].to(device, kind)


ATTACK = Band
