"""FGSM against its equation, in float64 and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.attacks.landscape import CLASSES, Landscape, cast, walk

from radapt.attacks import ClassificationObjective, make
from radapt.attacks.fgsm import FGSM
from radapt.errors import SettingsError

CLEAN = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(2)).double()
EPS = {"linf": 0.06, "l2": 0.4}


def reference(norm: str, eps: float, steps: int, land: Landscape, sample: int) -> list[np.ndarray]:
    clean = CLEAN[sample].numpy()
    points = [clean]
    for _ in range(steps):
        gradient = land.entropy(sample, points[-1])[1]
        direction = np.sign(gradient) if norm == "linf" else gradient / np.sqrt((gradient**2).sum())
        points.append(cast(norm, eps, points[-1] + eps / steps * direction, clean))
    return points


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("steps", [1, 4])
def test_every_step_is_that_of_the_paper(norm: str, steps: int) -> None:
    land = Landscape(CLEAN)
    path = walk(FGSM(norm=norm, eps=EPS[norm], steps=steps), CLEAN, {}, land.entropy, steps)
    for sample in range(6):
        expected = np.stack(reference(norm, EPS[norm], steps, land, sample))
        assert np.abs(path[:, sample] - expected).max() < 1e-12


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_takes_one_step_to_the_boundary_and_three_passes_more_than_that(norm: str) -> None:
    land = Landscape(CLEAN)
    objective = ClassificationObjective(land.logits, land.labels, CLASSES, stop=False)
    outcome = FGSM(norm=norm, eps=EPS[norm])(objective, CLEAN.float(), batch_size=4)
    assert outcome.iterations.tolist() == [1] * 6
    # The clean image, its gradient, the point, and the fresh passes over it, as it is and rounded to 8 bits.
    assert outcome.forwards.tolist() == [5] * 6
    assert outcome.backwards.tolist() == [1] * 6
    for sample in range(6):
        point = reference(norm, EPS[norm], 1, land, sample)[1]
        if land.entropy(sample, point)[0] > land.entropy(sample, CLEAN[sample].numpy())[0]:
            assert np.abs(outcome.pixels[sample].numpy() - point).max() < 1e-6
        else:
            assert torch.equal(outcome.pixels[sample], CLEAN[sample].float())
    assert outcome.loss_rose.sum() > 3


def test_it_is_the_first_step_of_pgd_from_the_clean_image_with_a_step_as_long_as_the_radius() -> None:
    land = Landscape(CLEAN)
    objective = ClassificationObjective(land.logits, land.labels, CLASSES)
    fast = FGSM(eps=0.05)(objective, CLEAN.float(), batch_size=6)
    slow = make("pgd", eps=0.05, steps=1, step_size=0.05, random_start=False)(objective, CLEAN.float(), batch_size=6)
    assert torch.equal(fast.pixels, slow.pixels)


def test_restarts_make_sense_for_targets_only() -> None:
    with pytest.raises(SettingsError, match="restarts of fgsm are all the same"):
        make("fgsm", eps=0.1, restarts=2)
    land = Landscape(CLEAN)
    objective = ClassificationObjective(land.logits, land.labels, CLASSES, stop=False)
    outcome = make("fgsm", eps=0.05, restarts=4, loss="margin-targeted")(objective, CLEAN.float(), batch_size=6)
    assert outcome.iterations.tolist() == [4] * 6
