"""The ensemble: which attacks it runs, on which samples, and that its result is the per-sample worst case."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.attacks.landscape import CLASSES, Landscape
from torch import Tensor, nn

from radapt.attacks import ClassificationObjective, Objective, Outcome, Score, make
from radapt.attacks._outcome import chain
from radapt.attacks.autoattack import AutoAttack
from radapt.errors import InputError, SettingsError
from radapt.evaluation import Threat

FAST = {"steps": 8, "n_queries": 20, "n_target_classes": 3}


def objective(model: nn.Module, pixels: Tensor, classes: int) -> ClassificationObjective:
    with torch.no_grad():
        return ClassificationObjective(model, model(pixels).argmax(1), classes)


def network(classes: int) -> nn.Module:
    generator = torch.Generator().manual_seed(classes)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.GELU(), nn.Flatten(), nn.Linear(96, classes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return model.requires_grad_(False)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(24, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def test_the_versions_are_those_of_the_papers(images: Tensor) -> None:
    target = objective(network(12), images, 12)

    def written(version: str) -> list[tuple[str, str, str, int, int]]:
        stages = AutoAttack(eps=0.03, version=version).stages(target)
        return [(key, a.name, a.loss, a.steps, a.restarts) for key, a in stages.items()]

    assert written("standard") == [
        ("apgd-ce", "apgd", "ce", 100, 1),
        ("apgd-t", "apgd", "dlr-targeted", 100, 9),
        ("fab-t", "fab", "margin-targeted", 100, 9),
        ("square", "square", "margin", 5000, 1),
    ]
    assert written("plus") == [
        ("apgd-ce", "apgd", "ce", 100, 5),
        ("apgd-dlr", "apgd", "dlr", 100, 5),
        ("fab", "fab", "margin", 100, 5),
        ("square", "square", "margin", 5000, 1),
        ("apgd-t", "apgd", "dlr-targeted", 100, 9),
        ("fab-t", "fab", "margin-targeted", 100, 9),
    ]
    assert written("fast") == written("standard")
    for version, growth in {"standard": None, "plus": None, "rand": None, "robustvlm": None, "fast": 0.35}.items():
        attack = AutoAttack(eps=0.03, version=version)
        assert attack.growth == growth
        assert {a.growth for a in attack.stages(target).values()} == {growth}
        assert replace(attack, eps=0.1).growth == growth
    assert AutoAttack(eps=0.03, version="fast", growth=0.5).growth == 0.5
    for growth in (None, 0.35, 2.0):
        assert {a.growth for a in AutoAttack(eps=0.03, growth=growth).stages(target).values()} == {growth}
    assert written("rand") == [("apgd-ce", "apgd", "ce", 100, 1), ("apgd-dlr", "apgd", "dlr", 100, 1)]
    assert written("robustvlm") == [("apgd-ce", "apgd", "ce", 100, 5), ("apgd-t", "apgd", "dlr-targeted", 100, 9)]


@pytest.mark.parametrize(
    ("classes", "version", "replaced", "restarts"),
    [
        (2, "standard", {"apgd-t": "ce-targeted"}, 1),
        (3, "standard", {"apgd-t": "ce-targeted"}, 2),
        (4, "standard", {}, 3),
        (2, "plus", {"apgd-dlr": "margin", "apgd-t": "ce-targeted"}, 1),
        (3, "rand", {}, 0),
    ],
)
def test_losses_that_need_more_classes_are_replaced_with_a_warning(
    classes: int,
    version: str,
    replaced: dict[str, str],
    restarts: int,
    images: Tensor,
    recwarn: pytest.WarningsRecorder,
) -> None:
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        stages = AutoAttack(eps=0.03, version=version).stages(objective(network(classes), images, classes))
    assert {key: stages[key].loss for key in replaced} == replaced
    assert len(caught) == len(replaced)
    assert all(f"needs more than {classes} classes" in str(warning.message) for warning in caught)
    if "apgd-t" in stages:
        assert stages["apgd-t"].restarts == restarts == stages["fab-t"].restarts


@pytest.mark.slow
@pytest.mark.parametrize(
    "classes", [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(6, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.filterwarnings("ignore:.*of autoattack")
def test_the_outcome_is_the_per_sample_worst_case(classes: int, norm: str, images: Tensor) -> None:
    model = network(classes)
    attack = AutoAttack(eps={"linf": 0.02, "l2": 0.15}[norm], norm=norm, **FAST)
    outcome = attack(objective(model, images, classes), images, batch_size=5)
    stages = attack.stages(objective(model, images, classes))
    alone = [each(objective(model, images, classes), images, batch_size=5) for each in stages.values()]
    by_any = torch.stack([each.fooled for each in alone]).any(0)
    assert torch.equal(outcome.fooled, by_any)
    assert 0 < outcome.fooled.sum() < len(images)
    first = torch.stack([each.fooled for each in alone]).long().argmax(0)
    assert torch.equal(outcome.stage, torch.where(by_any, first, 0))
    for sample in range(len(images)):
        made = alone[int(outcome.stage[sample])]
        assert torch.equal(outcome.pixels[sample], made.pixels[sample])
        seen = alone[: int(first[sample]) + 1] if by_any[sample] else alone
        for cost in ("iterations", "forwards", "backwards"):
            assert getattr(outcome, cost)[sample] == sum(int(getattr(each, cost)[sample]) for each in seen)


class Misled(torch.autograd.Function):
    """Passes images on, and reverses the gradient of some of them."""

    @staticmethod
    def forward(ctx: Any, pixels: Tensor) -> Tensor:
        ctx.save_for_backward(pixels)
        return pixels.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (pixels,) = ctx.saved_tensors
        return torch.where(pixels[:, :1, :1, :1] > 0.5, -gradients[0], gradients[0])


@pytest.mark.slow
@pytest.mark.parametrize("version", ["fast", "plus"])
def test_square_begins_again_where_it_came_farther_than_the_gradients(version: str) -> None:
    clean = 0.2 + 0.6 * torch.rand(80, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    land = Landscape(clean)
    target = ClassificationObjective(lambda pixels: land.logits(Misled.apply(pixels)), land.labels, CLASSES)
    attack = AutoAttack(eps=0.006, version=version, steps=20, n_queries=300, n_target_classes=3, growth=0.35)
    outcome = attack(target, clean, batch_size=8)
    stages = attack.stages(target)
    alone = {name: each(target, clean, batch_size=8) for name, each in stages.items()}
    patient = replace(stages["square"], growth=1.0)(target, clean, batch_size=8)
    first = alone["square"]
    before = [alone[name] for name in list(stages)[: list(stages).index("square")]]
    others = torch.stack([each.fooled for name, each in alone.items() if name != "square"]).any(0)
    rivals = [alone[name].loss for name in ("apgd-t", "fab-t", "fab") if name in stages and alone[name] in before]
    left = ~torch.stack([each.fooled for each in before]).any(0)
    ahead = left & first.given_up & (first.loss >= torch.stack(rivals).amax(0))
    behind = left & first.given_up & ~ahead
    assert ahead.sum() > 3
    assert behind.sum() >= 3
    assert torch.equal(outcome.fooled, others | first.fooled | (ahead & patient.fooled))
    made = sum(each.iterations for each in alone.values()) + ahead * patient.iterations
    stand = ~outcome.fooled
    assert stand.sum() > 5
    assert torch.equal(outcome.iterations[stand], made[stand])
    assert not (outcome.given_up & outcome.fooled).any()


@pytest.mark.slow
def test_a_sample_does_not_see_its_neighbours(images: Tensor) -> None:
    model, attack = network(5), AutoAttack(eps=0.02, **FAST)
    keys = [str(i) for i in range(len(images))]
    whole = attack(objective(model, images, 5), images, keys=keys, batch_size=4)
    rows = [20, 3, 7, 11]
    part = attack(objective(model, images[rows], 5), images[rows], keys=[keys[i] for i in rows], batch_size=4)
    assert torch.equal(part.pixels, whole.pixels[rows])
    assert torch.equal(part.stage, whole.stage[rows])


def test_progress_never_goes_back(images: Tensor) -> None:
    calls: list[tuple[int, int]] = []
    attack = AutoAttack(eps=0.02, **FAST)
    outcome = attack(objective(network(5), images, 5), images, progress=lambda *now: calls.append(now), batch_size=6)
    assert calls == sorted(calls)
    assert calls[-1] == (len(images), int(outcome.fooled.sum()))


def test_no_time_leaves_everything_unfinished(images: Tensor) -> None:
    outcome = AutoAttack(eps=0.02, **FAST)(objective(network(5), images, 5), images, seconds=0.0)
    assert outcome.unfinished.all()


def test_a_random_model_is_attacked_on_the_mean_of_its_passes(images: Tensor) -> None:
    passes: list[int] = []
    model = network(5)

    def noisy(pixels: Tensor) -> Tensor:
        passes.append(len(pixels))
        logits: Tensor = model(pixels)
        return logits

    labels = model(images).argmax(1)
    attack = AutoAttack(eps=0.02, version="rand", steps=3, eot_iter=7)
    attack(ClassificationObjective(noisy, labels, 5), images, batch_size=24)
    # Two stages, each with the clean images, three steps, the last points and two checks; seven passes every time.
    assert len(passes) == 2 * 7 * 7


def test_bad_settings_and_objectives_are_refused(images: Tensor) -> None:
    with pytest.raises(SettingsError, match=r"unknown version 'standart'; did you mean 'standard'\?"):
        make("autoattack", eps=0.1, version="standart")
    with pytest.raises(SettingsError, match="n_queries must be"):
        make("autoattack", eps=0.1, n_queries=0)
    with pytest.raises(SettingsError, match="growth must be a number above 0, got -1"):
        make("autoattack", eps=0.1, growth=-1)
    with pytest.raises(SettingsError, match="eps must be at most 1"):
        make("autoattack", eps=4)

    class Plain(Objective):
        losses = ("sum",)
        size = 24

        def __call__(self, pixels: Tensor, index: Tensor, *, loss: str = "") -> Score:
            return Score(pixels.flatten(1).sum(1), torch.zeros(len(pixels), dtype=torch.bool))

    with pytest.raises(InputError, match="autoattack is for classifiers"):
        make("autoattack", eps=0.1)(Plain(), images)


def test_a_threat_can_be_the_ensemble() -> None:
    threat = Threat(attack="autoattack", eps=4 / 255, source="self", options={"version": "robustvlm"})
    assert threat.settings()["version"] == "robustvlm"
    assert threat.make(steps=300).steps == 300


def test_stages_merge_sample_by_sample() -> None:
    """Hand-made outcomes: what wins, what adds up, what is carried along."""

    def made(
        fooled: list[bool], fill: float, unconfirmed: list[bool], failed: list[bool], *, gradient_free: bool = False
    ) -> Outcome:
        n = len(fooled)
        flags, ones = torch.zeros(n, dtype=torch.bool), torch.ones(n, dtype=torch.long)
        return Outcome(
            pixels=torch.full((n, 3, 1, 1), fill),
            fooled=torch.tensor(fooled),
            stage=torch.zeros(n, dtype=torch.long),
            unconfirmed=torch.tensor(unconfirmed),
            failed=torch.tensor(failed),
            unfinished=flags,
            given_up=~torch.tensor(fooled),
            audited=flags,
            misjudged=flags,
            gradient_free=torch.full((n,), gradient_free),
            fooled_8bit=torch.tensor(fooled),
            loss=torch.full((n,), fill),
            clean_loss=torch.full((n,), -1.0),
            loss_rose=torch.tensor(fooled),
            distance=torch.full((n,), fill / 10),
            iterations=2 * ones,
            forwards=3 * ones,
            backwards=4 * ones,
            zero_gradient=torch.full((n,), fill),
        )

    first = made([True, False, False, False], 0.25, [False, True, True, False], [False, False, False, True])
    seen: list[list[int]] = []

    def second(rows: Tensor) -> Outcome:
        seen.append(rows.tolist())
        return made([True, False, False], 0.75, [False, False, True], [False, False, False], gradient_free=True)

    total = chain([lambda rows: first, second], 4)
    assert seen == [[1, 2, 3]]
    assert total.fooled.tolist() == [True, True, False, False]
    assert total.stage.tolist() == [0, 1, 0, 0]
    assert total.pixels[:, 0, 0, 0].tolist() == [0.25, 0.75, 0.25, 0.25]
    assert total.loss.tolist() == [0.25, 0.75, 0.25, 0.25]
    assert total.distance.tolist() == pytest.approx([0.025, 0.075, 0.025, 0.025])
    assert total.unconfirmed.tolist() == [False, False, True, True]
    assert total.failed.tolist() == [False, False, False, True]
    assert total.given_up.tolist() == [False, False, True, True]
    assert total.gradient_free.tolist() == [False, True, False, False]
    assert total.fooled_8bit.tolist() == [True, True, False, False]
    assert total.forwards.tolist() == [3, 6, 6, 6]
    assert total.zero_gradient.tolist() == [0.25, 0.5, 0.5, 0.5]
    assert total.clean_loss.tolist() == [-1.0] * 4
