"""The images alone, for a training: those of a call, without the passes that verify them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.attacks.test_attack import IMAGES, Brightness, Fixed
from torch import Tensor, nn

from radapt.attacks import ClassificationObjective, EmbeddingObjective, Objective, Score, make
from radapt.errors import CheckError, InputError, SettingsError


class Counted(Objective):
    """Counts the images that go through the objective of another, with gradients and without."""

    def __init__(self, objective: Any) -> None:
        self._objective, self.forwards = objective, 0
        self.size, self.losses, self.stop = objective.size, objective.losses, objective.stop
        self.classes, self.passes_per_call = objective.classes, objective.passes_per_call
        if hasattr(objective, "labels"):
            self.labels = objective.labels

    def __call__(self, pixels: Tensor, index: Tensor, *, loss: str = "", **towards: Tensor) -> Score:
        self.forwards += len(pixels)
        return self._objective(pixels, index, loss=loss, **towards)


def objectives(model: nn.Module, pixels: Tensor) -> dict[str, Any]:
    with torch.no_grad():
        logits = model(pixels)
    labels = logits.argmax(1)
    labels[::5] = (labels[::5] + 1) % logits.shape[1]
    return {
        "whole": ClassificationObjective(model, labels, logits.shape[1], stop=False),
        "verdicts": ClassificationObjective(model, labels, logits.shape[1]),
        "embedding": EmbeddingObjective(model, logits + 0.1),  # at the reference itself there is no gradient
    }


@pytest.mark.parametrize("kind", ["whole", "verdicts", "embedding"])
@pytest.mark.parametrize(
    "settings",
    [
        {"attack": "pgd", "steps": 3},
        {"attack": "pgd", "steps": 3, "norm": "l2", "restarts": 2},
        {"attack": "apgd", "steps": 5},
        {"attack": "mi-fgsm", "steps": 3},
        {"attack": "fgsm"},
        {"attack": "low-frequency", "steps": 4},
    ],
    ids=lambda each: "-".join(map(str, each.values())),
)
def test_the_images_are_those_of_a_call(model: nn.Module, pixels: Tensor, settings: dict[str, Any], kind: str) -> None:
    chosen = dict(settings)
    attack = make(chosen.pop("attack"), eps=0.1, **chosen)
    keys = [f"image {row}" for row in range(len(pixels))]
    called, perturbed = (Counted(objectives(model, pixels)[kind]) for _ in range(2))
    wanted = attack(called, pixels, keys=keys, seed=5, batch_size=7).pixels
    assert torch.equal(attack.perturb(perturbed, pixels, keys=keys, seed=5, batch_size=7), wanted)
    assert not torch.equal(wanted, pixels)
    assert called.forwards - perturbed.forwards == 2 * len(pixels)  # the image, and the image of 8 bits
    assert torch.equal(attack.perturb(perturbed, pixels.numpy(), keys=keys, seed=5, batch_size=7), wanted)


@pytest.mark.parametrize(
    "settings",
    [
        {"attack": "fab", "steps": 5, "restarts": 2},  # the first search begins at the clean image
        {"attack": "fab", "steps": 5, "restarts": 3, "loss": "margin-targeted"},
        {"attack": "cw", "steps": 20, "norm": "l2"},
        {"attack": "square", "steps": 40},
        {"attack": "apgd", "steps": 5, "restarts": 3, "loss": "dlr-targeted"},
    ],
    ids=lambda each: "-".join(map(str, each.values())),
)
def test_the_images_of_searches_that_need_logits_are_those_of_a_call(
    model: nn.Module, pixels: Tensor, settings: dict[str, Any]
) -> None:
    chosen, objective = dict(settings), objectives(model, pixels)["verdicts"]
    attack = make(chosen.pop("attack"), eps=0.6, **chosen)
    outcome = attack(objective, pixels, batch_size=7)
    assert outcome.fooled[1:5].any()
    assert torch.equal(attack.perturb(objective, pixels, batch_size=7), outcome.pixels)


class Steep(Objective):
    """A gradient that overflows where the loss is multiplied, as attacks do, on every third sample."""

    losses = ("steep",)

    def __init__(self, size: int, slope: float = 1e36) -> None:
        self.size, self.slope = size, slope

    def __call__(self, pixels: Tensor, index: Tensor, *, loss: str = "") -> Score:
        value = pixels.flatten(1).mean(1)
        scale = torch.where(index % 3 == 0, self.slope, 1.0)
        return Score(value * scale, torch.zeros(len(value), dtype=torch.bool))


def test_samples_that_fail_are_searched_on_again(pixels: Tensor) -> None:
    attack = make("pgd", eps=0.1, steps=3)
    outcome = attack(Steep(len(pixels)), pixels)
    assert not outcome.failed.any()
    assert (outcome.loss > outcome.clean_loss).all()
    assert torch.equal(attack.perturb(Steep(len(pixels)), pixels), outcome.pixels)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_fools_and_fails_is_searched_on_again_too(norm: str) -> None:
    """A gradient that overflows where the loss is multiplied, and only well beyond the boundary."""
    attack = make("fab", eps=0.5, steps=8, norm=norm, nearest=True)
    images = 0.45 + 0.01 * torch.arange(5.0)[:, None, None, None].expand(5, 3, 2, 2)

    def steep(pixels: Tensor) -> Tensor:
        ahead = pixels.flatten(1).mean(1) - 0.5
        return ahead + torch.where(ahead > 0.001, 1e37, 0.0) * (ahead - ahead.detach())

    def plain(pixels: Tensor) -> Tensor:
        return pixels.flatten(1).mean(1) - 0.5

    def objective(ahead: Callable[[Tensor], Tensor]) -> ClassificationObjective:
        def logits(pixels: Tensor) -> Tensor:
            return torch.stack([torch.zeros(len(pixels)), ahead(pixels)], 1)

        return ClassificationObjective(logits, torch.zeros(5, dtype=torch.int64), 2)

    outcome, gentle = attack(objective(steep), images), attack(objective(plain), images)
    assert outcome.fooled.all()
    assert not outcome.failed.any()
    # Overflowing ends a search at its first success, which is farther away than those that follow.
    again = outcome.iterations > gentle.iterations
    assert again.any()
    assert not again.all()
    assert torch.equal(attack.perturb(objective(steep), images), outcome.pixels)


def test_where_verdicts_are_wanted_a_failure_of_all_is_no_error(pixels: Tensor) -> None:
    def logits(images: Tensor) -> Tensor:
        return torch.stack([images.flatten(1).mean(1), images.flatten(1).sum(1)], 1) * torch.inf

    attack, labels = make("pgd", eps=0.1, steps=3), torch.ones(len(pixels), dtype=torch.int64)
    outcome = attack(ClassificationObjective(logits, labels, 2), pixels)
    assert torch.equal(attack.perturb(ClassificationObjective(logits, labels, 2), pixels), outcome.pixels)


def test_some_may_fail_but_not_all(pixels: Tensor) -> None:
    attack = make("pgd", eps=0.1, steps=3)
    outcome = attack(Steep(len(pixels), float("inf")), pixels)
    assert outcome.failed.tolist() == [row % 3 == 0 for row in range(len(pixels))]
    assert torch.equal(attack.perturb(Steep(len(pixels), float("inf")), pixels), outcome.pixels)
    with pytest.raises(InputError, match="not a finite number for any of the samples"):
        attack.perturb(Steep(1, float("inf")), pixels[:1])


def test_faulty_images_are_caught() -> None:
    with pytest.raises(CheckError, match=r"images made by fixed.*farther than eps = 0.1.*samples 'a', 'b', 'c'"):
        Fixed(eps=0.1, offset=0.2).perturb(Brightness(3), IMAGES, keys=["a", "b", "c"])


def wrong_size(attack: Any, objective: Any, pixels: Tensor) -> None:
    attack.perturb(objective, pixels[:-1])


def wrong_keys(attack: Any, objective: Any, pixels: Tensor) -> None:
    attack.perturb(objective, pixels, keys=["one"])


def wrong_batch(attack: Any, objective: Any, pixels: Tensor) -> None:
    attack.perturb(objective, pixels, batch_size=0)


def wrong_loss(attack: Any, objective: Any, pixels: Tensor) -> None:
    make("pgd", eps=0.1, loss="hinge").perturb(objective, pixels)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (wrong_size, InputError, "23 samples, but there are 22 images"),
        (wrong_keys, InputError, "got 1 keys for 23 images"),
        (wrong_batch, SettingsError, "batch_size"),
        (wrong_loss, SettingsError, "unknown loss 'hinge'"),
    ],
)
def test_wrong_calls_are_refused(pixels: Tensor, call: Callable[..., None], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        call(make("pgd", eps=0.1, steps=1), EmbeddingObjective(lambda x: x.flatten(1), pixels.flatten(1)), pixels)
