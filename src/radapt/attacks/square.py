"""Square attack: random search over square windows of the image, without gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from radapt.caching import cached
from radapt.types import Index, Pixels

from ._ball import unit
from ._search import Evaluation, State, Stoppable
from ._search_attack import SearchAttack
from ._settings import check_growth, number

__all__ = ["ATTACK", "SAFE_GROWTH", "Square", "bump", "share", "words"]

SAFE_GROWTH = 1.0
"""A random search progresses in leaps: given up at a smaller growth, searches are lost that would have succeeded."""

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Steps out of 10,000 after which the windows shrink."""
_CANCELLED = 1e-3
_TINY = 1e-12


@final
@dataclass(frozen=True, kw_only=True)
class Square(SearchAttack, Stoppable):
    """Square attack (Andriushchenko et al. 2020, arXiv:1912.00049, algorithms 1 to 3).

    A step changes the best image so far in a square window at a random place, and keeps the change if the loss rises.
    The window covers a share ``p`` of the image, which begins at ``p_init`` and is halved nine times.

    - ``linf``: every channel of the window moves to the clean image plus or minus ``eps``, with a sign of its own. The
      search starts from vertical stripes: a sign per channel and column.
    - ``l2``: with ``v`` the change so far in the window and ``b`` the bump of eq. 2, lying or standing, with a sign per
      channel, the direction ``b / |b| + v / |v|`` takes the place of ``v``, and a second window is cleared. The square
      of its length, per channel, is what the two windows had, and a third of what the image has left to ``eps``. The
      search starts from a grid of bumps, five along the shorter side.

    Args:
        norm: ``linf`` or ``l2``.
        eps: radius of the ball in pixel units (4/255); at most 1 for ``linf``.
        steps: steps per restart, a forward pass each.
        restarts: how often a sample that is not fooled starts again, the first time included.
        loss: one of the objective's losses; empty for its first.
        p_init: share of the image that the first windows cover.
        growth: where progress that grows like ``iteration ** growth`` from now on would not suffice, a search is given
            up; one sample in sixteen goes on, as a check. At less than 1, some are lost that would have succeeded.
            None: every search goes on to its end.

    Raises:
        SettingsError: a setting is out of range.
    """

    name: ClassVar[str] = "square"
    needs_gradient: ClassVar[bool] = False
    steps: int = 5000
    loss: str = "margin"
    p_init: float = 0.8
    growth: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_growth(self.growth)
        number("p_init", self.p_init, 0, 1, above=True)

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> State:
        """The signs of the first point, and the seed of all later random numbers."""
        _, height, width = shape
        seed = torch.randint(2**62, (), generator=generator, device="cpu")
        if self.norm == "linf":
            return {"seed": seed, "signs": _signs(3, 1, width, generator=generator)}
        tile = _tile(height, width)
        rows, columns = height // tile, width // tile
        signs = _signs(3, rows, columns, generator=generator)
        return {
            "seed": seed,
            "signs": signs,
            "standing": torch.rand(1, rows, columns, generator=generator, dtype=torch.float32, device="cpu") < 0.5,
        }

    def start(self, clean: Pixels, drawn: State) -> tuple[Pixels, State]:
        """Stripes or bumps, and a memory of nothing yet."""
        change = drawn["signs"] if self.norm == "linf" else unit(_grid(clean, drawn["signs"], drawn["standing"]))
        state = {"seed": drawn["seed"], "best": clean, "loss": clean.new_full((len(clean),), -torch.inf)}
        return self.ball.project(clean + self.eps * change, clean), state

    def step(self, clean: Pixels, current: Evaluation, state: State, iteration: Index) -> tuple[Pixels, State]:
        """Keep the point if it is better than the best one, and change that in a window."""
        better = current.loss > state["loss"]
        best = torch.where(better[:, None, None, None], current.points, state["best"])
        state = {"seed": state["seed"], "best": best, "loss": torch.where(better, current.loss, state["loss"])}
        numbers = words(state["seed"], iteration)
        signs = (2 * (numbers[:, 4:7, None, None] & 1) - 1).to(clean)
        height, width = clean.shape[2:]
        sides, kinds, kind_of = _schedule(height, width, self.steps, self.p_init, self.norm, clean.device)
        side = sides[iteration]
        rows, columns = _offsets(numbers[:, 0], side, height), _offsets(numbers[:, 1], side, width)
        window = _window(rows, columns)
        if self.norm == "linf":
            return self.ball.project(best + 2 * self.eps * signs * window, clean), state

        bumps = _bumps(kinds, clean.dtype, clean.device)
        kind = 2 * kind_of[iteration] + (numbers[:, 7] & 1)
        fresh = bumps[kind[:, None, None], rows[:, :, None] + 1, columns[:, None] + 1][:, None] * signs
        cleared = _window(_offsets(numbers[:, 2], side, height), _offsets(numbers[:, 3], side, width)) | window
        change = best - clean
        energy = change.square()
        unused = (self.eps**2 - energy.flatten(1).sum(1)).clamp(min=0) / 3
        new_energy = (energy * cleared).flatten(2).sum(2) + unused[:, None]
        old_length = (energy * window).flatten(2).sum(2).sqrt().clamp(min=_TINY)
        mixed = fresh + change * (window / old_length[:, :, None, None])
        length = mixed.square().flatten(2).sum(2).sqrt()
        # Where the old change is the new one negated, nothing is left of their sum but rounding errors.
        cancelled = length < _CANCELLED
        mixed = torch.where(cancelled[:, :, None, None], fresh, mixed)
        size = new_energy.sqrt() / length.where(~cancelled, 1)
        return self.ball.project(clean + change * ~cleared + mixed * size[:, :, None, None], clean), state


