"""The attack of Carlini and Wagner."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, final

import torch
from torch import Tensor

from radapt.errors import SettingsError
from radapt.registry import nearest
from radapt.types import Flags, Index, PerSample, Pixels

from ._search import Evaluation, State
from ._search_attack import SearchAttack
from ._settings import number, unused, whole
from .pgd import PGD

__all__ = ["ATTACK", "CW"]

_LOSSES = ("margin",)
# Adam's own constants (Kingma & Ba 2015, algorithm 1).
_FIRST, _SECOND, _TINY = 0.9, 0.999, 1e-8
_LARGEST_C = 1e10
_INSIDE = 1 - 1e-6
"""How near to black and white a pixel starts, from -1 to 1: beyond, tanh is flat in float32."""
_FLAT, _MOST_FLAT = 1e-3, 0.9
"""How near to 0 or 1 a value hardly moves in ``l2``, and the share of an image's values from which it is told."""
_SLACK = 1 + 5e-7
"""What projects onto the ball may lie outside by rounding."""


@final
@dataclass(frozen=True, kw_only=True)
class CW(SearchAttack):
    """Carlini & Wagner 2017 (arXiv:1608.04644): the margin of the logits as the loss, clipped at a confidence.

    With ``f(x) = max(z[y] - max of the others, -kappa)``, their f6 without a target, and ``x0`` the clean image:

    - ``linf``: PGD that minimises f in the ball, from a random point, in steps of 2.5 eps / steps. This is what
      benchmarks call C&W: the paper's own ``linf`` attack (section VI-C) is seldom run.
    - ``l2``: section VI-A. ``x = (tanh w + 1) / 2`` is in [0, 1] for any ``w``; Adam minimises
      ``|x - x0|^2 + c f(x)`` over ``w``, from the clean image, again for every c. Where no adversarial example was
      found, c becomes ten times as large, or the middle between it and the least c with which one was; else, the
      middle between it and the largest c with which none was. The result is the nearest adversarial example at a
      distance of at most eps. The last point judged is the nearest one at any distance (or the last point, if there is
      none), projected onto the ball.

    A point is a success when it fools and its margin reaches kappa. For ``linf`` the first one ends the search; for
    ``l2`` the search goes on to the end, for nearer ones. Without success the result is the point of the ball with the
    largest margin.

    In ``l2`` values at 0 and 1 hardly move, as tanh is flat there: an image of black and white alone withstands it
    whatever the model.

    Args:
        norm: ``linf`` or ``l2``.
        eps: radius of the ball in pixel units (4/255); at most 1 for ``linf``.
        steps: steps per restart; for ``l2`` shared out equally among the values of c.
        restarts: how often a sample that is not fooled starts again; for ``l2``, where nothing is random, 1.
        loss: ``margin``.
        kappa: margin to reach, in logits, at least 0; more than 0 for images that transfer to other models.
        search_steps: values of c (``l2``); the authors' code takes nine, with thousands of steps each.
        initial_c: the first of them (``l2``); the authors' 0.001 leaves more values to go.
        lr: Adam's step size, in units of w (``l2``).

    Raises:
        SettingsError: a setting is out of range.

    Warns:
        UserWarning: images with nine tenths of their values at 0 and 1, in ``l2``.
    """

    name: ClassVar[str] = "cw"
    steps: int = 100
    loss: str = "margin"
    kappa: float = 0.0
    search_steps: int = 5
    initial_c: float = 0.01
    lr: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss not in _LOSSES:
            raise SettingsError(f"cw has no loss {self.loss!r}{nearest(self.loss, _LOSSES)}")
        number("kappa", self.kappa, 0)
        whole("search_steps", self.search_steps)
        number("initial_c", self.initial_c, 0, above=True)
        number("lr", self.lr, 0, above=True)
        if self.norm == "linf":
            unused(self, ["search_steps", "initial_c", "lr"], "in linf, where cw is PGD")
        if self.norm == "l2" and self.steps < self.search_steps:
            raise SettingsError(
                f"every value of c needs a step, but steps is {self.steps} and search_steps {self.search_steps}; "
                f"give at least {self.search_steps} steps, better a hundred times as many"
            )
        if self.norm == "l2" and self.restarts > 1:
            raise SettingsError("restarts of the l2 search are all the same; give it more search_steps or steps")

    @property
    def _stops_when_fooled(self) -> bool:
        """Whether the first success ends the search: not where the nearest one is wanted."""
        return self.norm == "linf"

    @cached_property
    def _pgd(self) -> PGD:
        return PGD(norm=self.norm, eps=self.eps, steps=self.steps)

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> State:
        """Random numbers for one point of the ball; nothing for ``l2``."""
        return self._pgd.draw(shape, generator) if self.norm == "linf" else {}

    def start(self, clean: Pixels, drawn: State) -> tuple[Pixels, State]:
        """A point of the ball, drawn uniformly; the clean image for ``l2``."""
        if self.norm == "linf":
            return self._pgd.start(clean, drawn)
        flat = ((clean < _FLAT) | (clean > 1 - _FLAT)).flatten(1).double().mean(1) >= _MOST_FLAT
        if flat.any():
            warnings.warn(
                f"{int(flat.sum())} of {len(clean)} images are nearly all black and white, and cw in l2 hardly moves "
                "values at 0 and 1, so that they seem robust; take pgd, apgd or autoattack for them",
                stacklevel=2,
            )
        ones, blank = clean.new_ones(len(clean)), torch.zeros_like(clean)
        return clean, {
            **dict.fromkeys(("origin", "origin_gradient", "w", "first", "second", "nearest"), blank),
            "c": self.initial_c * ones,
            "low": 0 * ones,
            "high": torch.inf * ones,
            "hit": torch.zeros_like(ones, dtype=torch.bool),
            "least": torch.inf * ones,
        }

    def step(self, clean: Pixels, current: Evaluation, state: State, iteration: Index) -> tuple[Pixels, State]:
        """PGD's step; for ``l2`` Adam's, with the next value of c where it is due."""
        descends = current.loss < self.kappa
        gradient = torch.where(_wide(descends), current.gradient, 0.0)
        if self.norm == "linf":
            return self._pgd.step(clean, current._replace(gradient=gradient), state, iteration)
        state = self._remember(clean, current, state, ~descends)
        first, turn = iteration == 0, iteration * self.search_steps // self.steps
        origin = torch.where(_wide(first), _inverse(current.points), state["origin"])
        origin_gradient = torch.where(_wide(first), gradient, state["origin_gradient"])
        done = iteration - -(-turn * self.steps // self.search_steps)
        begins = _wide(done == 0)
        state = {
            **state,
            **self._next(state, (done == 0) & ~first),
            "origin": origin,
            "origin_gradient": origin_gradient,
            "w": torch.where(begins, origin, state["w"]),
            "first": state["first"].where(~begins, 0.0),
            "second": state["second"].where(~begins, 0.0),
        }
        state = self._adam(clean, torch.where(begins, origin_gradient, gradient), state, done + 1)
        points = (_tanh(state["w"]) + 1) / 2
        nearest = torch.where(_wide(state["least"].isfinite()), state["nearest"], points)
        last = iteration == self.steps - 1
        return torch.where(_wide(last), self.ball.project(nearest, clean), points), state

    def _remember(self, clean: Pixels, current: Evaluation, state: State, adversarial: Flags) -> State:
        """Remember the nearest adversarial point, and that there was one at this value of c."""
        distance = self.ball.distance(current.points, clean)
        nearer = adversarial & (distance < state["least"])
        return {
            **state,
            "hit": state["hit"] | adversarial,
            "nearest": torch.where(_wide(nearer), current.points, state["nearest"]),
            "least": torch.where(nearer, distance, state["least"]),
        }

    @staticmethod
    def _next(state: State, due: Flags) -> State:
        """The next value of c, where it is due."""
        c, hit = state["c"], state["hit"]
        high = torch.where(due & hit, state["high"].minimum(c), state["high"])
        low = torch.where(due & ~hit, state["low"].maximum(c), state["low"])
        following = torch.where(high.isfinite(), (low + high) / 2, (10 * c).clamp(max=_LARGEST_C))
        return {"c": torch.where(due, following, c), "low": low, "high": high, "hit": hit & ~due}

    def _adam(self, clean: Pixels, gradient: Pixels, state: State, count: Index) -> State:
        """Step number ``count`` on ``|x - x0|^2 + c f(x)``, given the gradient of ``-f`` at x."""
        slant = _tanh(state["w"])
        slope = 2 * ((slant + 1) / 2 - clean) - _wide(state["c"]) * gradient
        slope = slope * (1 - slant.square()) / 2
        first = _FIRST * state["first"] + (1 - _FIRST) * slope
        second = _SECOND * state["second"] + (1 - _SECOND) * slope.square()
        # 1 - decay ** count, where the power is close to 1.
        unbiased = [-_wide((count.double() * math.log(decay)).expm1()).to(clean) for decay in (_FIRST, _SECOND)]
        step = self.lr * (first / unbiased[0]) / ((second / unbiased[1]).sqrt() + _TINY)
        return {**state, "w": state["w"] - step, "first": first, "second": second}

    def _succeeded(self, clean: Pixels, current: Evaluation) -> Flags:
        """What fools with the margin asked for, in the ball."""
        fooled = current.fooled & ~(current.loss < self.kappa)
        return fooled if self.norm == "linf" else fooled & self._inside(clean, current)

    def _value(self, clean: Pixels, current: Evaluation) -> PerSample:
        """The margin; for ``l2`` nothing outside the ball, and the nearest among the successes."""
        if self.norm == "linf":
            return current.loss
        value = current.loss.where(self._inside(clean, current), -torch.inf)
        return torch.where(self._succeeded(clean, current), -self.ball.distance(current.points, clean), value)

    def _inside(self, clean: Pixels, current: Evaluation) -> Flags:
        return self.ball.distance(current.points, clean) <= self.eps * _SLACK


# Vector instructions and what is left over at the end of a tensor differ in the last bit of such functions. In double
# precision that bit is rounded away: a sample's result does not depend on its place in the batch.
def _tanh(w: Tensor) -> Tensor:
    return w.double().tanh().to(w)


def _inverse(points: Pixels) -> Tensor:
    """The w of points in [0, 1]."""
    return ((2 * points - 1) * _INSIDE).double().atanh().to(points)


def _wide(flags: Tensor) -> Tensor:
    return flags[:, None, None, None]


ATTACK = CW
