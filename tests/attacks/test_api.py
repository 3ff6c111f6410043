"""One call for any classifier."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import radapt
from radapt.attacks import ClassificationObjective, make, names
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


@pytest.mark.slow
def test_the_default_is_the_whole_ensemble(classifier: nn.Module, images: Tensor) -> None:
    classifier.eval()
    labels = classifier(images).argmax(1)
    settings = {"eps": 0.03, "n_queries": 40, "steps": 10}
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


@pytest.mark.parametrize(
    "given",
    [
        lambda images: images.double(),
        lambda images: images.double().numpy(),
        lambda images: list(images),
        lambda images: images.to(memory_format=torch.channels_last),
        lambda images: images.clone().requires_grad_(True),
    ],
)
@pytest.mark.parametrize(
    "form", [list, lambda labels: labels.numpy().astype("u1"), lambda labels: torch.eye(5)[labels]]
)
def test_images_and_labels_of_every_form_are_attacked_alike(
    given: Any, form: Any, classifier: nn.Module, images: Tensor
) -> None:
    classifier.eval()
    labels = classifier(images).argmax(1)
    expected = radapt.attack(classifier, images, labels, attack="pgd", eps=0.1, steps=4, quiet=True)
    before = images.clone()
    outcome = radapt.attack(classifier, given(images), form(labels), attack="pgd", eps=0.1, steps=4, quiet=True)
    assert torch.equal(outcome.pixels, expected.pixels)
    assert torch.equal(images, before)
    objective = ClassificationObjective(classifier, form(labels), 5)
    assert torch.equal(make("pgd", eps=0.1, steps=4)(objective, given(images), batch_size=10).pixels, expected.pixels)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_images_in_half_precision_are_those_that_they_hold(
    kind: torch.dtype, classifier: nn.Module, images: Tensor
) -> None:
    labels = torch.zeros(10).long()
    outcome = radapt.attack(classifier, images.to(kind), labels, attack="fgsm", eps=0.1, quiet=True)
    exact = radapt.attack(classifier, images.to(kind).float(), labels, attack="fgsm", eps=0.1, quiet=True)
    assert torch.equal(outcome.pixels, exact.pixels)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 3, 6, 6, dtype=torch.uint8), [0, 1], "divide bytes by 255"),
        (torch.full((2, 3, 6, 6), 255.0), [0, 1], r"must lie in \[0, 1\]"),
        (torch.zeros(2, 6, 6, 3), [0, 1], "N x 3 x height x width"),
        (torch.zeros(2, 3, 6, 6), [0.0, 1.0], "labels must be whole numbers"),
        (torch.zeros(2, 3, 6, 6), [0, 1, 1], "one label per image; got 2 images and 3 labels"),
        (torch.zeros(2, 3, 6, 6), torch.eye(3), "one label per image"),
    ],
)
def test_wrong_input_is_refused_before_the_model_runs(images: Tensor, labels: Any, message: str) -> None:
    def model(pixels: Tensor) -> Tensor:
        raise AssertionError("the model ran")

    with pytest.raises(InputError, match=message):
        radapt.attack(model, images, labels, attack="pgd", eps=0.1, quiet=True)


def test_one_hot_labels_have_as_many_columns_as_there_are_classes(classifier: nn.Module, images: Tensor) -> None:
    with pytest.raises(InputError, match="4 columns, but the model has 5 classes"):
        radapt.attack(classifier, images, torch.eye(4)[[0] * 10], attack="pgd", eps=0.1, quiet=True)


class Output(dict):  # type: ignore[type-arg]
    """Like a ModelOutput of transformers: a mapping whose ``logits`` are an attribute, too."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__(logits=logits)
        self.logits = logits


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda logits: (logits, None), "it made a tuple of 2; give a function that takes the logits out of it"),
        (lambda logits: [logits], "it made a list of 1"),
        (lambda logits: {"logits": logits}, "it made a dict of 'logits'; give a function"),
        (lambda logits: Output(logits[0]), r"it made a tensor of shape \(5,\)"),
        (lambda logits: logits[:, :, None], r"it made a tensor of shape \(1, 5, 1\)"),
        (lambda logits: logits.tolist()[0][0], "it made a float"),
        (lambda logits: None, "it made a NoneType"),
    ],
)
def test_outputs_that_are_no_logits_are_refused(wrap: Any, message: str, classifier: nn.Module, images: Tensor) -> None:
    with pytest.raises(InputError, match=message):
        radapt.attack(lambda x: wrap(classifier(x)), images, torch.zeros(10).long(), attack="pgd", eps=0.1, quiet=True)