def share(iteration: int, steps: int, p_init: float) -> float:
    """Share ``p`` of the image in the window of a step (Andriushchenko et al. 2020, section 3.3).

    It is halved after 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 steps out of 10,000, rescaled to ``steps``.
    """
    return float(p_init / 2 ** sum(iteration * 10_000 // steps > mark for mark in _HALVINGS))


def bump(side: int) -> Tensor:
    """Change of a window for ``l2``, of length 1 (Andriushchenko et al. 2020, eq. 2): side x side, float64.

    A hill above a valley: in each half the value at a distance ``m`` from its centre (the larger of those along the
    two axes) is the sum of ``1 / (j + 1)^2`` over ``j = m .. n``, with ``n`` the largest distance there is.
    """
    halves = []
    for rows, sign in ((side // 2, 1), (side - side // 2, -1)):
        n = max(rows, side) // 2
        heights = (1 / torch.arange(1, n + 2, dtype=torch.float64, device="cpu") ** 2).flip(0).cumsum(0).flip(0)
        down, across = (torch.arange(size, device="cpu") - size // 2 for size in (rows, side))
        half = heights[torch.maximum(down.abs()[:, None], across.abs())]
        halves.append(sign * half / half.square().sum().sqrt())
    both = torch.cat(halves)
    return both / both.square().sum().sqrt()


def words(seed: Tensor, iteration: Index, count: int = 8) -> Tensor:
    """Random numbers of a step, batch x count, whole numbers from 0 up to 2^32 - 1.

    The upper halves of the outputs ``count * iteration + 1 ...`` of SplitMix64 (Steele, Lea & Flood 2014), so that
    the numbers of a step depend on the sample's own seed and nothing has to be stored.

    Args:
        seed: one per sample, 64-bit whole numbers.
        iteration: step of each sample.
        count: how many numbers.
    """
    index = count * iteration[:, None] + torch.arange(1, count + 1, device=seed.device)
    # As signed numbers, which wrap around; a shift must not drag the sign along.
    z = seed[:, None] + index * -0x61C8864680B583EB
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return ((z ^ ((z >> 31) & 0x1FFFFFFFF)) >> 32) & 0xFFFFFFFF


def _signs(*shape: int, generator: torch.Generator) -> Tensor:
    return 2 * torch.randint(2, shape, generator=generator, device="cpu").float() - 1


def _tile(height: int, width: int) -> int:
    return max(min(height, width) // 5, 1)


def _grid(clean: Pixels, signs: Tensor, standing: Tensor) -> Pixels:
    """A grid of bumps in the middle of the image."""
    height, width = clean.shape[2:]
    tile = _tile(height, width)
    lies, stands = _bumps((tile,), clean.dtype, clean.device)[:, 1:, 1:, None].transpose(2, 3)
    tiles = torch.where(standing[:, :, :, None, :, None], stands, lies) * signs[:, :, :, None, :, None]
    grid = tiles.flatten(4, 5).flatten(2, 3)
    left, top = (width - grid.shape[3]) // 2, (height - grid.shape[2]) // 2
    return F.pad(grid, (left, width - grid.shape[3] - left, top, height - grid.shape[2] - top))


def _offsets(word: Tensor, side: Tensor, size: int) -> Tensor:
    """For every row of pixels its place in a window put at random, -1 outside: batch x size."""
    first = (word * (size - side + 1)) >> 32
    place = torch.arange(size, device=side.device) - first[:, None]
    return place.where((place >= 0) & (place < side[:, None]), -1)


def _window(rows: Tensor, columns: Tensor) -> Tensor:
    return ((rows >= 0)[:, :, None] & (columns >= 0)[:, None])[:, None]


@cached(maxsize=128)
def _schedule(
    height: int, width: int, steps: int, p_init: float, norm: str, device: torch.device
) -> tuple[Tensor, tuple[int, ...], Tensor]:
    """Side of the window at every iteration, all sides that there are, and which of them it is at every iteration."""
    sides = [round(math.sqrt(share(i, steps, p_init) * height * width)) for i in range(steps + 1)]
    if norm == "l2":
        # As in the authors' code; only an odd window has a middle.
        sides = [max(side, 3) | 1 for side in sides]
    of_all = torch.tensor([min(max(side, 1), height, width) for side in sides], device="cpu")
    kinds, kind_of = of_all.unique(return_inverse=True)
    return of_all.to(device), tuple(kinds.tolist()), kind_of.to(device)


@cached(maxsize=128)
def _bumps(sides: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Bumps of several sizes, each lying and then standing, after a row and a column of zeros."""
    largest = max(sides)
    padded = [F.pad(bump(side), (1, largest - side, 1, largest - side)) for side in sides]
    return torch.stack([kind for lies in padded for kind in (lies, lies.T)]).to(dtype).to(device)


ATTACK = Square
