"""Write an attack, and compare it with one that is there.

    python examples/own_attack.py

The attack is gradient ascent with inertia, whose steps become shorter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

import radapt
from radapt.attacks import Evaluation, SearchAttack, State
from radapt.attacks.pgd import PGD
from radapt.types import Index, Pixels


@dataclass(frozen=True, kw_only=True)
class HeavyBall(SearchAttack):
    """``x[t+1] = P(x[t] + 2 eps (1 - t / steps) d(grad L(x[t])) + inertia (x[t] - x[t-1]))`` with P and d as in PGD.

    Args:
        norm, eps, steps, restarts, loss: as in every attack.
        inertia: share of the last move that is added to the next.
    """

    name: ClassVar[str] = "heavy-ball"
    steps: int = 30
    inertia: float = 0.25

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> State:
        return {"direction": self.ball.draw(shape, generator)}

    def start(self, clean: Pixels, drawn: State) -> tuple[Pixels, State]:
        points = self.ball.project(clean + self.eps * self.ball.unit(drawn["direction"]), clean)
        return points, {"previous": points}

    def step(self, clean: Pixels, current: Evaluation, state: State, iteration: Index) -> tuple[Pixels, State]:
        begun = (iteration > 0)[:, None, None, None]
        move = torch.where(begun, current.points - state["previous"], 0.0)
        size = 2 * self.eps * (1 - iteration / self.steps)[:, None, None, None]
        points = current.points + size * self.ball.ascent(current.gradient) + self.inertia * move
        return self.ball.project(points, clean), {"previous": current.points}


results = radapt.evaluate(
    "micro/fare",
    data="shapes",
    n=20,
    threats=[radapt.Threat(attack=kind(eps=4 / 255, steps=20), source="self") for kind in (PGD, HeavyBall)],
    results="own_attack.sqlite",
    batch_size=20,
)
for result in results:
    print(f"{result.setting.attack:12} {result.percent:5.1f} [{result.low:.1f}, {result.high:.1f}]")
