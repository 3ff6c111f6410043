"""What a training is told about its optimiser: the schedule, and the parameters that move more seldom."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from torch import Tensor

from radapt.errors import SettingsError
from radapt.numbers import number, whole
from radapt.registry import nearest
from radapt.types import Decayed, OptimizerName

__all__ = ["Dual", "Schedule"]

_BELOW_ONE = math.nextafter(1.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """An optimiser with linear warm-up and cosine decay to zero.

    Args:
        steps: number of optimiser steps.
        lr: peak learning rate.
        warmup: share of the steps spent warming up.
        warmup_steps: number of these steps, instead of their share; a training that is shorter ends on its way up.
        weight_decay: decoupled in AdamW, a part of the gradient in SGD.
        decayed: what it applies to: ``matrices`` (and tensors of more dimensions), or ``all`` parameters.
        max_grad_norm: largest gradient norm (0: no clipping).
        optimizer: ``adamw`` or ``sgd`` (with momentum 0.9).
        accumulate: batches whose gradients are averaged for one step, in each process.
        ema: decay of the exponential moving average of the parameters that is then the result (0: none).
    """

    steps: int
    lr: float
    warmup: float = 0.1
    warmup_steps: int | None = None
    weight_decay: float = 0.0
    decayed: Decayed = "matrices"
    max_grad_norm: float = 0.0
    optimizer: OptimizerName = "adamw"
    accumulate: int = 1
    ema: float = 0.0

    def __post_init__(self) -> None:
        try:
            whole("steps", self.steps, 1, 10**9)
            number("lr", self.lr, 0, 1000, above=True)
            number("warmup", self.warmup, 0, _BELOW_ONE)
            if self.warmup_steps is not None:
                whole("warmup_steps", self.warmup_steps, 0, 10**9)
            number("weight_decay", self.weight_decay, 0, 1000)
            number("max_grad_norm", self.max_grad_norm, 0)
            whole("accumulate", self.accumulate, 1, 10**6)
            number("ema", self.ema, 0, _BELOW_ONE)
        except SettingsError as error:
            raise SettingsError(
                "a schedule needs steps >= 1, lr > 0, warmup and ema in [0, 1), weight_decay >= 0, max_grad_norm >= 0 "
                f"and accumulate >= 1: {error}"
            ) from None
        for name, value, allowed in (
            ("optimizer", self.optimizer, get_args(OptimizerName)),
            ("decayed", self.decayed, get_args(Decayed)),
        ):
            if value not in allowed:
                raise SettingsError(f"unknown {name} {value!r}{nearest(value, allowed)}")

    def factor(self, step: int) -> float:
        """Learning rate at a step, relative to the peak."""
        ramp = max(1, round(self.warmup * self.steps) if self.warmup_steps is None else self.warmup_steps)
        if step < ramp:
            return (step + 1) / ramp
        return 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(1, self.steps - ramp)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Dual:
    """Parameters of multipliers, which move more seldom than the others, at a learning rate of their own.

    Args:
        parameters: leaf tensors by name, the same in each process, changed in place. The loss is minimised over them,
            too: one that is to be maximised reverses their gradients.
        lr: their learning rate, the same at every step.
        every: steps of the other parameters for one of theirs.
    """

    parameters: Mapping[str, Tensor]
    lr: float
    every: int
