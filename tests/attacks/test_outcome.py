"""What an outcome says of itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from radapt.attacks import ClassificationObjective, make, untouched


def test_robust_accuracy_is_the_share_that_is_not_fooled() -> None:
    outcome = untouched(torch.zeros(8, 3, 2, 2), torch.tensor([True] * 3 + [False] * 5))
    assert outcome.robust_accuracy == 0.625
    assert isinstance(outcome.robust_accuracy, float)
    assert outcome.adversarial is outcome.pixels


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_outcome_is_one_line(norm: str, pixels: Tensor) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 4))
    with torch.no_grad():
        labels = model(pixels).argmax(1)
    outcome = make("pgd", norm=norm, eps=0.02)(ClassificationObjective(model, labels, 4), pixels)
    passes, fooled = int(outcome.forwards.sum() + outcome.backwards.sum()), int(outcome.fooled.sum())
    share = f"{(23 - fooled) / 23:.4f}"
    assert repr(outcome) == f"Outcome(n=23, fooled={fooled}, robust_accuracy={share}, attack_passes={passes})"
