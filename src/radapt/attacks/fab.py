"""FAB: steps onto the linearised decision boundary, in search of the nearest image that fools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch

from radapt.errors import InputError, SettingsError
from radapt.types import Flags, Index, Norm, PerSample, Pixels

from ._search import Evaluation, State, Stoppable
from ._search_attack import SearchAttack
from ._settings import check_growth, flag, number

__all__ = ["ATTACK", "FAB", "shortest"]

_LOGITS = "fab needs an objective whose scores have logits: that of a classifier"
_TINY = 1e-12
_LATE = 1e30
_SLACK = 5e-7
"""Half of what the check of the returned images allows."""


@final
@dataclass(frozen=True, kw_only=True)
class FAB(SearchAttack, Stoppable):
    """Fast adaptive boundary attack (Croce & Hein 2020, arXiv:1907.02044, algorithm 1).

    With ``z`` the logits, ``y`` the label and ``x0`` the clean image, a step from ``x``

    1. takes the class ``s`` whose linearised decision boundary, the plane ``(z[s] - z[y]) + <grad (z[s] - z[y]),
       . - x> = 0``, is nearest: least ``|z[s] - z[y]| / |grad (z[s] - z[y])|``, in the dual norm;
    2. finds the shortest changes ``d`` of ``x`` and ``d0`` of ``x0`` that lead onto the plane within [0, 1];
    3. goes to ``(1 - a) (x + eta d) + a (x0 + eta d0)``, cut to [0, 1], ``a = min(|d| / (|d| + |d0|), alpha_max)``.

    A point that fools is followed by one nearer to the clean image, ``(1 - beta) x0 + beta x``, which is a step of its
    own here; one that fools within the ball ends the search, unless the nearest one is wanted. The first search starts
    at the clean image, the others at a random one ``eps / 2`` away. The bisection at the end of the paper's algorithm
    is left out, as in AutoAttack.

    The nearest class takes the gradient of every logit: one backward pass per class. With the loss
    ``margin-targeted`` the search is FAB-T (Croce & Hein 2020, arXiv:2003.01690): every restart starts at the clean
    image and goes for a class of its own, with one backward pass per step; AutoAttack takes nine restarts.

    Args:
        norm: ``linf`` or ``l2``.
        eps: radius of the ball in pixel units (4/255); at most 1 for ``linf``.
        steps: steps per restart, those towards the clean image included.
        restarts: how often a sample that is not fooled starts again, the first time included; with the loss
            ``margin-targeted``, how many classes it tries.
        loss: ``margin-targeted`` for FAB-T; any other only ranks the points of the ball that do not fool.
        alpha_max: largest pull ``a`` towards the clean image.
        eta: overshoot, so that a step crosses the boundary.
        beta: share of the distance from the clean image that is kept after a point that fools.
        nearest: go on after a success, to the end of all restarts, and return the nearest one.
        growth: where progress that grows like ``iteration ** growth`` from now on would not suffice, a search is given
            up; one sample in sixteen goes on, as a check. None: every search goes on to its end.

    Raises:
        SettingsError: a setting is out of range.
    """

    name: ClassVar[str] = "fab"
    _raises_loss: ClassVar[bool] = False
    steps: int = 100
    loss: str = "margin"
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    nearest: bool = False
    growth: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_growth(self.growth)
        if self.targeted and self.loss != "margin-targeted":
            raise SettingsError(f"fab goes for a class by the loss 'margin-targeted' only, got {self.loss!r}")
        number("alpha_max", self.alpha_max, 0, 1, above=True)
        number("eta", self.eta, 1)
        number("beta", self.beta, 0, 1, above=True)
        flag("nearest", self.nearest)

    @property
    def _needs_jacobian(self) -> bool:
        """Whether a step needs the gradient of every logit: it does unless the class to go for is given."""
        return not self.targeted

    @property
    def _stops_when_fooled(self) -> bool:
        """Whether the first success ends the search: not where the nearest one is wanted."""
        return not self.nearest

    @property
    def _begins_clean(self) -> bool:
        """Whether the first restart begins at the clean image: that of every search."""
        return True

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> State:
        """A direction from the clean image, if there are random starts."""
        if self.targeted or self.restarts == 1:
            return {}
        return {"direction": self.ball.draw(shape, generator)}

    def start(self, clean: Pixels, drawn: State) -> tuple[Pixels, State]:
        """A random point half way to the boundary of the ball, or the clean image."""
        if "label" not in drawn:
            raise InputError(_LOGITS)
        state = {"label": drawn["label"], "returned": torch.zeros_like(drawn["label"], dtype=torch.bool)}
        if "direction" not in drawn:
            return clean, state
        return (clean + self.eps / 2 * self.ball.unit(drawn["direction"])).clamp(0, 1), state

    def step(self, clean: Pixels, current: Evaluation, state: State, iteration: Index) -> tuple[Pixels, State]:
        """Onto the boundary and a bit beyond, or towards the clean image where a new point fools."""
        gap, normal = (current.loss, current.gradient) if self.targeted else self._nearest(current, state["label"])
        change = shortest(self.norm, current.points, gap, normal)
        gap = gap + (normal * (clean - current.points)).flatten(1).sum(1)
        clean_change = shortest(self.norm, clean, gap, normal)
        here, there = (self.ball.distance(each, torch.zeros_like(clean)) for each in (change, clean_change))
        pull = (here / (here + there).clamp(min=_TINY)).clamp(max=self.alpha_max)[:, None, None, None]
        ahead = (1 - pull) * (current.points + self.eta * change) + pull * (clean + self.eta * clean_change)
        back = current.fooled & ~state["returned"]
        points = torch.where(back[:, None, None, None], clean + self.beta * (current.points - clean), ahead.clamp(0, 1))
        return points, {"label": state["label"], "returned": back}

    def _succeeded(self, clean: Pixels, current: Evaluation) -> Flags:
        """Points that fool within the ball."""
        return current.fooled & self._inside(self.ball.distance(current.points, clean))

    def _value(self, clean: Pixels, current: Evaluation) -> PerSample:
        """The loss, or the nearness of a success where that is wanted; a point outside the ball is worth nothing."""
        distance = self.ball.distance(current.points, clean)
        value = torch.where(current.fooled, -distance, current.loss) if self.nearest else current.loss
        return value.where(self._inside(distance), -torch.inf)

    def _reach(self, clean: Pixels, current: Evaluation, margin: PerSample, clean_margin: PerSample) -> PerSample:
        """The radius over the distance of a point that fools."""
        return (self.eps / self.ball.distance(current.points, clean)).where(current.fooled, 0.0)

    def _inside(self, distance: PerSample) -> Flags:
        return distance <= self.eps + _SLACK * max(1, self.eps)

    def _nearest(self, current: Evaluation, label: Index) -> tuple[PerSample, Pixels]:
        """Value and gradient of ``z[s] - z[y]`` for the class ``s`` whose boundary is nearest."""
        if current.logits is None:
            raise InputError(_LOGITS)
        rows, logits = torch.arange(len(label), device=label.device), current.logits.to(current.points)
        gaps = logits - logits.gather(1, label[:, None])
        normals = current.gradient - current.gradient[rows, label][:, None]
        slopes = normals.flatten(2).abs().sum(2) if self.norm == "linf" else normals.flatten(2).square().sum(2).sqrt()
        distances = (gaps.abs() / slopes.clamp(min=_TINY)).scatter(1, label[:, None], torch.inf)
        nearest = distances.argmin(1)
        return gaps[rows, nearest], normals[rows, nearest]


def shortest(norm: Norm, points: Pixels, gap: PerSample, normal: Pixels) -> Pixels:
    """Shortest change of each point that leads onto a plane and stays in [0, 1] (Croce & Hein 2020, section 2).

    All pixels move together towards the plane, at one speed (``linf``) or each at a speed in proportion to the
    plane's slope there (``l2``); a pixel that hits the border of [0, 1] stays there, and all stop on the plane. The
    distance covered is concave and piecewise linear in time, so that Newton's method from time 0 goes from piece to
    piece, never beyond the end, and stops after a few.

    Args:
        norm: ``linf`` or ``l2``.
        points: images in [0, 1].
        gap: the plane of a point ``x`` is ``{z: gap + <normal, z - x> = 0}``.
        normal: see ``gap``; zero: the point stays where it is.

    Returns:
        The changes; where the plane does not meet [0, 1], those to the point of [0, 1] that is nearest to it.
    """
    scale = normal.abs().amax((1, 2, 3), keepdim=True)
    way = -normal * gap.sign()[:, None, None, None] / scale.where(scale > 0, 1.0)
    slope = way.abs().flatten(1)
    room = torch.where(way > 0, 1 - points, points).flatten(1)
    speed = slope.sign() if norm == "linf" else slope
    hit = torch.where(speed > 0, room / speed, 0).clamp(max=_LATE)
    distance, rates = gap.abs() / scale.where(scale > 0, 1.0).flatten(), slope * speed
    at_border, before = hit <= 0, None
    # A sample whose pixels have all stayed where they were gets the same time again, whatever the others do.
    while before is None or not torch.equal(at_border, before):
        left = distance - (slope * room * at_border).sum(1)
        rate = (rates * ~at_border).sum(1)
        time = torch.where(rate > 0, left / rate, hit.amax(1)).clamp(min=0)[:, None]
        before, at_border = at_border, at_border | (hit <= time)
    return torch.minimum(time * speed, room).view_as(points) * way.sign()


ATTACK = FAB
