"""The losses of a classifier against their formulas, one sample at a time, in float64; and what targets do."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from radapt.attacks import (
    EOT,
    AnswerObjective,
    ClassificationObjective,
    EmbeddingObjective,
    Objective,
    Score,
    make,
)
from radapt.attacks._losses import LOSSES, is_targeted
from radapt.attacks._objective import Subset, checked
from radapt.errors import InputError, SettingsError

CLASSES = 6


def scores() -> Tensor:
    return 3 * torch.randn(8, CLASSES, generator=torch.Generator().manual_seed(4))


def formula(loss: str, z: list[float], y: int, t: int) -> float:
    ranked = sorted(z, reverse=True)
    best = max(value for i, value in enumerate(z) if i != y)
    total = math.log(sum(math.exp(value) for value in z))
    return {
        "ce": total - z[y],
        "margin": best - z[y],
        "dlr": (best - z[y]) / (ranked[0] - ranked[2]),
        "ce-targeted": z[t] - total,
        "margin-targeted": z[t] - z[y],
        "dlr-targeted": (z[t] - z[y]) / (ranked[0] - 0.5 * (ranked[2] + ranked[3])),
    }[loss]


@pytest.mark.parametrize("loss", ["ce", "margin", "dlr", "ce-targeted", "margin-targeted", "dlr-targeted"])
def test_losses_are_their_formulas(loss: str) -> None:
    z, labels = scores(), torch.tensor([0, 1, 2, 3, 4, 5, 0, 1])
    targets = (labels + torch.tensor([1, 2, 3, 4, 5, 1, 2, 3])) % CLASSES
    objective = ClassificationObjective(lambda pixels: z[pixels[:, 0, 0, 0].long()], labels, CLASSES)
    rows = torch.tensor([3, 0, 7, 2, 2])
    pixels = rows.float()[:, None, None, None].expand(-1, 3, 1, 1)
    towards = {"target": targets[rows]} if loss.endswith("targeted") else {}
    score = objective(pixels, rows, loss=loss, **towards)
    expected = [formula(loss, z[r].double().tolist(), int(labels[r]), int(targets[r])) for r in rows.tolist()]
    torch.testing.assert_close(score.loss, torch.tensor(expected), rtol=1e-5, atol=1e-5)
    assert score.fooled.tolist() == [int(z[r].argmax()) != int(labels[r]) for r in rows.tolist()]
    assert score.logits is not None
    torch.testing.assert_close(score.logits, z[rows])


@pytest.mark.parametrize(("classes", "lacking"), [(2, {"dlr", "dlr-targeted"}), (3, {"dlr-targeted"}), (4, set[str]())])
def test_losses_that_need_more_classes_are_not_offered(classes: int, lacking: set[str]) -> None:
    objective = ClassificationObjective(nn.Identity(), torch.zeros(1, dtype=torch.long), classes)
    everything = {"ce", "margin", "dlr", "ce-targeted", "margin-targeted", "dlr-targeted"}
    assert set(objective.losses) == everything - lacking


def test_wrong_use_is_refused() -> None:
    objective = ClassificationObjective(lambda pixels: scores()[:2], torch.zeros(2, dtype=torch.long), CLASSES)
    pixels, index = torch.zeros(2, 3, 1, 1), torch.arange(2)
    with pytest.raises(SettingsError, match="needs a target class"):
        objective(pixels, index, loss="dlr-targeted")
    with pytest.raises(SettingsError, match=r"unknown loss 'dlrr'.*dlr"):
        objective(pixels, index, loss="dlrr")
    with pytest.raises(InputError, match="at least two classes"):
        ClassificationObjective(nn.Identity(), torch.zeros(2, dtype=torch.long), 1)


class Recorder(Objective):
    """Linear logits; remembers which target every sample was driven towards."""

    losses = ("ce", "margin-targeted")
    size = 3

    def __init__(self) -> None:
        self.seen: dict[int, list[int]] = {}

    def __call__(self, pixels: Tensor, index: Tensor, *, loss: str = "", target: Tensor | None = None) -> Score:
        # Sample 0 ranks its classes 0 1 2 3, sample 1 ranks them 3 2 1 0, sample 2 is wrong already.
        base = torch.tensor([[4.0, 3, 2, 1], [1, 2, 3, 4], [4, 3, 2, 1]])[index]
        logits = base + 1e-3 * pixels.flatten(1).sum(1, keepdim=True) * torch.arange(4.0)
        if target is not None:
            for sample, goal in zip(index.tolist(), target.tolist(), strict=True):
                if goal not in self.seen.setdefault(sample, []):
                    self.seen[sample].append(goal)
            value = logits.gather(1, target[:, None]).squeeze(1)
        else:
            value = logits.sum(1)
        return Score(value, index == 2, logits)


@pytest.mark.parametrize("name", ["pgd", "apgd"])
def test_restarts_go_for_the_wrong_classes_from_the_likeliest_on(name: str) -> None:
    objective = Recorder()
    attack = make(name, eps=0.01, steps=2, restarts=3, loss="margin-targeted")
    # One slot: jobs come in the order of the queue, and no repeated rows.
    outcome = attack(objective, torch.full((3, 3, 2, 2), 0.5), batch_size=1)
    assert objective.seen == {0: [1, 2, 3], 1: [2, 1, 0]}
    assert outcome.fooled.tolist() == [False, False, True]
    # The loss that is reported is the margin, which is comparable between targets.
    assert outcome.loss[0] == pytest.approx(-1, abs=0.02)


def test_targeted_search_without_logits_is_refused() -> None:
    class Blind(Recorder):
        def __call__(self, pixels: Tensor, index: Tensor, **kinds: object) -> Score:
            return Score(pixels.flatten(1).sum(1), torch.zeros(len(index), dtype=torch.bool))

    with pytest.raises(InputError, match="needs an objective whose scores have logits"):
        make("apgd", eps=0.1, loss="margin-targeted")(Blind(), torch.full((3, 3, 2, 2), 0.5))


def test_a_subset_is_the_objective_at_its_rows() -> None:
    labels = torch.tensor([0, 1, 2, 3, 4, 5, 0, 1])
    objective = ClassificationObjective(lambda pixels: scores()[pixels[:, 0, 0, 0].long()], labels, CLASSES)
    rows = torch.tensor([6, 2, 5])
    part, pixels = Subset(objective, rows), rows[[2, 0]].float()[:, None, None, None].expand(-1, 3, 1, 1)
    assert (part.size, part.losses) == (3, objective.losses)
    got = part(pixels, torch.tensor([2, 0]), loss="dlr-targeted", target=torch.tensor([1, 1]))
    expected = objective(pixels, torch.tensor([5, 6]), loss="dlr-targeted", target=torch.tensor([1, 1]))
    assert torch.equal(got.loss, expected.loss)


def test_the_table_says_which_losses_are_targeted() -> None:
    targeted = {"ce-targeted", "margin-targeted", "dlr-targeted"}
    assert {name for name in LOSSES if is_targeted(name)} == targeted
    assert not is_targeted("")
    # A name is no more than a name: what is not in the table has no targets.
    assert not is_targeted("my-targeted")
    for name in LOSSES:
        assert make("apgd", eps=0.1, loss=name).targeted == (name in targeted)  # type: ignore[attr-defined]


def test_every_objective_says_whether_it_stops_and_how_many_classes_it_has() -> None:
    classifier = ClassificationObjective(nn.Identity(), torch.zeros(3, dtype=torch.long), CLASSES)
    embedding = EmbeddingObjective(nn.Flatten(), torch.zeros(3, 2))

    def read(pixels: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(3), torch.zeros(3, dtype=torch.bool)

    answers, decisive = AnswerObjective(read, 3), AnswerObjective(read, 3, stop=torch.ones(3, dtype=torch.bool))
    training = ClassificationObjective(nn.Identity(), torch.zeros(3, dtype=torch.long), CLASSES, stop=False)
    expected = [
        (classifier, True, CLASSES),
        (training, False, CLASSES),
        (embedding, False, None),
        (answers, False, None),
        (decisive, True, None),
    ]
    for objective, stop, classes in expected:
        for each in (objective, Subset(objective, torch.tensor([1])), EOT(objective, 2)):
            assert (each.stop, each.classes) == (stop, classes)
        assert Subset(EOT(objective, 3), torch.tensor([0])).passes_per_call == 3 * objective.passes_per_call


def test_an_objective_that_lacks_a_member_is_refused_and_the_base_class_has_defaults() -> None:
    class Incomplete:
        size, losses = 3, ("sum",)

        def __call__(self, pixels: Tensor, index: Tensor, *, loss: str = "") -> Score:
            return Score(pixels.flatten(1).sum(1), torch.zeros(len(index), dtype=torch.bool))

    class Whole(Incomplete, Objective):
        pass

    with pytest.raises(
        InputError, match=r"objective Incomplete lacks stop, classes, passes_per_call; derive it from .*Objective"
    ):
        checked(Incomplete())
    whole = Whole()
    assert checked(whole) is whole
    assert (whole.stop, whole.classes, whole.passes_per_call) == (False, None, 1)
    assert make("pgd", eps=0.1, steps=3)(whole, torch.full((3, 3, 2, 2), 0.5)).loss_rose.all()


@pytest.mark.parametrize("mask", [-math.inf, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr", "ce-targeted", "margin-targeted", "dlr-targeted"])
def test_excluded_classes_count_for_nothing(loss: str, mask: float) -> None:
    z, labels = scores()[:, :4], torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    targets, rows = (labels + 1) % 4, torch.arange(8)
    pixels = torch.zeros(8, 3, 1, 1)
    towards = {"target": targets} if loss.endswith("targeted") else {}
    plain = ClassificationObjective(lambda pixels: z, labels, 4)(pixels, rows, loss=loss, **towards)
    for classes in (5, 8):
        leaf = torch.cat([z, torch.full((8, classes - 4), mask)], 1).requires_grad_(True)
        masked = ClassificationObjective(lambda pixels, leaf=leaf: leaf, labels, classes)(
            pixels, rows, loss=loss, **towards
        )
        assert torch.equal(masked.loss, plain.loss)
        assert torch.equal(masked.fooled, plain.fooled)
        (gradient,) = torch.autograd.grad(masked.loss.sum(), leaf)
        assert gradient.isfinite().all()
        assert not gradient[:, 4:].any()


@pytest.mark.parametrize("loss", ["ce", "margin", "dlr", "ce-targeted", "margin-targeted", "dlr-targeted"])
@pytest.mark.parametrize("left", [1, 2, 3])
@pytest.mark.parametrize("value", [-math.inf, math.inf])
def test_losses_and_gradients_are_finite_with_infinite_logits(loss: str, left: int, value: float) -> None:
    logits = torch.full((1, 5), value)
    logits[0, :left] = torch.tensor([0.5, 0.2, -0.3])[:left]
    leaf = logits.requires_grad_(True)
    for label in range(5):
        objective = ClassificationObjective(lambda pixels: leaf, torch.tensor([label]), 5)
        towards = {"target": torch.tensor([(label + 1) % 5])} if loss.endswith("targeted") else {}
        score = objective(torch.zeros(1, 3, 1, 1), torch.tensor([0]), loss=loss, **towards)
        (gradient,) = torch.autograd.grad(score.loss.sum(), leaf)
        assert score.loss.isfinite().all()
        assert gradient.isfinite().all()
        # Excluded, or as large as others: not the one answer.
        assert bool(score.fooled) == (label != 0 if value < 0 else True)


def test_logits_that_are_not_numbers_are_no_answer() -> None:
    nan = math.nan
    z = torch.tensor([[nan, nan, nan], [1.0, nan, 0.0], [nan, 1.0, 0.0], [1.0, 0.0, 0.0]])
    score = ClassificationObjective(lambda pixels: z, [0, 0, 0, 0], 3)(torch.zeros(4, 3, 1, 1), torch.arange(4))
    assert score.fooled.tolist() == [True, True, True, False]
