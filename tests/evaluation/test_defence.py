"""The contract of defences: adapters, maps of images, substitutes for gradients, and classes of your own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import own_labels, tiny_clip
from torch import Tensor, nn

import radapt
from radapt.attacks.pgd import PGD
from radapt.evaluation import Defence, InputDefence


class Blur(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(pixels, 3, 1, 1)


def darken(pixels: Tensor) -> Tensor:
    return 0.8 * pixels


def quantise(pixels: Tensor) -> Tensor:
    return (pixels * 3).round() / 3


class Scaled:
    """A defence of one's own: it scales the embedding, which no input defence could do."""

    fingerprint = "scaled by two"

    @contextmanager
    def attach(self, model: Any) -> Iterator[None]:
        encode = model.encode_image
        model.encode_image = lambda pixels: 2 * encode(pixels)
        try:
            yield
        finally:
            del model.encode_image


DEFENCES: dict[str, Callable[[Any], Defence]] = {
    "adapter": lambda model: radapt.training_free(model, alpha=0.5),
    "module": lambda model: InputDefence(Blur()),
    "function": lambda model: InputDefence(darken),
    "substitute": lambda model: InputDefence(quantise, substitute="identity"),
    "other substitute": lambda model: InputDefence(quantise, substitute=darken),
    "own class": lambda model: Scaled(),
}


@pytest.fixture(params=DEFENCES.values(), ids=DEFENCES)
def make(request: pytest.FixtureRequest) -> Callable[[Any], Defence]:
    chosen: Callable[[Any], Defence] = request.param
    return chosen


def test_a_defence_acts_while_it_is_attached_and_leaves_no_trace(make: Callable[[Any], Defence]) -> None:
    model, pixels = tiny_clip(), torch.rand(3, 3, 48, 48)
    before, state = model.encode_image(pixels), {k: v.clone() for k, v in model.model.state_dict().items()}
    defence = make(model)
    assert isinstance(defence, Defence)
    with defence.attach(model):
        during = model.encode_image(pixels)
        assert torch.equal(during, model.encode_image(pixels))
    assert not torch.equal(before, during)
    assert torch.equal(before, model.encode_image(pixels))
    assert not model.defended
    after = model.model.state_dict()
    assert list(after) == list(state)
    assert all(torch.equal(after[name], value) for name, value in state.items())


def test_a_defence_leaves_no_trace_after_an_error_either(make: Callable[[Any], Defence]) -> None:
    model, pixels = tiny_clip(), torch.rand(2, 3, 48, 48)
    before = model.encode_image(pixels)
    with pytest.raises(RuntimeError, match="on purpose"), make(model).attach(model):
        raise RuntimeError("on purpose")
    assert torch.equal(before, model.encode_image(pixels))


def test_gradients_reach_the_pixels_through_it(make: Callable[[Any], Defence]) -> None:
    model, pixels = tiny_clip(), torch.rand(2, 3, 48, 48, requires_grad=True)
    with make(model).attach(model):
        (gradient,) = torch.autograd.grad(model.encode_image(pixels).square().sum(), pixels)
    assert bool(gradient.isfinite().all())
    assert bool((gradient.flatten(1).abs().amax(1) > 0).all())


def test_its_fingerprint_is_stable_and_its_own(make: Callable[[Any], Defence]) -> None:
    model = tiny_clip()
    assert make(model).fingerprint == make(model).fingerprint
    assert len({each(model).fingerprint for each in DEFENCES.values()}) == len(DEFENCES)


def test_it_is_evaluated_white_box_through_itself(make: Callable[[Any], Defence], tmp_path: Path) -> None:
    model = tiny_clip(factor=2.0)
    defence = make(model)
    with defence.attach(model):
        data = own_labels(model, 4)
    clean, white_box = radapt.evaluate(
        {"defended": (model, defence)},
        data=data,
        attack=PGD(eps=64 / 255, steps=10),
        source="self",
        results=tmp_path / "r.sqlite",
        batch_size=4,
        sanity=False,
        quiet=True,
    )
    assert (clean.kind, clean.percent) == ("clean", 100.0)
    assert white_box.kind == "white-box"
    assert white_box.percent < clean.percent
    assert white_box.setting.adapter == defence.fingerprint


def test_one_input_defence_at_a_time_but_an_adapter_beside_it() -> None:
    model = tiny_clip()
    with InputDefence(darken).attach(model), radapt.training_free(model).attach(model):
        assert model.defended
        with (
            pytest.raises(radapt.RadaptError, match="has an input defence already"),
            InputDefence(Blur()).attach(model),
        ):
            pass
        assert model.defended
    assert not model.defended


def test_a_model_that_is_defended_already_is_no_candidate(tmp_path: Path) -> None:
    model = tiny_clip()
    with InputDefence(darken).attach(model), pytest.raises(radapt.RadaptError, match="carries an adapter already"):
        radapt.evaluate({"CLIP": model}, data="shapes", n=2, attack=None, results=tmp_path / "r.sqlite", quiet=True)


def test_a_substitute_that_is_no_function_is_refused() -> None:
    with pytest.raises(radapt.RadaptError, match="substitute must be a function, 'identity' or None, got 'identty'"):
        InputDefence(quantise, substitute="identty")


def quantise_in_place(pixels: Tensor) -> Tensor:
    return pixels.mul_(3).round_().div_(3)


@pytest.mark.parametrize(
    ("careful", "careless"),
    [
        (InputDefence(darken), InputDefence(lambda pixels: pixels.mul_(0.8))),
        (InputDefence(quantise, substitute="identity"), InputDefence(quantise_in_place, substitute="identity")),
        (
            InputDefence(quantise, substitute=darken),
            InputDefence(quantise_in_place, substitute=lambda pixels: pixels.mul_(0.8)),
        ),
    ],
)
def test_a_defence_may_overwrite_what_it_is_given(careful: InputDefence, careless: InputDefence) -> None:
    model = tiny_clip(factor=6.0)
    data = own_labels(model, 4)
    prompts, images = model.classifier(data.prompts), data.pixels(range(4))
    before, found = images.clone(), []
    for defence in (careful, careless):
        with defence.attach(model):
            logits = model.logits(images, prompts)
            outcome = radapt.attack(
                lambda pixels: model.logits(pixels, prompts), images, data.labels, attack="pgd", eps=0.05, quiet=True
            )
        assert torch.equal(images, before)
        found.append((logits, outcome.pixels))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.slow
def test_a_classifier_and_a_defence_that_overwrite_pixels_are_evaluated_like_others(tmp_path: Path) -> None:
    model = tiny_clip(factor=6.0)
    data = own_labels(model, 4)
    prompts = model.classifier(data.prompts)

    def plain(pixels: Tensor) -> Tensor:
        return model.logits((pixels - 0.5) / 0.25 * 0.25 + 0.5, prompts)

    def careless(pixels: Tensor) -> Tensor:
        return model.logits(pixels.sub_(0.5).div_(0.25).mul_(0.25).add_(0.5), prompts)

    options = {"data": data, "attack": PGD(eps=0.02, steps=4), "batch_size": 4, "quiet": True}
    candidates = {"plain": plain, "careless": careless, "darkened": (careless, lambda pixels: pixels.mul_(0.8))}
    found = radapt.evaluate(candidates, results=tmp_path / "r.sqlite", **options)
    by_name = {(each.setting.method, each.setting.source): each.percent for each in found}
    for source in ("", "self"):
        assert by_name["plain", source] == by_name["careless", source]
    assert by_name["plain", ""] == 100.0
