"""MI-FGSM against its recursion in float64 and NumPy, and its diverse views against torch's own resizing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.attacks.landscape import CLASSES, Landscape, cast, walk
from torch import Tensor

from radapt.attacks import ClassificationObjective, Objective, Score, make
from radapt.attacks._settings import number, whole
from radapt.attacks.mi_fgsm import MIFGSM
from radapt.errors import SettingsError

CLEAN = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(2)).double()
EPS = {"linf": 0.06, "l2": 0.4}


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("momentum", [1.0, 0.5])
def test_every_step_is_that_of_the_paper(norm: str, momentum: float) -> None:
    land, eps = Landscape(CLEAN), EPS[norm]
    path = walk(MIFGSM(norm=norm, eps=eps, momentum=momentum), CLEAN, {}, land.entropy, 10)
    for sample in range(5):
        x, gathered = CLEAN[sample].numpy(), np.zeros((3, 4, 4))
        for k in range(10):
            assert np.abs(path[k, sample] - x).max() < 1e-12
            gradient = land.entropy(sample, x)[1]
            gathered = momentum * gathered + gradient / np.abs(gradient).sum()
            direction = np.sign(gathered) if norm == "linf" else gathered / np.sqrt((gathered**2).sum())
            x = cast(norm, eps, x + eps / 10 * direction, CLEAN[sample].numpy())
        assert np.abs(path[10, sample] - x).max() < 1e-12


def test_the_default_is_pgd_with_momentum_and_steps_that_reach_the_boundary() -> None:
    land = Landscape(CLEAN)
    objective = ClassificationObjective(land.logits, land.labels, CLASSES, stop=False)
    mine = MIFGSM(eps=0.05)(objective, CLEAN.float(), batch_size=3)
    same = make("pgd", eps=0.05, steps=10, step_size=0.005, momentum=1.0, random_start=False)
    assert torch.equal(mine.pixels, same(objective, CLEAN.float(), batch_size=3).pixels)


def diverse(image: Tensor, numbers: Tensor, attack: MIFGSM) -> Tensor:
    """One image as the paper transforms it, by torch's own resizing and padding."""
    whether, size, top, left = numbers.tolist()
    if whether >= attack.diversity_prob:
        return image
    shape, before = [], []
    for length, place in zip(image.shape[1:], (top, left), strict=True):
        least = math.ceil(attack.resize_rate * length)
        shape.append(least + math.floor(size * (length - least + 1)))
        before.append(math.floor(place * (length - shape[-1] + 1)))
    small = F.interpolate(image[None], size=shape, mode="bilinear", align_corners=False)
    after = [length - new - first for length, new, first in zip(image.shape[1:], shape, before, strict=True)]
    return F.pad(small, (before[1], after[1], before[0], after[0]))[0]


