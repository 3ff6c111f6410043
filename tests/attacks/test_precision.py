"""Gradients in half precision: successes are verified in float32, and the survivors attacked again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from radapt.attacks import ClassificationObjective, Objective, Score, make


class Watch(Objective):
    """A classifier's objective that notes in which precision it was asked for gradients and for verdicts."""

    def __init__(self, inner: ClassificationObjective) -> None:
        self.inner, self.size, self.losses = inner, inner.size, inner.losses
        self.seen: list[tuple[str, str]] = []

    def __call__(self, pixels: Tensor, index: Tensor, *, loss: str = "") -> Score:
        kind = "gradient" if pixels.requires_grad else "verdict"
        on = torch.is_autocast_enabled("cpu")
        self.seen.append((kind, str(torch.get_autocast_dtype("cpu")).removeprefix("torch.") if on else "float32"))
        return self.inner(pixels, index, loss=loss)


def build(seed: int) -> tuple[nn.Module, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(128, 5))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    pixels = torch.rand(12, 3, 6, 6, generator=generator)
    with torch.no_grad():
        labels = model(pixels).argmax(1)
    return model, pixels, labels


def test_gradients_are_in_half_precision_and_verdicts_in_float32() -> None:
    model, pixels, labels = build(0)
    objective = Watch(ClassificationObjective(model, labels, 5))
    outcome = make("pgd", eps=0.02, steps=5)(objective, pixels, precision=torch.bfloat16, batch_size=4)
    assert set(objective.seen) == {("gradient", "bfloat16"), ("gradient", "float32"), ("verdict", "float32")}
    first = objective.seen.index(("gradient", "float32"))
    assert ("gradient", "bfloat16") not in objective.seen[first:]
    with torch.no_grad():
        assert torch.equal(outcome.fooled, model(outcome.pixels).argmax(1) != labels)
    assert outcome.stage.max() <= 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_survivors_fare_as_in_float32(seed: int) -> None:
    model, pixels, labels = build(seed)
    attack = make("apgd", eps=0.03, steps=12)
    full = attack(ClassificationObjective(model, labels, 5), pixels, batch_size=4)
    mixed = attack(ClassificationObjective(model, labels, 5), pixels, precision=torch.bfloat16, batch_size=4)
    # Whatever float32 fools is fooled: by the half-precision pass or by the float32 pass that follows.
    assert (mixed.fooled | ~full.fooled).all()
    again = mixed.stage == 1
    assert torch.equal(mixed.pixels[again], full.pixels[again])
    assert (mixed.forwards[~mixed.fooled] > full.forwards[~mixed.fooled]).all()


class Vain(Objective):
    """Says it is fooled wherever half precision is on, and never is."""

    losses = ("sum",)
    size = 4

    def __call__(self, pixels: Tensor, index: Tensor, *, loss: str = "") -> Score:
        half = torch.is_autocast_enabled("cpu")
        return Score(pixels.flatten(1).sum(1), torch.full((len(pixels),), half))


def test_a_success_of_half_precision_alone_does_not_count() -> None:
    outcome = make("pgd", eps=0.1, steps=3)(Vain(), torch.full((4, 3, 2, 2), 0.5), precision=torch.bfloat16)
    assert not outcome.fooled.any()
    assert outcome.unconfirmed.all()
    assert outcome.iterations.tolist() == [3, 3, 3, 3]
