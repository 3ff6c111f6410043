"""The short ensemble: its two searches, where there are targets and where not."""

from __future__ import annotations

import pytest
import torch
from tests.attacks.landscape import CLASSES, Landscape
from torch import Tensor

from radapt.attacks import ClassificationObjective, Objective, Score, make
from radapt.attacks.apgd import APGD
from radapt.attacks.apgd_ensemble import APGDEnsemble
from radapt.errors import SettingsError


class Sum(Objective):
    """No classes: nothing can be targeted."""

    losses, size = ("sum",), 4

    def __call__(self, pixels: Tensor, index: Tensor, *, loss: str = "") -> Score:
        return Score(pixels.flatten(1).sum(1), torch.zeros(len(pixels), dtype=torch.bool))


def land(count: int) -> tuple[Tensor, ClassificationObjective]:
    clean = 0.2 + 0.6 * torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    landscape = Landscape(clean)
    return clean, ClassificationObjective(landscape.logits, landscape.labels, CLASSES)


def test_targeted_searches_take_what_cross_entropy_leaves() -> None:
    clean, objective = land(80)
    attack = APGDEnsemble(eps=0.012, steps=6, n_target_classes=3, targeted_steps=6)
    outcome = attack(objective, clean, batch_size=16)
    first = APGD(eps=0.012, steps=6, loss="ce")(objective, clean, batch_size=16)
    second = APGD(eps=0.012, steps=6, loss="margin-targeted", restarts=3)(objective, clean, batch_size=16)
    assert torch.equal(outcome.fooled, first.fooled | second.fooled)
    assert (second.fooled & ~first.fooled).any()
    assert torch.equal(outcome.stage == 1, second.fooled & ~first.fooled)
    stand = ~outcome.fooled
    assert stand.any()
    assert outcome.iterations[stand].tolist() == [24] * int(stand.sum())


@pytest.mark.parametrize(
    ("classes", "loss", "restarts"), [(2, "margin-targeted", 1), (3, "margin-targeted", 2), (9, "margin-targeted", 6)]
)
def test_few_classes_have_few_targets(classes: int, loss: str, restarts: int) -> None:
    objective = ClassificationObjective(lambda x: x.flatten(1)[:, :classes], torch.zeros(2, dtype=torch.long), classes)
    stages = APGDEnsemble(eps=0.1).stages(objective)
    assert [(name, each.loss, each.restarts) for name, each in stages.items()] == [
        ("apgd-ce", "ce", 1),
        ("apgd-t", loss, restarts),
    ]


def test_without_classes_it_is_apgd_with_all_steps() -> None:
    clean = torch.full((4, 3, 2, 2), 0.5)
    outcome = make("apgd-ensemble", eps=0.1, steps=3, n_target_classes=2, targeted_steps=3)(Sum(), clean, batch_size=4)
    assert torch.equal(outcome.pixels, APGD(eps=0.1, steps=9)(Sum(), clean, batch_size=4).pixels)


def test_images_for_another_model_are_made_by_apgd_with_all_steps() -> None:
    clean, objective = land(12)
    objective.stop = False
    outcome = make("apgd-ensemble", eps=0.012, steps=3, n_target_classes=2, targeted_steps=3)(
        objective, clean, batch_size=4
    )
    assert torch.equal(outcome.pixels, APGD(eps=0.012, steps=9)(objective, clean, batch_size=4).pixels)


def test_no_targets_are_refused() -> None:
    with pytest.raises(SettingsError, match="n_target_classes must be a whole number of at least 1"):
        APGDEnsemble(eps=0.1, n_target_classes=0)
