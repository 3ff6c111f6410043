from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from radapt.errors import SettingsError
from radapt.training import Dual, Schedule, speed, steps_within

SCHEDULE = Schedule(steps=7, lr=0.1, ema=0.5)


class Clock:
    """Time that passes by this much in each call of the loss."""

    def __init__(self, each: float) -> None:
        self.now, self.each, self.calls = 0.0, each, 0

    def perf_counter(self) -> float:
        return self.now


def problem(clock: Clock) -> tuple[dict[str, Tensor], Callable[[int], Tensor]]:
    weight = torch.ones(3, requires_grad=True)

    def loss(step: int) -> Tensor:
        clock.calls += 1
        clock.now += clock.each * (9 if clock.calls <= 4 else 1)  # slow at first
        return (weight - step).square().sum()

    return {"weight": weight}, loss


@pytest.mark.parametrize("each", [0.01, 0.5, 40.0])
def test_as_many_steps_as_fit_and_the_weights_stay(each: float, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(each)
    monkeypatch.setattr(speed, "time", clock)
    parameters, loss = problem(clock)
    assert steps_within(2, parameters, loss, SCHEDULE) == max(1, int(120 / each + 1e-6))
    assert parameters["weight"].tolist() == [1, 1, 1]
    assert clock.calls < 1000


@pytest.mark.parametrize("cycle", [1, 3, 5])
def test_whole_cycles_are_measured_and_multipliers_stay_too(cycle: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, multiplier = Clock(0.0), torch.ones(1, requires_grad=True)
    monkeypatch.setattr(speed, "time", clock)
    weight = torch.ones(3, requires_grad=True)

    def loss(step: int) -> Tensor:
        clock.now += 0.5 * (1 + (step % cycle == 0))  # the first step of a cycle takes twice as long
        return (weight.square() * multiplier).sum()

    dual = Dual(parameters={"multiplier": multiplier}, lr=0.1, every=cycle)
    steps = steps_within(5, {"weight": weight}, loss, SCHEDULE, dual=dual, cycle=cycle)
    assert steps == int(300 * cycle / (0.5 * (cycle + 1)) + 1e-6)
    assert weight.tolist() == [1, 1, 1]
    assert multiplier.tolist() == [1]


@pytest.mark.parametrize("wrong", [0, -1.0, float("nan"), float("inf"), "3"])
def test_a_time_that_is_none_is_refused(wrong: Any, unchecked: None) -> None:
    parameters, loss = problem(Clock(1.0))
    with pytest.raises(SettingsError, match="minutes must be a number above 0"):
        steps_within(wrong, parameters, loss, SCHEDULE)
