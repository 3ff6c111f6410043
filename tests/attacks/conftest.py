"""Small models to attack, whose every sample behaves differently."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from radapt.attacks import ClassificationObjective

SIDE, CLASSES = 6, 4


def network(kind: str) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    if kind == "linear":
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, CLASSES))
    else:
        model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(180, CLASSES))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.6 if kind == "linear" else 0.35))
    return model.train()


@pytest.fixture(params=["linear", "conv"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    return network(request.param)


@pytest.fixture
def pixels() -> Tensor:
    return torch.rand(23, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def attacked() -> Callable[[nn.Module, Tensor], ClassificationObjective]:
    """Objective of a model whose labels are its own predictions, but for every fifth sample, which is wrong."""

    def build(model: nn.Module, pixels: Tensor) -> ClassificationObjective:
        with torch.no_grad():
            labels = model(pixels).argmax(1)
        labels[::5] = (labels[::5] + 1) % CLASSES
        return ClassificationObjective(model, labels, CLASSES)

    return build