@pytest.mark.parametrize(("diversity", "smallest"), [(1.0, 0.5), (0.5, 0.5), (1.0, 0.05), (1.0, 0.9), (1.0, 1.0)])
def test_a_view_is_the_image_shrunk_and_padded(diversity: float, smallest: float) -> None:
    attack = MIFGSM(eps=0.1, diversity_prob=diversity, resize_rate=smallest, steps=7)
    images = torch.rand(30, 3, 9, 14, dtype=torch.float64, requires_grad=True)
    draws = [attack.draw((3, 9, 14), torch.Generator().manual_seed(i)) for i in range(30)]
    chance = torch.stack([draw["chance"] for draw in draws])
    _, state = attack.start(images.detach(), {"chance": chance})
    iteration = torch.arange(30) % 7
    views = attack._view(images, state, iteration)
    expected = torch.stack([diverse(images[i], chance[i, i % 7], attack) for i in range(30)])
    assert torch.allclose(views, expected, atol=1e-5)
    weight = torch.randn(views.shape, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((views * weight).sum(), images)
    (exact,) = torch.autograd.grad((expected * weight).sum(), images)
    assert torch.allclose(gradient, exact, atol=1e-5)
    if smallest == 1.0:
        assert torch.equal(views, images)
    # What has been taken as many steps as there are, and idles in its slot, must do no harm.
    assert attack._view(images, state, iteration + 1).isfinite().all()


class Framed(Objective):
    """Sees whether an image has a black edge; one that has one fools. The loss is linear in the pixels."""

    losses = ("linear",)

    def __init__(self, size: int) -> None:
        self.size, self.framed = size, list[bool]()
        self.plain: list[Tensor] = []

    def __call__(self, pixels: Tensor, index: Tensor, *, loss: str = "") -> Score:
        edges = torch.stack([pixels[:, 0, 0], pixels[:, 0, -1], pixels[:, 0, :, 0], pixels[:, 0, :, -1]], 1)
        framed = (edges.detach() == 0).all(2).any(1)
        if pixels.requires_grad:
            self.framed += framed.tolist()
        else:
            self.plain.append(pixels)
        return Score(pixels.flatten(1).sum(1), framed)


@pytest.mark.parametrize("diversity", [0.5, 1.0])
def test_a_view_that_fools_is_no_success_and_the_last_point_is_the_result(diversity: float) -> None:
    clean = torch.full((40, 3, 12, 12), 0.5)
    objective = Framed(40)
    outcome = MIFGSM(eps=0.1, diversity_prob=diversity, resize_rate=0.5)(objective, clean, batch_size=8)
    assert not outcome.fooled.any()
    assert not outcome.unconfirmed.any()
    assert outcome.iterations.tolist() == [10] * 40
    # Six of the seven sizes leave an edge.
    assert np.mean(objective.framed) == pytest.approx(diversity * 6 / 7, abs=0.08)
    assert torch.allclose(outcome.pixels, torch.tensor(0.6), atol=1e-6)
    assert not any(((pixels == 0).any()) for pixels in objective.plain)


def test_diverse_results_depend_on_the_key_and_the_seed_alone() -> None:
    generator = torch.Generator().manual_seed(2)
    clean = torch.rand(9, 3, 8, 8, generator=generator)
    land = Landscape(clean)
    attack, keys = MIFGSM(eps=0.03, diversity_prob=0.7, resize_rate=0.6, restarts=2), [f"set/{i}" for i in range(9)]

    def run(rows: Tensor, seed: int = 0) -> Tensor:
        objective = ClassificationObjective(land.logits, land.labels[rows], CLASSES)
        return attack(objective, clean[rows], keys=[keys[i] for i in rows], batch_size=4, seed=seed).pixels

    whole = run(torch.arange(9))
    for rows in (torch.arange(8, -1, -1), torch.arange(0, 9, 2), torch.tensor([5])):
        assert torch.equal(run(rows), whole[rows])
    assert not torch.equal(run(torch.arange(9), seed=1), whole)


def test_views_change_the_gradients_that_the_search_follows() -> None:
    clean = torch.rand(9, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    land = Landscape(clean)
    objective = ClassificationObjective(land.logits, land.labels, CLASSES, stop=False)
    plain, diverse = (MIFGSM(eps=0.03, diversity_prob=p)(objective, clean, batch_size=9) for p in (0.0, 1.0))
    assert not torch.allclose(plain.pixels, diverse.pixels, atol=1e-3)
    assert diverse.loss_rose.float().mean() > 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"momentum": -1.0}, "momentum must be a number of at least 0, got -1.0"),
        ({"diversity_prob": 1.5}, "diversity_prob must be a number of at least 0, 1 at most, got 1.5"),
        ({"resize_rate": 0.0}, "resize_rate must be a number above 0, 1 at most, got 0.0"),
        ({"restarts": 2}, "restarts of mi-fgsm are all the same; set diversity_prob"),
        ({"diversty_prob": 0.5}, "no setting 'diversty_prob'; did you mean 'diversity_prob'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make("mi-fgsm", eps=0.1, **settings)


@pytest.mark.parametrize("value", ["often", None, True, float("nan"), float("-inf")])
def test_what_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(SettingsError, match="diversity must be a number of at least 0, got "):
        number("diversity", value, 0)


@pytest.mark.parametrize("value", ["1", None, True, 1.0, 0, -3])
def test_what_is_no_count_is_refused(value: object) -> None:
    with pytest.raises(SettingsError, match="search_steps must be a whole number of at least 1, got "):
        whole("search_steps", value)