def test_an_output_with_logits_will_do(classifier: nn.Module, images: Tensor) -> None:
    classifier.eval()
    labels = classifier(images).argmax(1)
    expected = radapt.attack(classifier, images, labels, attack="pgd", eps=0.1, steps=4, quiet=True)
    outcome = radapt.attack(lambda x: Output(classifier(x)), images, labels, attack="pgd", eps=0.1, steps=4, quiet=True)
    assert torch.equal(outcome.pixels, expected.pixels)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_gets_images_in_its_own_precision(kind: torch.dtype, classifier: nn.Module, images: Tensor) -> None:
    classifier.eval().to(kind)
    with torch.no_grad():
        labels = classifier(images.to(kind)).argmax(1)
    outcome = radapt.attack(classifier, images, labels, attack="pgd", eps=0.1, steps=10, quiet=True)
    assert outcome.pixels.dtype == torch.float32
    assert outcome.fooled.float().mean() > 0.5
    assert not outcome.zero_gradient.any()
    with torch.no_grad():
        assert torch.equal(outcome.fooled, classifier(outcome.pixels.to(kind)).float().argmax(1) != labels)


def test_a_model_that_takes_float32_into_half_precision_itself_gets_float32(images: Tensor) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(108, 5).half()

        def forward(self, x: Tensor) -> Tensor:
            kinds.add(x.dtype)
            return self.head(x.flatten(1).half())  # type: ignore[no-any-return]

    kinds: set[torch.dtype] = set()
    radapt.attack(Own(), images, torch.zeros(10).long(), attack="pgd", eps=0.1, steps=2, quiet=True)
    assert kinds == {torch.float32}


def test_images_go_where_the_weights_are(images: Tensor) -> None:
    from radapt.attacks._api import _placed

    assert _placed(nn.Linear(1, 1, device="meta"), images).device.type == "meta"
    assert _placed(nn.Flatten(), images) is images


def test_models_that_are_no_functions_of_pixels_say_how(images: Tensor, tiny_vlm: Any, tiny_clip: Any) -> None:
    labels = torch.zeros(10).long()
    with pytest.raises(InputError, match=r"DualEncoder is no function of pixels; .*model.classifier\(data.prompts\)"):
        radapt.attack(tiny_vlm, images, labels, eps=0.1, quiet=True)
    with pytest.raises(InputError, match=r"the model failed on the first image, .* on cpu: "):
        radapt.attack(tiny_clip, images, labels, eps=0.1, quiet=True)
    with pytest.raises(InputError, match="a dict is no function of pixels; give a function"):
        radapt.attack({}, images, labels, eps=0.1, quiet=True)


@pytest.mark.filterwarnings("ignore:apgd-t of autoattack")
def test_a_model_without_a_finite_logit_is_refused_and_a_single_image_is_not(images: Tensor) -> None:
    def model(x: Tensor) -> Tensor:
        logits = torch.stack([x.mean((1, 2, 3)), 1 - x.mean((1, 2, 3))], 1)
        return logits.where(x[:, 0, 0, :1] < limit, torch.nan)

    limit, labels = 0.0, torch.zeros(10).long()
    for name in ("pgd", "square", "autoattack"):
        with pytest.raises(InputError, match="not finite numbers for any of the images"):
            radapt.attack(model, images, labels, attack=name, eps=0.1, quiet=True)
    limit, images[:, 0, 0, 0] = 0.9, 0.5
    images[3, 0, 0, 0] = 1.0
    outcome = radapt.attack(model, images, labels, attack="fgsm", eps=0.1, quiet=True)
    assert outcome.failed.nonzero().flatten().tolist() == [3]
    assert outcome.fooled[3]


@pytest.mark.parametrize(
    "change", [lambda x: x.sub_(0.5).div_(0.25), lambda x: x.clamp_(0.1, 0.9), lambda x: x.mul_(2).sub_(1).flip(3)]
)
@pytest.mark.parametrize("name", names())
def test_a_model_may_overwrite_what_it_is_given(name: str, change: Any, classifier: nn.Module, images: Tensor) -> None:
    classifier.eval()
    few: dict[str, dict[str, Any]] = {"autoattack": {"n_queries": 5}, "cw": {"steps": 4}}
    settings = {"eps": 0.05, "steps": 4, "quiet": True, **few.get(name, {})}

    def careful(x: Tensor) -> Tensor:
        return classifier(change(x.clone()))  # type: ignore[no-any-return]

    labels, before = careful(images).argmax(1), images.clone()
    expected = radapt.attack(careful, images, labels, attack=name, **settings)
    outcome = radapt.attack(lambda x: classifier(change(x)), images, labels, attack=name, **settings)
    assert torch.equal(images, before)
    assert torch.equal(outcome.pixels, expected.pixels)
    assert torch.equal(outcome.fooled, expected.fooled)


def test_a_setting_said_twice_is_refused(classifier: nn.Module, images: Tensor) -> None:
    with pytest.raises(SettingsError, match="attack 'pgd' has no setting 'name'"):
        radapt.attack(classifier, images, [0] * 10, attack="pgd", eps=0.1, name="apgd", quiet=True)
