"""A watched attack: the same to the bit, every pass shown, and ended by whoever watches."""

from __future__ import annotations

import pytest
import torch
from tests.attacks.conftest import CLASSES, SIDE
from torch import Tensor, nn

from radapt.attacks import ClassificationObjective, Score, Watched, make
from radapt.errors import RadaptError

N = 5
PIXELS = torch.rand(N, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def objective(model: nn.Module) -> ClassificationObjective:
    with torch.no_grad():
        labels = model(PIXELS).argmax(1)
    return ClassificationObjective(model, labels, CLASSES)


@pytest.mark.parametrize("name", ["pgd", "apgd", "square"])
def test_the_attack_is_the_same_to_the_bit(model: nn.Module, name: str) -> None:
    attack = make(name, eps=0.02, steps=5)
    seen: list[int] = []
    watched = Watched(objective(model), lambda pixels, index, score, graded: seen.append(len(index)))
    alone, shown = attack(objective(model), PIXELS), attack(watched, PIXELS)
    assert torch.equal(alone.pixels, shown.pixels)
    assert torch.equal(alone.fooled, shown.fooled)
    assert sum(seen) >= int(shown.forwards.sum())


def test_passes_with_gradients_are_the_steps_and_carry_none(model: nn.Module) -> None:
    graded: list[Tensor] = []

    def watch(pixels: Tensor, index: Tensor, score: Score, with_gradient: bool) -> None:
        assert not any(each is not None and each.requires_grad for each in (pixels, *score))
        if with_gradient:
            graded.append(pixels)

    found = make("pgd", eps=1e-4, steps=7)(Watched(objective(model), watch), PIXELS)
    assert not found.fooled.any()
    assert len(graded) == 7
    assert sum(map(len, graded)) == int(found.backwards.sum())


def test_an_error_of_the_watcher_ends_the_attack_and_comes_out(model: nn.Module) -> None:
    class _StopError(RadaptError):
        pass

    count = 0

    def watch(pixels: Tensor, index: Tensor, score: Score, with_gradient: bool) -> None:
        nonlocal count
        count += 1
        if count == 4:
            raise _StopError("enough")

    with pytest.raises(_StopError, match="enough"):
        make("pgd", eps=1e-4, steps=100)(Watched(objective(model), watch), PIXELS)
    assert count == 4
