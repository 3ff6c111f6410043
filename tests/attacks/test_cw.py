"""The attack of Carlini and Wagner against a reference from the paper: one sample at a time, in float64, in NumPy."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import pairwise

import numpy as np
import pytest
import torch
from tests.attacks.landscape import CLASSES, Landscape, cast, walk
from torch import Tensor

from radapt.attacks import ClassificationObjective, EmbeddingObjective, make
from radapt.attacks._search import Evaluation
from radapt.attacks.cw import CW
from radapt.errors import SettingsError

CLEAN = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(2)).double()
CLEAN[0, 0, 0] = 0.0
CLEAN[1, 0, 0] = 1.0


@pytest.mark.parametrize("kappa", [0.0, 1.0])
def test_every_linf_step_descends_the_clipped_margin(kappa: float) -> None:
    land, uniform = Landscape(CLEAN), torch.rand(CLEAN.shape).double()
    path = walk(CW(eps=0.06, steps=10, kappa=kappa), CLEAN, {"uniform": uniform}, land.margin, 10)
    still = 0
    for sample in range(6):
        clean = CLEAN[sample].numpy()
        x = cast("linf", 0.06, clean + 0.06 * (2 * uniform[sample].numpy() - 1), clean)
        for k in range(10):
            assert np.abs(path[k, sample] - x).max() < 1e-12
            margin, gradient = land.margin(sample, x)
            still += margin >= kappa
            x = cast("linf", 0.06, x + 2.5 * 0.06 / 10 * np.sign(gradient) * (margin < kappa), clean)
    # The case is worth nothing unless the clipping comes into play, and does not always.
    assert 0 < still < 60


def reference(land: Landscape, sample: int, attack: CW) -> tuple[np.ndarray, np.ndarray | None, list[float]]:
    """All points of one sample, the nearest adversarial one, and every value of c (section VI-A)."""
    clean, eps, kappa = CLEAN[sample].numpy(), attack.eps, attack.kappa
    low, high, c = 0.0, np.inf, attack.initial_c
    points, nearest, values = [clean], None, []
    for _ in range(attack.search_steps):
        values.append(c)
        w = np.arctanh((2 * clean - 1) * (1 - 1e-6))
        mean, spread, hit = np.zeros_like(w), np.zeros_like(w), False
        for t in range(1, attack.steps // attack.search_steps + 1):
            x = (np.tanh(w) + 1) / 2
            margin, gradient = land.margin(sample, x)
            slope = (2 * (x - clean) - c * gradient * (margin < kappa)) * (1 - np.tanh(w) ** 2) / 2
            mean = 0.9 * mean + 0.1 * slope
            spread = 0.999 * spread + 0.001 * slope**2
            w = w - attack.lr * (mean / (1 - 0.9**t)) / (np.sqrt(spread / (1 - 0.999**t)) + 1e-8)
            x = (np.tanh(w) + 1) / 2
            points.append(x)
            if len(points) <= attack.steps and land.margin(sample, x)[0] >= kappa:
                hit = True
                if nearest is None or ((x - clean) ** 2).sum() < ((nearest - clean) ** 2).sum():
                    nearest = x
        low, high = (low, min(high, c)) if hit else (max(low, c), high)
        c = (low + high) / 2 if high < np.inf else 10 * c
    # The last point is the nearest one brought into the ball.
    points[-1] = cast("l2", eps, points[-1] if nearest is None else nearest, clean)
    return np.stack(points), nearest, values


@pytest.mark.parametrize("kappa", [0.0, 0.5])
def test_every_l2_step_is_that_of_the_paper(kappa: float) -> None:
    land = Landscape(CLEAN)
    attack = CW(norm="l2", eps=0.5, steps=48, search_steps=6, initial_c=0.03, lr=0.02, kappa=kappa)
    path = walk(attack, CLEAN, {}, land.margin, 48)
    downs = 0
    for sample in range(6):
        expected, _, values = reference(land, sample, attack)
        assert np.abs(path[:, sample] - expected).max() < 2e-6
        downs += sum(after < before for before, after in pairwise(values))
    assert 0 < downs < 30


@pytest.mark.slow
def test_the_nearest_success_in_the_ball_is_the_result() -> None:
    land, eps = Landscape(CLEAN), 0.03
    attack = CW(norm="l2", eps=eps, steps=120, search_steps=4, initial_c=0.1)
    objective = ClassificationObjective(land.logits, land.labels, CLASSES)
    outcome = attack(objective, CLEAN.float(), batch_size=4)
    verdicts = set()
    for sample in range(6):
        points, nearest, _ = reference(land, sample, attack)
        clean = CLEAN[sample].numpy()
        assert nearest is not None
        far = float(np.sqrt(((nearest - clean) ** 2).sum()))
        near = far <= eps or land.margin(sample, points[-1])[0] >= 0
        assert bool(outcome.fooled[sample]) == near
        if far <= eps:
            assert float(outcome.distance[sample]) == pytest.approx(far, abs=2e-3)
        verdicts.add(near)
    assert verdicts == {True, False}
    assert outcome.iterations.tolist() == [120] * 6


def linear(rows: int = 4) -> tuple[ClassificationObjective, Tensor, Tensor]:
    """Two classes, a plane between them, and the distance of every clean image from it."""
    generator = torch.Generator().manual_seed(5)
    clean = 0.35 + 0.3 * torch.rand(rows, 3, 4, 4, generator=generator)
    normal = torch.randn(48, generator=generator)
    normal = 10 * normal / normal.norm()
    offset = -(clean.flatten(1) @ normal).min() + 1.0

    def logits(pixels: Tensor) -> Tensor:
        value = pixels.flatten(1) @ normal.to(pixels) + offset
        return torch.stack([value, -value], 1)

    value = logits(clean)[:, 0]
    return ClassificationObjective(logits, torch.zeros(rows, dtype=torch.long), 2), clean, value / 10


@pytest.mark.slow
@pytest.mark.parametrize("kappa", [0.0, 1.0])
def test_l2_finds_the_nearest_point_of_a_plane(kappa: float) -> None:
    objective, clean, distance = linear()
    # The margin is minus twice the value, whose slope is 10.
    distance = distance + kappa / 20
    outcome = CW(norm="l2", eps=2.0, steps=540, kappa=kappa)(objective, clean, batch_size=4)
    assert outcome.fooled.all()
    assert (outcome.distance >= 0.999 * distance).all()
    assert (outcome.distance <= 1.05 * distance).all()
    assert (outcome.loss >= kappa - 1e-4).all()


def test_the_last_point_is_the_nearest_one_found_brought_into_the_ball() -> None:
    objective, clean, _ = linear()

    def attack(eps: float) -> CW:
        return CW(norm="l2", eps=eps, steps=10, search_steps=1, initial_c=10.0, lr=0.1)

    loose = attack(3.0)(objective, clean, batch_size=4)
    # Where the way from the clean image to the point found crosses the plane: the steps are long and end well beyond.
    share = loose.clean_loss / (loose.clean_loss - loose.loss)
    assert (share < 0.98).all()
    for sample in range(4):
        for factor, fools in ((1.01, True), (0.99, False)):
            tight = attack(factor * float(share[sample] * loose.distance[sample]))
            assert bool(tight(objective, clean, batch_size=4).fooled[sample]) == fools


def test_l2_does_not_fool_from_too_small_a_ball_and_keeps_the_largest_margin_there() -> None:
    objective, clean, distance = linear()
    outcome = CW(norm="l2", eps=0.8 * float(distance.min()), steps=90)(objective, clean, batch_size=4)
    assert not outcome.fooled.any()
    # The best of the ball: a move of eps straight to the plane.
    best = -2 * 10 * (distance - 0.8 * distance.min())
    assert (outcome.loss <= best + 1e-4).all()
    assert (outcome.loss - outcome.clean_loss >= 0.8 * (best - outcome.clean_loss)).all()


@pytest.mark.parametrize(("steps", "search_steps"), [(20, 3), (9, 9), (11, 4), (7, 1)])
def test_the_values_of_c_share_the_steps_equally(steps: int, search_steps: int) -> None:
    # Out of reach, so that every value is larger than the one before.
    attack = CW(norm="l2", eps=1.0, steps=steps, search_steps=search_steps, kappa=1e3)
    land = Landscape(CLEAN)
    points, state = attack.start(CLEAN, {})
    values = []
    for k in range(steps):
        losses, gradients = zip(*(land.margin(i, point.numpy()) for i, point in enumerate(points)), strict=True)
        gradient, never = torch.from_numpy(np.stack(gradients)), torch.zeros(6, dtype=torch.bool)
        current = Evaluation(points, torch.tensor(losses).double(), never, gradient)
        points, state = attack.step(CLEAN, current, state, torch.full((6,), k))
        values.append(round(float(state["c"][0]), 12))
    counts = [values.count(value) for value in sorted(set(values))]
    assert values == sorted(values)
    assert len(counts) == search_steps
    assert max(counts) - min(counts) <= 1


def test_linf_stops_at_the_first_success_with_the_confidence_asked_for() -> None:
    land = Landscape(CLEAN)
    objective = ClassificationObjective(land.logits, land.labels, CLASSES)
    outcomes = [CW(eps=0.1, steps=40, kappa=kappa)(objective, CLEAN.float(), batch_size=6) for kappa in (0.0, 2.0, 1e3)]
    assert outcomes[0].fooled.all()
    reached = outcomes[1].iterations < 40
    assert reached.sum() > 0
    assert (outcomes[1].loss[reached] >= 2.0 - 1e-4).all()
    assert (outcomes[1].iterations >= outcomes[0].iterations).all()
    # A confidence out of reach: the largest margin is kept, and what fools counts as fooled.
    assert outcomes[2].iterations.tolist() == [40] * 6
    assert outcomes[2].fooled.all()
    assert (outcomes[2].loss >= outcomes[1].loss - 1e-4).float().mean() > 0.5


def test_linf_with_a_confidence_out_of_reach_is_pgd_on_the_margin() -> None:
    land, uniform = Landscape(CLEAN), torch.rand(CLEAN.shape).double()
    attacks = [make("cw", eps=0.1, steps=5, kappa=1e3), make("pgd", eps=0.1, steps=5)]
    paths = [walk(attack, CLEAN, {"uniform": uniform}, land.margin, 5) for attack in attacks]
    assert np.array_equal(*paths)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kappa": -1.0}, "kappa must be a number of at least 0, got -1.0"),
        ({"kappa": float("nan")}, "kappa must be a number of at least 0, got nan"),
        ({"initial_c": 0.0}, "initial_c must be a number above 0, got 0.0"),
        ({"lr": -0.01}, "lr must be a number above 0, got -0.01"),
        ({"search_steps": 0}, "search_steps must be a whole number of at least 1, got 0"),
        ({"norm": "l2", "steps": 4}, "every value of c needs a step, but steps is 4 and search_steps 5"),
        ({"norm": "l2", "restarts": 2}, "restarts of the l2 search are all the same"),
        ({"loss": "ce"}, "cw has no loss 'ce'. Allowed: margin"),
        ({"loss": "margin-targeted"}, "cw has no loss 'margin-targeted'; did you mean 'margin'"),
        ({"kapa": 1.0}, "no setting 'kapa'; did you mean 'kappa'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make("cw", eps=0.1, **settings)


def test_an_objective_without_a_margin_is_refused() -> None:
    objective = EmbeddingObjective(lambda pixels: pixels.flatten(1), CLEAN.float().flatten(1))
    with pytest.raises(SettingsError, match="unknown loss 'margin'"):
        make("cw", eps=0.1)(objective, CLEAN.float())


@pytest.mark.parametrize(("flat", "warned"), [(1.0, True), (0.92, True), (0.8, False)])
def test_l2_warns_of_images_that_are_all_black_and_white(flat: float, warned: bool) -> None:
    """Nearly all values at 0 and 1, where tanh is flat: the image hardly moves, whatever the model."""
    noise = torch.rand(2, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    clean = torch.where(noise < flat, (noise < flat / 2).float(), torch.tensor(0.5))
    clean[1] = 0.5

    def logits(x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3))
        return torch.stack([2 - mean, mean, 0 * mean], 1)

    objective = ClassificationObjective(logits, torch.zeros(2, dtype=torch.int64), 3)
    attack = CW(norm="l2", eps=0.5, steps=10)
    with pytest.warns(UserWarning, match="1 of 2 images are nearly all black and") if warned else nullcontext():
        attack(objective, clean)
    CW(norm="linf", eps=0.1, steps=2)(objective, clean)
