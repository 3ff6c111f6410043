"""A live attack gives its steps, finds what the attack finds, and is over when it is stopped."""

from __future__ import annotations

import threading
from threading import Event

import pytest
import torch
from torch import Tensor

from radapt.attacks import ClassificationObjective, Outcome, make
from radapt.errors import InputError
from radapt.ui._live import ATTACKS, RADII, Step, live, make_attack

PIXELS = torch.full((1, 3, 8, 8), 0.5)


class Classifier:
    """Counts its passes; fooled only by a change that is larger than any radius."""

    def __init__(self) -> None:
        self.passes = 0

    def __call__(self, pixels: Tensor) -> Tensor:
        self.passes += 1
        level = pixels.mean((1, 2, 3))
        return torch.stack([level + 10, level * 3], 1)


def run(steps: int, stop: Event, most: int = 10**9) -> tuple[list[Step], Outcome | None, Classifier]:
    classifier, seen = Classifier(), list[Step]()
    attack = make("pgd", eps=4 / 255, steps=steps)
    running = live(attack, ClassificationObjective(classifier, [0], 2), PIXELS, stop=stop)
    while True:
        try:
            seen.append(next(running))
        except StopIteration as end:
            return seen, end.value, classifier
        if len(seen) == most:
            stop.set()


def attacks() -> int:
    return sum(thread.name == "radapt-attack" for thread in threading.enumerate())


@pytest.mark.usefixtures("unchecked")
def test_it_finds_what_the_attack_finds() -> None:
    seen, found, _ = run(20, Event())
    alone = make("pgd", eps=4 / 255, steps=20)(ClassificationObjective(Classifier(), [0], 2), PIXELS)
    assert found is not None
    assert torch.equal(found.pixels, alone.pixels)
    numbers = [step.number for step in seen]
    assert numbers == sorted(numbers)
    assert numbers[-1] == 20
    assert all(step.steps == 20 and step.pixels.shape == PIXELS.shape for step in seen)


@pytest.mark.usefixtures("unchecked")
def test_stopping_ends_the_computation() -> None:
    seen, found, classifier = run(10**6, Event(), most=2)
    assert found is None
    assert attacks() == 0
    after = classifier.passes
    threading.Event().wait(0.2)
    assert classifier.passes == after < 10**6
    assert seen


@pytest.mark.usefixtures("unchecked")
def test_closing_the_generator_ends_the_computation() -> None:
    classifier = Classifier()
    attack = make("pgd", eps=4 / 255, steps=10**6)
    running = live(attack, ClassificationObjective(classifier, [0], 2), PIXELS, stop=Event())
    next(running)
    running.close()
    assert attacks() == 0


def test_an_error_of_the_model_comes_out() -> None:
    def broken(pixels: Tensor) -> Tensor:
        raise RuntimeError("out of order")

    running = live(make("fgsm", eps=0.1), ClassificationObjective(broken, [0], 2), PIXELS, stop=Event())
    with pytest.raises(InputError, match="out of order"):
        next(running)
    assert attacks() == 0


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_that_is_offered_can_be_made(name: str) -> None:
    assert [make_attack(name, eps).eps for eps in RADII] == [n / 255 for n in (1, 2, 4, 8, 16)]


@pytest.mark.parametrize(("name", "eps"), [("autoattack", "4/255"), ("pgd", "0.5"), ("pgd", "1e9"), ("", "")])
def test_nothing_else_is_run(name: str, eps: str) -> None:
    with pytest.raises(InputError, match="here"):
        make_attack(name, eps)
