"""Projections against their definition in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from radapt.attacks._ball import NORMS, Ball, unit

draws = st.tuples(st.sampled_from(NORMS), st.integers(0, 10**6), st.floats(1e-3, 1), st.floats(1e-3, 50))


def case(seed: int, spread: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clean = torch.rand(3, 3, 4, 5, generator=generator)
    clean[0] = clean[0].round()
    return clean, clean + spread * torch.randn(clean.shape, generator=generator)


def length(norm: str, change: Tensor) -> Tensor:
    change = change.double().flatten(1)
    return change.abs().amax(1) if norm == "linf" else change.norm(dim=1)


@given(draws)
@settings(max_examples=80)
def test_a_projection_is_inside_and_stays_where_it_is(draw: tuple[str, int, float, float]) -> None:
    norm, seed, eps, spread = draw
    clean, points = case(seed, spread)
    ball = Ball(norm, eps)
    inside = ball.project(points, clean)
    assert (length(norm, inside.double() - clean.double()) <= eps + 1e-6).all()
    assert inside.min() >= 0
    assert inside.max() <= 1
    assert torch.allclose(ball.project(inside, clean), inside, atol=1e-6)
    assert torch.allclose(ball.distance(inside, clean).double(), length(norm, inside - clean), atol=1e-6)


@given(draws)
@settings(max_examples=80)
def test_points_inside_are_not_moved(draw: tuple[str, int, float, float]) -> None:
    norm, seed, eps, spread = draw
    clean, points = case(seed, spread)
    change = points - clean
    near = (clean + change * (0.9 * eps / length(norm, change).float())[:, None, None, None]).clamp(0, 1)
    assert torch.allclose(Ball(norm, eps).project(near, clean), near, atol=1e-7)


@given(draws)
@settings(max_examples=80)
def test_a_projection_follows_its_definition(draw: tuple[str, int, float, float]) -> None:
    norm, seed, eps, spread = draw
    clean, points = case(seed, spread)
    x, y = clean.double(), points.double()
    if norm == "linf":
        expected = x + (y - x).clamp(-eps, eps)
    else:
        size = (y - x).flatten(1).norm(dim=1)
        expected = torch.stack([a + (b - a) * min(1.0, eps / n) for a, b, n in zip(x, y, size.tolist(), strict=True)])
    assert torch.allclose(Ball(norm, eps).project(points, clean).double(), expected.clamp(0, 1), atol=2e-6)


@given(st.sampled_from(NORMS), st.integers(0, 10**6))
@settings(max_examples=40)
def test_no_direction_of_unit_length_ascends_faster(norm: str, seed: int) -> None:
    gradient, other = torch.randn(2, 5, 3, 4, 4, generator=torch.Generator().manual_seed(seed)).double()
    best = Ball(norm, 0.1).ascent(gradient)
    other = other / length(norm, other)[:, None, None, None]
    assert torch.allclose(length(norm, best), torch.ones(5, dtype=torch.float64), atol=1e-6)
    assert ((gradient * best).flatten(1).sum(1) >= (gradient * other).flatten(1).sum(1)).all()


def test_a_large_image_is_measured_and_projected_as_precisely_as_a_small_one() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(2, 3, 224, 224, generator=generator)
    far = clean + torch.randn(clean.shape, generator=generator)
    for eps in (0.05, 3.0):
        near = Ball("l2", eps).project(far, clean)
        exact = length("l2", near.double() - clean.double())
        assert (exact <= eps + 1e-7 * max(1, eps)).all()
        assert torch.allclose(Ball("l2", eps).distance(near, clean).double(), exact, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1.0, 1e25])
def test_a_direction_survives_any_scale_of_the_gradient(scale: float) -> None:
    gradient = torch.tensor([3.0, 4.0, 0.0]).reshape(1, 3, 1, 1)
    assert torch.allclose(unit(gradient * scale).flatten(), torch.tensor([0.6, 0.8, 0.0]), atol=1e-5)
    assert not unit(torch.zeros(1, 3, 2, 2)).any()
