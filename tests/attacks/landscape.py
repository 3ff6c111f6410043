"""A model whose loss has hills and whose gradients are known, and a way to walk an attack over it in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from radapt.attacks import SearchAttack
from radapt.attacks._search import Evaluation, State

__all__ = ["CLASSES", "Landscape", "Slope", "cast", "walk"]

CLASSES = 5
Slope = Callable[[int, np.ndarray], tuple[float, np.ndarray]]
"""Loss and gradient of one sample at one point."""


class Landscape:
    """Logits ``A sin(B x + p)``; every sample is labelled by what is said of its clean image."""

    def __init__(self, clean: Tensor, seed: int = 0, rate: float = 1.5) -> None:
        draw = np.random.default_rng(seed)
        size = clean[0].numel()
        self.outer = draw.normal(size=(CLASSES, 12))
        self.inner = rate * draw.normal(size=(12, size))
        self.phase = draw.uniform(0, 6, size=12)
        self.labels = self.logits(clean).argmax(1)

    def logits(self, pixels: Tensor) -> Tensor:
        """What the attack sees of the model."""
        inner, phase, outer = (torch.from_numpy(part) for part in (self.inner, self.phase, self.outer))
        return (pixels.double().flatten(1) @ inner.T + phase).sin() @ outer.T

    def margin(self, sample: int, point: np.ndarray) -> tuple[float, np.ndarray]:
        """``max of the others - z[y]`` and its gradient, from the closed form."""
        label, (logits, jacobian) = int(self.labels[sample]), self._both(point)
        best = max((c for c in range(CLASSES) if c != label), key=lambda c: logits[c])
        return float(logits[best] - logits[label]), (jacobian[best] - jacobian[label]).reshape(point.shape)

    def entropy(self, sample: int, point: np.ndarray) -> tuple[float, np.ndarray]:
        """Cross-entropy and its gradient, from the closed form."""
        label, (logits, jacobian) = int(self.labels[sample]), self._both(point)
        shares = np.exp(logits) / np.exp(logits).sum()
        return float(-np.log(shares[label])), (shares @ jacobian - jacobian[label]).reshape(point.shape)

    def _both(self, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        angle = self.inner @ point.ravel() + self.phase
        return self.outer @ np.sin(angle), self.outer @ (np.cos(angle)[:, None] * self.inner)


def walk(attack: SearchAttack, clean: Tensor, drawn: State, slope: Slope, steps: int) -> np.ndarray:
    """All points, steps + 1 x samples x 3 x height x width, of an attack that is given exact losses and gradients."""
    points, state = attack.start(clean, drawn)
    path = [points]
    for k in range(steps):
        losses, gradients = zip(*(slope(i, point.numpy()) for i, point in enumerate(points)), strict=True)
        gradient = torch.from_numpy(np.stack(gradients))
        current = Evaluation(points, torch.tensor(losses).double(), torch.zeros(len(clean), dtype=torch.bool), gradient)
        points, state = attack.step(clean, current, state, torch.full((len(clean),), k))
        path.append(points)
    return torch.stack(path).numpy()


def cast(norm: str, eps: float, point: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """The nearest point of the ball, cut to [0, 1]."""
    change = point - clean
    if norm == "linf":
        change = np.clip(change, -eps, eps)
    elif (length := np.sqrt((change**2).sum())) > eps:
        change = change * eps / length
    return np.clip(clean + change, 0, 1)
