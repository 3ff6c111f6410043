"""PGD against closed forms, its momentum against the published recursion in float64 and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.attacks.landscape import CLASSES, Landscape, cast, walk
from torch import Tensor

from radapt.attacks import ClassificationObjective, Objective, Score, make
from radapt.attacks._search import Evaluation
from radapt.attacks.pgd import PGD
from radapt.errors import SettingsError


class Slope(Objective):
    """A loss linear in the pixels, with a slope of its own for every sample; nothing is ever fooled."""

    losses = ("slope",)

    def __init__(self, slopes: Tensor) -> None:
        self.slopes, self.size = slopes, len(slopes)
        self.seen: list[Tensor] = []

    def __call__(self, pixels: Tensor, index: Tensor, *, loss: str = "") -> Score:
        self.seen.append(pixels.detach().clone())
        value = (pixels * self.slopes[index]).flatten(1).sum(1)
        return Score(value, torch.zeros(len(value), dtype=torch.bool))


@pytest.fixture
def slopes() -> Tensor:
    return torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("restarts", [1, 2])
def test_linf_reaches_the_corner_of_a_linear_loss(slopes: Tensor, restarts: int) -> None:
    clean = 0.1 + 0.8 * torch.rand(slopes.shape)
    outcome = PGD(eps=0.05, restarts=restarts)(Slope(slopes), clean, batch_size=3)
    assert torch.allclose(outcome.pixels, clean + 0.05 * slopes.sign(), atol=1e-7)
    expected = (clean * slopes).flatten(1).sum(1) + 0.05 * slopes.abs().flatten(1).sum(1)
    assert torch.allclose(outcome.loss, expected, rtol=1e-5)


def test_linf_reaches_the_corner_of_the_box_where_the_ball_sticks_out(slopes: Tensor) -> None:
    clean = torch.rand(slopes.shape).round()
    outcome = PGD(eps=0.05)(Slope(slopes), clean, batch_size=3)
    assert torch.allclose(outcome.pixels, (clean + 0.05 * slopes.sign()).clamp(0, 1), atol=1e-7)


def test_l2_reaches_the_top_of_a_linear_loss(slopes: Tensor) -> None:
    clean = 0.4 + 0.2 * torch.rand(slopes.shape)
    outcome = PGD(norm="l2", eps=0.3, step_size=0.3, steps=40)(Slope(slopes), clean, batch_size=3)
    lengths = slopes.double().flatten(1).norm(dim=1)
    expected = clean.double() + 0.3 * slopes.double() / lengths[:, None, None, None]
    # Steps as long as the radius halve the angle to the top; what is left is that the loss is flat there in float32.
    assert torch.allclose(outcome.pixels.double(), expected, atol=1e-4)


def test_l2_nearly_reaches_the_top_with_the_default_step(slopes: Tensor) -> None:
    clean = 0.4 + 0.2 * torch.rand(slopes.shape)
    outcome = PGD(norm="l2", eps=0.3)(Slope(slopes), clean, batch_size=3)
    gain = outcome.loss - (clean * slopes).flatten(1).sum(1)
    assert (gain > 0.95 * 0.3 * slopes.flatten(1).norm(dim=1)).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_one_step_from_the_clean_image_has_the_length_of_a_step(slopes: Tensor, norm: str) -> None:
    clean = torch.full_like(slopes, 0.5)
    outcome = PGD(norm=norm, eps=0.2, steps=1, step_size=0.07, random_start=False)(Slope(slopes), clean, batch_size=2)
    assert torch.allclose(outcome.distance, torch.full((5,), 0.07), atol=1e-6)
    direction = (outcome.pixels - clean) / 0.07
    expected = slopes.sign() if norm == "linf" else slopes / slopes.flatten(1).norm(dim=1)[:, None, None, None]
    assert torch.allclose(direction, expected, atol=1e-5)


def test_the_default_step_is_two_and_a_half_balls_over_the_steps(slopes: Tensor) -> None:
    clean = torch.full_like(slopes, 0.5)
    objective = Slope(slopes)
    PGD(eps=0.2, steps=10, random_start=False)(objective, clean, batch_size=5)
    assert torch.allclose((objective.seen[2] - objective.seen[1]).abs(), torch.tensor(0.05), atol=1e-6)


def first_points(norm: str, count: int) -> Tensor:
    objective = Slope(torch.zeros(count, 3, 2, 2))
    PGD(norm=norm, eps=0.1, steps=1)(objective, torch.full((count, 3, 2, 2), 0.5), batch_size=count)
    return (objective.seen[1] - 0.5).double().flatten(1) / 0.1


def test_linf_starts_uniformly_in_the_cube() -> None:
    points = first_points("linf", 400)
    assert points.abs().max() <= 1 + 1e-5
    levels = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9]).double()
    assert torch.allclose(torch.quantile(points.flatten()[:4000], levels), 2 * levels - 1, atol=0.05)


def test_l2_starts_uniformly_in_the_ball() -> None:
    points = first_points("l2", 1500)
    radius = points.norm(dim=1)
    assert radius.max() <= 1 + 1e-5
    # The volume within radius r is r^12 in 12 dimensions, so r^12 is uniform; and no direction is preferred.
    levels = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9]).double()
    assert torch.allclose(torch.quantile(radius**12, levels), levels, atol=0.05)
    assert points.mean(0).abs().max() < 0.04


def test_restarts_start_elsewhere_and_keep_the_best(slopes: Tensor) -> None:
    objective = Slope(slopes)
    clean = torch.full_like(slopes, 0.5)
    # Steps too short to matter: what counts is where a restart starts.
    one = PGD(eps=0.2, steps=1, step_size=1e-6)(objective, clean, batch_size=5)
    four = PGD(eps=0.2, steps=1, step_size=1e-6, restarts=4)(objective, clean, batch_size=5)
    assert (four.loss >= one.loss).all()
    assert (four.loss > one.loss).any()
    assert torch.equal(four.iterations, torch.full((5,), 4))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("momentum", [0.0, 0.7, 1.0])
def test_every_step_with_momentum_is_that_of_the_paper(norm: str, momentum: float) -> None:
    clean = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(2)).double()
    land, eps, size = Landscape(clean), {"linf": 0.06, "l2": 0.4}[norm], {"linf": 0.02, "l2": 0.15}[norm]
    attack = PGD(norm=norm, eps=eps, step_size=size, random_start=False, momentum=momentum)
    path = walk(attack, clean, {}, land.entropy, 8)
    for sample in range(5):
        x, gathered = clean[sample].numpy(), np.zeros((3, 4, 4))
        for k in range(8):
            gradient = land.entropy(sample, x)[1]
            gathered = momentum * gathered + gradient / np.abs(gradient).sum()
            direction = np.sign(gathered) if norm == "linf" else gathered / np.sqrt((gathered**2).sum())
            x = cast(norm, eps, x + size * direction, clean[sample].numpy())
            assert np.abs(path[k + 1, sample] - x).max() < 1e-12


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_without_momentum_a_step_is_along_the_gradient_bit_for_bit(slopes: Tensor, norm: str) -> None:
    clean, attack = torch.rand(slopes.shape), PGD(norm=norm, eps=0.1)
    current = Evaluation(clean, torch.zeros(5), torch.zeros(5, dtype=torch.bool), slopes)
    points, state = attack.step(clean, current, {}, torch.zeros(5, dtype=torch.long))
    assert torch.equal(points, attack.ball.project(clean + 2.5 * 0.1 / 20 * attack.ball.ascent(slopes), clean))
    assert state == {}


def test_momentum_survives_gradients_that_are_tiny_or_zero(slopes: Tensor) -> None:
    clean, attack = torch.full_like(slopes, 0.5), PGD(eps=0.1, step_size=0.02, momentum=1.0, random_start=False)
    points, state = attack.start(clean, {})
    for factor in (1e-36, 0.0):
        current = Evaluation(points, torch.zeros(5), torch.zeros(5, dtype=torch.bool), factor * slopes)
        points, state = attack.step(clean, current, state, torch.zeros(5, dtype=torch.long))
    assert torch.allclose(points, clean + 0.04 * slopes.sign(), atol=1e-6)


def test_momentum_of_a_sample_ends_with_its_restart() -> None:
    clean = torch.rand(9, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    land = Landscape(clean)
    objective = ClassificationObjective(land.logits, land.labels, CLASSES)
    outcomes = [PGD(eps=0.02, steps=6, momentum=1.0, restarts=2)(objective, clean, batch_size=n) for n in (2, 9)]
    assert torch.allclose(outcomes[0].pixels, outcomes[1].pixels, atol=1e-6)


def test_targets_make_restarts_from_the_clean_image_differ(slopes: Tensor) -> None:
    clean = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    land = Landscape(clean)
    objective = ClassificationObjective(land.logits, land.labels, CLASSES, stop=False)
    attack = make("pgd", eps=0.02, steps=2, restarts=4, random_start=False, loss="margin-targeted")
    assert attack(objective, clean, batch_size=4).iterations.tolist() == [8] * 4


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(SettingsError, match="step_size must be above 0"):
        make("pgd", eps=0.1, step_size=-0.1)
    with pytest.raises(SettingsError, match="are all the same"):
        make("pgd", eps=0.1, restarts=2, random_start=False)
    for momentum in (-0.1, float("nan"), float("inf")):
        with pytest.raises(SettingsError, match="momentum must be a number of at least 0, got"):
            make("pgd", eps=0.1, momentum=momentum)
