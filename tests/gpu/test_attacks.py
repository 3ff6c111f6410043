"""Every attack on the accelerator: in its ball, judged rightly, equal bit for bit, and as strong as on the CPU."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import radapt
from radapt.attacks import (
    EOT,
    Attack,
    ClassificationObjective,
    Objective,
    Outcome,
    Score,
    ascending,
    bpda,
    jpeg,
    make,
    names,
)

pytestmark = pytest.mark.gpu

SETTINGS: dict[str, dict[str, Any]] = {
    "square": {"steps": 40},
    "cw": {"steps": 20},
    "autoattack": {"n_queries": 40, "n_target_classes": 2},
}
N = 12


def subject(name: str, device: torch.device, n: int = N) -> tuple[ClassificationObjective, Tensor]:
    """A zero-shot classifier with pictures on which it is right, but for one."""
    model: Any = radapt.load(name, device=device)
    data = radapt.load_dataset("shapes", n=n)
    classifier, pixels = model.classifier(data.prompts), data.pixels(range(n)).to(device)
    with torch.no_grad():
        labels = model.logits(pixels, classifier).argmax(1).cpu()
    labels[1] = (labels[1] + 1) % len(classifier)
    return ClassificationObjective(partial(model.logits, classifier=classifier), labels, len(classifier)), pixels


def made(name: str, norm: str, eps: float | None = None) -> Attack:
    settings = {"steps": 8, **SETTINGS.get(name, {})}
    return make(name, norm=norm, eps=eps or {"linf": 2 / 255, "l2": 0.25}[norm], **settings)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", names())
def test_an_attack_stays_in_its_ball_and_judges_its_own_images(name: str, norm: str, device: torch.device) -> None:
    attack, (objective, pixels) = made(name, norm), subject("micro/fare", device)
    outcome = attack(objective, pixels, batch_size=8)
    change = (outcome.pixels.double() - pixels.double()).flatten(1)
    distance = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
    assert distance.max() <= attack.eps + 1e-6
    assert outcome.pixels.min() >= 0
    assert outcome.pixels.max() <= 1
    assert {value.device for value in vars(outcome).values()} == {pixels.device}
    assert not outcome.failed.any()
    assert outcome.fooled[1]
    assert outcome.iterations[1] == 0
    with torch.no_grad():
        score = objective(outcome.pixels, torch.arange(N, device=device))
    assert outcome.fooled.equal(score.fooled)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", names())
def test_two_runs_are_equal_bit_for_bit(name: str, norm: str, device: torch.device) -> None:
    attack, (objective, pixels) = made(name, norm), subject("micro/fare", device)
    one, other = (attack(objective, pixels, batch_size=8, seed=3) for _ in range(2))
    for field in vars(one):
        assert torch.equal(getattr(one, field), getattr(other, field)), field


@pytest.mark.parametrize("name", ["apgd", "pgd", "fab", "square", "autoattack"])
def test_other_neighbours_change_roundings_only(name: str, device: torch.device) -> None:
    attack, (objective, pixels) = made(name, "linf"), subject("micro/fare", device)
    keys = [f"key {row}" for row in range(N)]
    whole = attack(objective, pixels, batch_size=8, keys=keys)
    rows = torch.tensor([9, 0, 4])
    some = ClassificationObjective(objective._logits, objective.labels.cpu()[rows], objective.classes or 0)
    part = attack(some, pixels[rows.to(device)], batch_size=8, keys=[keys[row] for row in rows])
    assert torch.equal(part.fooled, whole.fooled[rows.to(device)])
    assert torch.allclose(part.clean_loss, whole.clean_loss[rows.to(device)], rtol=1e-4, atol=1e-5)
    assert torch.allclose(part.loss, whole.loss[rows.to(device)], rtol=0.05, atol=0.02)


@pytest.mark.parametrize("name", ["micro/clip", "micro/fare"])
@pytest.mark.parametrize("attack", ["apgd", "autoattack"])
def test_verdicts_are_the_cpus(name: str, attack: str, device: torch.device, record_property: Any) -> None:
    settings = {"steps": 40} if attack == "apgd" else {"steps": 20, "n_queries": 300, "n_target_classes": 3}
    eps = {"micro/clip": 1 / 255, "micro/fare": 4 / 255}[name]
    outcomes = []
    for place in (torch.device("cpu"), device):
        objective, pixels = subject(name, place, 32)
        outcomes.append(make(attack, eps=eps, **settings)(objective, pixels, batch_size=16))
    here, there = outcomes
    differing = (here.fooled != there.fooled.cpu()).nonzero().flatten().tolist()
    record_property("differing_verdicts", str(differing))
    record_property(
        "robust_accuracy", f"cpu {100 * here.robust_accuracy:.2f}, device {100 * there.robust_accuracy:.2f}"
    )
    assert 0 < here.robust_accuracy < 1
    # A sample on the edge may fall on one side or the other, as at another batch size.
    assert len(differing) <= 1, f"{name} under {attack}: verdicts differ on samples {differing} of 32"


class Watch(Objective):
    """An objective that notes in which precision it was asked for gradients and for verdicts."""

    def __init__(self, inner: ClassificationObjective) -> None:
        self.inner, self.size, self.losses = inner, inner.size, inner.losses
        self.stop, self.classes = inner.stop, inner.classes
        self.seen: list[tuple[str, str]] = []

    def __call__(self, pixels: Tensor, index: Tensor, *, loss: str = "", **towards: Tensor) -> Score:
        on, kind = torch.is_autocast_enabled(pixels.device.type), "gradient" if pixels.requires_grad else "verdict"
        precision = torch.get_autocast_dtype(pixels.device.type) if on else torch.float32
        self.seen.append((kind, str(precision).removeprefix("torch.")))
        return self.inner(pixels, index, loss=loss, **towards)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_gradients_in_half_precision_have_verdicts_in_float32(precision: torch.dtype, device: torch.device) -> None:
    objective, pixels = subject("micro/fare", device)
    watch, attack = Watch(objective), make("apgd", eps=4 / 255, steps=10)
    full = attack(objective, pixels, batch_size=8)
    mixed = attack(watch, pixels, batch_size=8, precision=precision)
    kind = str(precision).removeprefix("torch.")
    assert set(watch.seen) == {("gradient", kind), ("gradient", "float32"), ("verdict", "float32")}
    assert (mixed.fooled | ~full.fooled).all()
    with torch.no_grad():
        assert mixed.fooled.equal(objective(mixed.pixels, torch.arange(N, device=device)).fooled)
    again = mixed.stage == 1
    assert torch.equal(mixed.pixels[again], full.pixels[again])


def test_when_memory_runs_out_the_batch_is_halved(device: torch.device) -> None:
    objective, pixels = subject("micro/fare", device)

    class Narrow(Watch):
        def __call__(self, pixels: Tensor, index: Tensor, *, loss: str = "", **towards: Tensor) -> Score:
            if len(pixels) > 4:
                torch.empty(2**46, device=pixels.device)
            return super().__call__(pixels, index, loss=loss, **towards)

    attack = make("apgd", eps=4 / 255, steps=5)
    with pytest.warns(RuntimeWarning, match="out of memory at batch size 8; going on with 4"):
        found = attack(Narrow(objective), pixels, batch_size=8)
    expected = attack(objective, pixels, batch_size=4)
    assert torch.equal(found.fooled, expected.fooled)


def test_transforms_keep_images_where_they_are(device: torch.device) -> None:
    objective, pixels = subject("micro/fare", device)
    for through in (jpeg(75), bpda(jpeg(75)), bpda(lambda x: (x * 255).round() / 255)):
        assert through(pixels).device == pixels.device
    defended = ClassificationObjective(
        lambda x: objective._logits(bpda(jpeg(75))(x)), objective.labels, objective.classes or 0
    )
    outcome = make("pgd", eps=4 / 255, steps=3)(EOT(defended, 2), pixels, batch_size=8)
    assert outcome.pixels.device == pixels.device


def test_radii_ascend(device: torch.device) -> None:
    objective, pixels = subject("micro/fare", device)
    found = ascending(make("apgd", eps=1 / 255, steps=5), objective, pixels, radii=[1 / 255, 4 / 255], batch_size=8)
    small, large = found.values()
    assert not (small.fooled & ~large.fooled).any()


def test_a_deadline_leaves_what_was_found(device: torch.device) -> None:
    objective, pixels = subject("micro/fare", device)
    outcome: Outcome = make("apgd", eps=1e-6, steps=10**5)(objective, pixels, batch_size=8, seconds=1.0)
    assert outcome.unfinished[0]
    assert not outcome.unfinished[1]
