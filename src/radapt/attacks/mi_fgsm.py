"""The momentum iterative fast gradient method, with diverse inputs on request."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from radapt.errors import SettingsError
from radapt.spectral import separable
from radapt.types import Index, PerSample, Pixels

from ._search import Evaluation, State
from ._search_attack import SearchAttack
from ._settings import check_momentum, number, unused
from .pgd import PGD

__all__ = ["ATTACK", "MIFGSM"]


@final
@dataclass(frozen=True, kw_only=True)
class MIFGSM(SearchAttack):
    """MI-FGSM (Dong et al. 2018, arXiv:1710.06081, algorithm 1), an attack whose images transfer to other models.

    ``g[t+1] = mu g[t] + grad L(x[t]) / |grad L(x[t])|_1`` and ``x[t+1] = P(x[t] + eps / steps d(g[t+1]))`` from the
    clean image, with ``P`` and ``d`` as in PGD: PGD with momentum, steps that just reach the boundary, and no random
    start.

    With ``diversity_prob`` p, the gradient of step t is taken, with probability p, at a view of the point: shrunk to a
    random size and padded with black to its own size at a random place (Xie et al. 2019, arXiv:1803.06978, section
    3.2 and eq. 7; M-DI2-FGSM). A pass on a view says nothing about the point, so such a search takes all its steps,
    and the last point is what it returns.

    Args:
        norm: ``linf`` or ``l2``.
        eps: radius of the ball in pixel units (4/255); at most 1 for ``linf``.
        steps: steps per restart.
        restarts: how often a sample that is not fooled starts again; more than one needs ``diversity_prob``, or a
            targeted loss.
        loss: one of the objective's losses; empty for its first (cross-entropy for a classifier).
        momentum: mu, from 0 to 1.
        diversity_prob: p, from 0 to 1; the paper's is 0.5.
        resize_rate: least height and width of a shrunk image over the image's own, above 0 and at most 1; 0.9 is the
            paper's 299 of 330 pixels.

    Raises:
        SettingsError: a setting is out of range.
    """

    name: ClassVar[str] = "mi-fgsm"
    steps: int = 10
    momentum: float = 1.0
    diversity_prob: float = 0.0
    resize_rate: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        check_momentum(self.momentum)
        number("diversity_prob", self.diversity_prob, 0, 1)
        number("resize_rate", self.resize_rate, 0, 1, above=True)
        if not self.diversity_prob:
            unused(self, ["resize_rate"], "without diversity_prob")
        if self.restarts > 1 and not (self.diversity_prob or self.targeted):
            raise SettingsError("restarts of mi-fgsm are all the same; set diversity_prob, or leave them out")

    @cached_property
    def _pgd(self) -> PGD:
        size = self.eps / self.steps
        return PGD(norm=self.norm, eps=self.eps, step_size=size, random_start=False, momentum=self.momentum)

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> State:
        """For every step four numbers: whether to transform, the size, and the place from above and from the left."""
        return (
            {"chance": torch.rand(self.steps, 4, generator=generator, dtype=torch.float32, device="cpu")}
            if self.diversity_prob
            else {}
        )

    def start(self, clean: Pixels, drawn: State) -> tuple[Pixels, State]:
        """The clean image, and no gradient yet."""
        points, state = self._pgd.start(clean, {})
        return points, {**state, "chance": drawn["chance"]} if self.diversity_prob else state

    def _view(self, points: Pixels, state: State, iteration: Index) -> Pixels:
        """The points, or the shrunk and padded images."""
        if not self.diversity_prob:
            return points
        taken = iteration.clamp(max=self.steps - 1)[:, None, None].expand(-1, 1, 4)
        whether, size, top, left = state["chance"].gather(1, taken).squeeze(1).unbind(1)
        vertical, horizontal = (
            _shrinking(length, self.resize_rate, size, place)
            for length, place in zip(points.shape[2:], (top, left), strict=True)
        )
        chosen = (whether < self.diversity_prob)[:, None, None, None]
        return torch.where(chosen, separable(points, vertical, horizontal), points)

    def step(self, clean: Pixels, current: Evaluation, state: State, iteration: Index) -> tuple[Pixels, State]:
        """One step along the accumulated gradient."""
        points, accumulated = self._pgd.step(clean, current, state, iteration)
        return points, {**state, **accumulated}


def _shrinking(
    length: int, smallest: float, size: PerSample, place: PerSample
) -> Float[Tensor, "batch 1 pixels pixels"]:
    """Bilinear interpolation of one axis to a smaller size, put at a place of an axis as long as before.

    Args:
        length: pixels of the axis.
        smallest: least share of them that is left.
        size: where the size lies between the least one and ``length``, in [0, 1).
        place: where the first pixel lies among the possible ones, in [0, 1).
    """
    least = math.ceil(smallest * length)
    left = least + _among(size, length - least + 1)
    first = _among(place, length - left + 1)
    pixels = torch.arange(length, dtype=size.dtype, device=size.device)
    # Pixels are squares around their centres. Those out of place lie a pixel or more outside, where the weight is zero.
    centres = (pixels + 0.5 - first[:, None]) * (length / left)[:, None] - 0.5
    return (1 - (centres[:, None, :, None] - pixels).abs()).clamp(min=0)


def _among(share: PerSample, count: int | Tensor) -> PerSample:
    """A whole number below ``count``, from one in [0, 1)."""
    return (share * count).floor().minimum(torch.as_tensor(count - 1, device=share.device).to(share))


ATTACK = MIFGSM
