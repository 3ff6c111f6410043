"""APGD against a reference written from the paper's algorithm 1: one sample at a time, in float64, in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from radapt.attacks import Objective, Score, make
from radapt.attacks._search import Evaluation
from radapt.attacks.apgd import APGD, checkpoints
from radapt.errors import SettingsError

EPS = {"linf": 0.1, "l2": 0.6}


class Waves(Objective):
    """A smooth loss with many hills, ``sum a sin(w x + b)``, other ones for every sample; evaluated in float64."""

    losses = ("waves",)

    def __init__(self, size: int, rate: float = 20.0) -> None:
        generator = torch.Generator().manual_seed(8)
        self.size = size
        self.height = torch.rand(size, 3, 3, 3, generator=generator).double() + 0.1
        self.rate = rate + 3 * rate * torch.rand(size, 3, 3, 3, generator=generator).double()
        self.phase = 6 * torch.rand(size, 3, 3, 3, generator=generator).double()
        self.seen: dict[int, list[Tensor]] = {}

    def __call__(self, pixels: Tensor, index: Tensor, *, loss: str = "") -> Score:
        for row, sample in enumerate(index.tolist()):
            if sample not in index.tolist()[:row]:
                self.seen.setdefault(sample, []).append(pixels[row].detach().clone())
        return Score(self.value(pixels, index), torch.zeros(len(index), dtype=torch.bool))

    def value(self, pixels: Tensor, index: Tensor) -> Tensor:
        terms = self.height[index] * torch.sin(self.rate[index] * pixels.double() + self.phase[index])
        return terms.flatten(1).sum(1)

    def at(self, sample: int, point: np.ndarray) -> tuple[float, np.ndarray]:
        """Loss and gradient of one point, from the closed form."""
        height, rate, phase = (part[sample].numpy() for part in (self.height, self.rate, self.phase))
        angle = rate * point + phase
        return float((height * np.sin(angle)).sum()), height * rate * np.cos(angle)


def projected(norm: str, eps: float, point: np.ndarray, clean: np.ndarray) -> np.ndarray:
    change = point - clean
    if norm == "linf":
        change = np.clip(change, -eps, eps)
    elif (size := math.sqrt(float((change**2).sum()))) > eps:
        change = change * eps / size
    return np.clip(clean + change, 0, 1)


def reference(
    objective: Waves, sample: int, norm: str, clean: np.ndarray, first: np.ndarray, steps: int, rho: float
) -> tuple[list[np.ndarray], list[str]]:
    """All points of one sample, and what happened at each checkpoint."""
    eps = EPS[norm]
    marks = [0, 0.22]
    while marks[-1] < 1:
        marks.append(marks[-1] + max(marks[-1] - marks[-2] - 0.03, 0.06))
    marks = [math.ceil(round(mark * steps, 9)) for mark in marks]

    def moved(point: np.ndarray, gradient: np.ndarray, eta: float) -> np.ndarray:
        direction = np.sign(gradient) if norm == "linf" else gradient / math.sqrt(float((gradient**2).sum()))
        return projected(norm, eps, point + eta * direction, clean)

    eta = 2 * eps
    points, events = [first], []
    losses, gradient = [objective.at(sample, first)[0]], objective.at(sample, first)[1]
    top, top_loss, top_gradient = first, losses[0], gradient
    sizes, tops = {0: eta}, {0: top_loss}
    x, before, rises = first, first, 0
    for k in range(steps):
        if k > 0:
            loss, gradient = objective.at(sample, x)
            rises += loss > losses[-1]
            losses.append(loss)
            if loss > top_loss:
                top, top_loss, top_gradient = x, loss, gradient
            if k in marks[1:]:
                last = marks[marks.index(k) - 1]
                few = rises < rho * (k - last)
                still = sizes[last] == eta and tops[last] == top_loss
                events.append("few" if few else "still" if still else "go on")
                sizes[k], tops[k], rises = eta, top_loss, 0
                if few or still:
                    sizes[k], eta = -1.0, eta / 2
                    x, gradient, losses[-1] = top, top_gradient, top_loss
        ahead = moved(x, gradient, eta)
        if k > 0:
            ahead = projected(norm, eps, x + 0.75 * (ahead - x) + 0.25 * (x - before), clean)
        before, x = x, ahead
        points.append(x)
    return points, events


CASES = pytest.mark.parametrize(("steps", "rho"), [(100, 0.75), (37, 0.75), (100, 0.4), (100, 0.05)])
# The case is worth nothing unless the rules come into play.
KINDS = {0.75: {"few"}, 0.4: {"few", "go on"}, 0.05: {"still", "go on"}}


@pytest.mark.parametrize(("norm", "rate"), [("linf", 20.0), ("linf", 3.0), ("l2", 3.0)])
@CASES
def test_every_step_is_that_of_the_paper(norm: str, rate: float, steps: int, rho: float) -> None:
    objective, samples = Waves(7, rate), torch.arange(7)
    generator = torch.Generator().manual_seed(2)
    clean = torch.rand(7, 3, 3, 3, generator=generator).double()
    attack = APGD(norm=norm, eps=EPS[norm], steps=steps, rho=rho)
    # In float64, as rounding grows along a path of a hundred steps.
    points, state = attack.start(clean, {"direction": torch.randn(7, 3, 3, 3, generator=generator).double()})
    path = [points]
    for k in range(steps):
        leaf = points.detach().requires_grad_(True)
        loss = objective.value(leaf, samples)
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        current = Evaluation(points, loss.detach(), torch.zeros(7, dtype=torch.bool), gradient)
        points, state = attack.step(clean, current, state, torch.full((7,), k))
        path.append(points)
    kinds = set()
    for sample in range(7):
        first = path[0][sample].numpy()
        expected, events = reference(objective, sample, norm, clean[sample].numpy(), first, steps, rho)
        assert np.abs(torch.stack(path)[:, sample].numpy() - np.stack(expected)).max() < 1e-9
        kinds |= set(events)
    assert kinds >= KINDS[rho]


@CASES
def test_every_point_that_the_model_sees_is_that_of_the_paper(steps: int, rho: float) -> None:
    objective = Waves(7)
    clean = torch.rand(7, 3, 3, 3, generator=torch.Generator().manual_seed(2))
    attack = APGD(eps=EPS["linf"], steps=steps, rho=rho)
    attack(objective, clean, batch_size=7)
    # With seven slots all samples leave together, as nothing is ever fooled; with three they follow each other.
    streamed = attack(Waves(7), clean, batch_size=3)
    for sample in range(7):
        # The clean image comes first, and two fresh passes over the result last.
        seen = torch.stack(objective.seen[sample][1:-2]).double().numpy()
        points, _ = reference(objective, sample, "linf", clean[sample].double().numpy(), seen[0], steps, rho)
        assert len(seen) == steps + 1
        assert np.abs(seen - np.stack(points)).max() < 5e-6
        best = max(points, key=lambda point, s=sample: objective.at(s, point)[0])
        assert np.abs(streamed.pixels[sample].double().numpy() - best).max() < 5e-6


def test_checkpoints_are_those_of_the_paper() -> None:
    assert checkpoints(100) == [0, 22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(10) == [0, 3, 5, 6, 7, 8, 9, 10]
    for steps in range(1, 60):
        marks = checkpoints(steps)
        assert marks == sorted(set(marks))
        assert marks[-1] <= steps


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_starts_on_the_boundary(norm: str) -> None:
    objective = Waves(6)
    clean = torch.full((6, 3, 3, 3), 0.5)
    attack = APGD(norm=norm, eps=0.1, steps=1)
    attack(objective, clean, batch_size=6)
    starts = torch.stack([objective.seen[sample][1] for sample in range(6)])
    assert torch.allclose(attack.ball.distance(starts, clean), torch.full((6,), 0.1), atol=1e-6)
    assert not torch.allclose(starts[0], starts[1])
    if norm == "linf":
        # The largest entry alone is on the boundary; the others are spread.
        assert ((starts - 0.5).abs() < 0.09).float().mean() > 0.5


def test_rho_out_of_range_is_refused() -> None:
    with pytest.raises(SettingsError, match="rho must lie between 0 and 1"):
        make("apgd", eps=0.1, rho=1.5)
