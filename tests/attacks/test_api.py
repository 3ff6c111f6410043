"""One call for any classifier."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import radapt
from radapt.attacks import ClassificationObjective, make
from radapt.errors import InputError, SettingsError


@pytest.fixture
def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(128, 5)
    )


@pytest.fixture
def images() -> Tensor:
    return torch.rand(10, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def test_it_is_the_attack_on_the_model_in_evaluation_mode(classifier: nn.Module, images: Tensor) -> None:
    classifier.eval()
    labels = classifier(images).argmax(1)
    expected = make("pgd", eps=0.1, steps=7)(
        ClassificationObjective(classifier, labels, 5), images, batch_size=10, seed=3
    )
    classifier.train()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    outcome = radapt.attack(classifier, images, labels, attack="pgd", eps=0.1, steps=7, seed=3, quiet=True)
    assert torch.equal(outcome.pixels, expected.pixels)
    assert all(module.training for module in classifier.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in classifier.parameters())
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())


def test_the_default_is_the_whole_ensemble(classifier: nn.Module, images: Tensor) -> None:
    classifier.eval()
    labels = classifier(images).argmax(1)
    settings = {"eps": 0.03, "queries": 40, "steps": 10}
    expected = make("autoattack", **settings)(ClassificationObjective(classifier, labels, 5), images, batch_size=10)
    outcome = radapt.attack(classifier, images, labels, **settings, quiet=True)
    assert torch.equal(outcome.pixels, expected.pixels)
    assert torch.equal(outcome.stage, expected.stage)


def test_modes_come_back_after_an_error(classifier: nn.Module, images: Tensor) -> None:
    classifier.train()
    classifier[1].eval()
    with pytest.raises(InputError):
        radapt.attack(classifier, images * 255, torch.zeros(10).long(), attack="pgd", eps=0.1, quiet=True)
    assert [module.training for module in classifier] == [True, False, True, True, True, True]


def test_any_callable_will_do(images: Tensor) -> None:
    outcome = radapt.attack(
        lambda x: torch.stack([x.mean((1, 2, 3)), 0.5 - 0 * x.mean((1, 2, 3))], 1),
        images,
        torch.zeros(10, dtype=torch.int32),
        attack="apgd",
        eps=0.2,
        steps=10,
        quiet=True,
    )
    assert outcome.fooled.all()


def test_the_memory_allowed_chooses_the_batch_size(images: Tensor) -> None:
    sizes: list[int] = []

    def model(x: Tensor) -> Tensor:
        sizes.append(len(x))
        # Keeps one copy of 108 floats, the input of the square, per image.
        return (x**2).flatten(1)[:, :4]

    labels = torch.zeros(10).long()
    radapt.attack(model, images, labels, attack="pgd", eps=0.01, steps=2, memory=3.5 * 432 / 2**30, quiet=True)
    assert max(sizes[3:]) == 3
    with pytest.raises(SettingsError, match=r"one image needs .* GiB"):
        radapt.attack(model, images, labels, attack="pgd", eps=0.01, memory=1e-9, quiet=True)
    with pytest.raises(SettingsError, match="batch_size or memory"):
        radapt.attack(model, images, labels, attack="pgd", eps=0.01, memory=1, batch_size=3, quiet=True)


def test_bad_input_is_refused(classifier: nn.Module, images: Tensor) -> None:
    labels = torch.zeros(10).long()
    with pytest.raises(SettingsError, match=r"unknown attack 'pdg'.*pgd"):
        radapt.attack(classifier, images, labels, attack="pdg", eps=0.1, quiet=True)
    with pytest.raises(InputError, match="one label per image"):
        radapt.attack(classifier, images, labels[:3], attack="pgd", eps=0.1, quiet=True)
    with pytest.raises(InputError, match="at least one image"):
        radapt.attack(classifier, images[:0], labels[:0], attack="pgd", eps=0.1, quiet=True)
    with pytest.raises(InputError, match="must map images to logits"):
        radapt.attack(lambda x: x, images, labels, attack="pgd", eps=0.1, quiet=True)
    with pytest.raises(InputError, match=r"labels must lie in 0\.\.4"):
        radapt.attack(classifier, images, labels + 5, attack="pgd", eps=0.1, quiet=True)


def test_an_attack_may_be_given_as_an_object(classifier: nn.Module, images: Tensor) -> None:
    classifier.eval()
    labels = classifier(images).argmax(1)
    attack = make("pgd", norm="l2", eps=0.3, steps=5)
    outcome = radapt.attack(classifier, images, labels, attack=attack, seed=2, quiet=True)
    named = radapt.attack(classifier, images, labels, attack="pgd", norm="l2", eps=0.3, steps=5, seed=2, quiet=True)
    assert torch.equal(outcome.adversarial, named.adversarial)
    assert outcome.robust_accuracy == float((~outcome.fooled).double().mean())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": 0.1}, r"eps given beside an attack that has its own; .*PGD\(eps=4/255\)"),
        ({"norm": "linf"}, "norm given beside an attack"),
        ({"steps": 3, "eps": 0.1}, "eps, steps given beside an attack"),
    ],
)
def test_settings_beside_an_attack_object_are_refused(
    classifier: nn.Module, images: Tensor, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        radapt.attack(classifier, images, torch.zeros(10).long(), attack=make("pgd", eps=0.1), quiet=True, **settings)


def test_an_attack_by_name_needs_a_radius(classifier: nn.Module, images: Tensor) -> None:
    with pytest.raises(SettingsError, match="attack 'autoattack' needs eps; give it as in eps=4/255"):
        radapt.attack(classifier, images, torch.zeros(10).long(), quiet=True)
