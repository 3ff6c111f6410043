"""Targeted losses know the label, half precision does not fail what it need not, and transfer takes no pass in vain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from radapt.attacks import ClassificationObjective, EmbeddingObjective, ascending, attack, make
from radapt.errors import InputError, SettingsError


@pytest.fixture
def linear() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).requires_grad_(False)


@pytest.fixture
def pixels() -> Tensor:
    return torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def margins(model: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:
    """The largest other logit minus that of the label."""
    logits = model(pixels)
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return others - logits.gather(1, labels[:, None]).squeeze(1)


@pytest.mark.parametrize(
    ("name", "settings"), [("fgsm", {}), ("mi-fgsm", {"diversity_prob": 0.5}), ("apgd", {"steps": 8})]
)
@pytest.mark.parametrize("loss", ["margin-targeted", "ce-targeted", "dlr-targeted"])
def test_a_targeted_loss_keeps_the_image_that_fools_most(
    linear: nn.Module, pixels: Tensor, name: str, settings: dict[str, Any], loss: str
) -> None:
    labels = linear(pixels).argmax(1)
    objective = ClassificationObjective(linear, labels, 5, stop=False)  # as for images that are shown to another model
    outcome = make(name, eps=0.3, loss=loss, **settings)(objective, pixels)
    assert (linear(outcome.pixels).argmax(1) != labels).all()
    assert outcome.loss_rose.all()
    torch.testing.assert_close(outcome.loss, margins(linear, outcome.pixels, labels))


@pytest.mark.parametrize("loss", ["margin", "margin-targeted", "ce-targeted", "dlr-targeted"])
def test_where_the_source_is_wrong_images_are_not_moved_towards_the_label(
    linear: nn.Module, pixels: Tensor, loss: str
) -> None:
    labels = linear(pixels).argsort(1, descending=True)[:, 1]  # the true class is the source's second choice
    objective = ClassificationObjective(linear, labels, 5, stop=False)
    outcome = make("pgd", eps=0.02, steps=10, loss=loss)(objective, pixels)
    assert (margins(linear, outcome.pixels, labels) > margins(linear, pixels, labels)).all()


def test_an_objective_without_labels_takes_those_of_the_clean_images(linear: nn.Module, pixels: Tensor) -> None:
    labels = linear(pixels).argmax(1)
    known = ClassificationObjective(linear, labels, 5)

    class Bare:
        size, losses, stop, classes, passes_per_call = known.size, known.losses, True, 5, 1

        def __call__(self, pixels: Tensor, index: Tensor, **given: Any) -> Any:
            return known(pixels, index, **given)

    targeted = make("apgd", eps=0.1, steps=5, loss="margin-targeted", restarts=3)
    one, other = targeted(known, pixels), targeted(Bare(), pixels)
    assert torch.equal(one.pixels, other.pixels)


class Cosines(nn.Module):
    """Logits of 100 times a cosine, as CLIP's, in the precision of its weights: 1,024 times that is no half number."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.texts = nn.Linear(192, 16), nn.Parameter(torch.randn(5, 16))

    def forward(self, pixels: Tensor) -> Tensor:
        embedding = self.embed(pixels.flatten(1).to(self.texts.dtype))
        embedding = embedding / embedding.norm(dim=-1, keepdim=True)
        logits: Tensor = 100 * (embedding @ (self.texts / self.texts.norm(dim=-1, keepdim=True)).T)
        return logits


@pytest.mark.parametrize("loss", ["margin", "ce"])
@pytest.mark.parametrize("half", ["weights", "precision"])
def test_half_precision_fails_nothing_that_one_does_not(pixels: Tensor, loss: str, half: str) -> None:
    whole = Cosines().eval().requires_grad_(False)
    labels = whole(pixels).argmax(1)
    model = Cosines().eval().requires_grad_(False)
    model = model.half() if half == "weights" else model
    precision = torch.float16 if half == "precision" else None
    for eps in (1 / 2550, 16 / 255):
        search = make("apgd", eps=eps, steps=10, loss=loss)
        objective = ClassificationObjective(model, labels, 5)
        outcome, reference = (
            search(objective, pixels, precision=precision),
            search(ClassificationObjective(whole, labels, 5), pixels),
        )
        assert not outcome.failed.any()
        assert int(outcome.fooled.sum()) >= int(reference.fooled.sum())
        assert not outcome.stage.any()  # it is one attack


def test_what_is_not_finite_by_itself_still_fails(pixels: Tensor) -> None:
    def broken(pixels: Tensor) -> Tensor:
        return torch.cat([pixels.mean((1, 2, 3))[:, None] * torch.inf, pixels.mean((1, 2, 3))[:, None]], 1) * torch.nan

    outcome = make("pgd", eps=0.1, steps=2)(
        ClassificationObjective(broken, torch.zeros(12, dtype=torch.long), 2), pixels
    )
    assert outcome.failed.all() or outcome.fooled.all()


def test_without_verdicts_the_larger_loss_of_both_precisions_counts(pixels: Tensor) -> None:
    torch.manual_seed(0)
    embed = nn.Sequential(nn.Flatten(), nn.Linear(192, 8)).requires_grad_(False)
    objective = EmbeddingObjective(embed, embed(pixels))
    search = make("pgd", eps=0.05, steps=5)
    plain, both = search(objective, pixels), search(objective, pixels, precision=torch.bfloat16)
    assert (both.loss >= plain.loss - 1e-6).all()


def test_autoattack_takes_no_pass_in_vain_where_there_are_no_verdicts(linear: nn.Module, pixels: Tensor) -> None:
    labels = linear(pixels).argmax(1)
    objective = ClassificationObjective(linear, labels, 5, stop=False)
    whole = make("autoattack", eps=0.05, steps=10, n_queries=50)(objective, pixels)
    first = make("apgd", eps=0.05, steps=10, loss="ce")(objective, pixels)
    assert torch.equal(whole.pixels, first.pixels)
    assert torch.equal(whole.forwards, first.forwards)


def test_autoattack_says_which_attack_fooled_in_half_precision(pixels: Tensor) -> None:
    model = Cosines().eval().requires_grad_(False)
    objective = ClassificationObjective(model, model(pixels).argmax(1), 5)
    outcome = make("autoattack", eps=16 / 255, steps=10, n_queries=10)(objective, pixels, precision=torch.float16)
    alone = make("apgd", eps=16 / 255, steps=10, loss="ce")(objective, pixels, precision=torch.float16)
    assert (outcome.stage[alone.fooled] == 0).all()


def in_place(pixels: Tensor) -> Tensor:
    value = pixels.flatten(1).exp()
    result = (value * value)[:, :5]
    value.zero_()
    return result


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pixels: Tensor) -> Tensor:
        return pixels.flatten(1)[:, :5] * 2


def one_way(pixels: Tensor) -> Tensor:
    result: Tensor = _Forward.apply(pixels)
    return result


@pytest.mark.parametrize("model", [in_place, one_way])
def test_a_gradient_that_cannot_be_computed_is_explained(model: Any, pixels: Tensor) -> None:
    with pytest.raises(InputError, match="the gradient of the objective, which pgd needs, cannot be computed"):
        attack(model, pixels, torch.zeros(12, dtype=torch.long), attack="pgd", eps=0.1, steps=2, quiet=True)


@pytest.mark.usefixtures("unchecked")
def test_radii_may_be_an_array_and_must_be_numbers(linear: nn.Module, pixels: Tensor) -> None:
    objective = ClassificationObjective(linear, linear(pixels).argmax(1), 5)
    radii: Any = np.array([0.1, 0.05])
    assert [*ascending(make("pgd", eps=1.0, steps=2), objective, pixels, radii=radii)] == [0.05, 0.1]
    for wrong in (0.1, ["much"]):
        with pytest.raises(SettingsError, match="radii must be a list of numbers"):
            ascending(make("pgd", eps=1.0, steps=2), objective, pixels, radii=wrong)  # type: ignore[arg-type]
