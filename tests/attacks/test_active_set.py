"""How samples stream through slots: what each costs, and what is reported on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import pytest
import torch
from tests.attacks.landscape import CLASSES, Landscape
from torch import Tensor

from radapt.attacks import ClassificationObjective, Objective, Outcome, Score, SearchAttack, make
from radapt.attacks.apgd import APGD
from radapt.attacks.fab import FAB
from radapt.attacks.pgd import PGD
from radapt.attacks.square import Square
from radapt.errors import InputError


class Countdown(Objective):
    """Sample ``i`` is fooled at its pass number ``fall[i]`` with a gradient, or never."""

    losses = ("count",)

    def __init__(self, fall: list[int]) -> None:
        self.fall, self.size = fall, len(fall)
        self.passes = [0] * len(fall)
        self.batches: list[tuple[int, bool]] = []

    def __call__(self, pixels: Tensor, index: Tensor, *, loss: str = "") -> Score:
        graded = pixels.requires_grad
        self.batches.append((len(pixels), graded))
        if graded:
            for sample in set(index.tolist()):
                self.passes[sample] += 1
        fooled = torch.tensor([self.passes[sample] >= self.fall[sample] for sample in index.tolist()])
        return Score(pixels.flatten(1).sum(1), fooled)


NEVER = 10**6


def images(count: int) -> Tensor:
    return torch.full((count, 3, 4, 4), 0.5)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 7, 30])
def test_passes_are_as_wide_as_they_can_be_and_only_the_needed_ones_are_made(batch_size: int) -> None:
    objective = Countdown([NEVER, 0, 3, 1, NEVER, 2, 0, 5, 3])
    outcome = PGD(eps=0.1, steps=5)(objective, images(9), batch_size=batch_size)
    graded = [size for size, graded in objective.batches if graded]
    # Seven searches, which narrow as none waits any more.
    assert graded[0] == min(batch_size, 7)
    assert graded == sorted(graded, reverse=True)
    assert sum(size for size, _ in objective.batches) == int(outcome.forwards.sum())
    assert sum(graded) == int(outcome.backwards.sum())
    # Fooled at pass p, a sample has taken p - 1 steps; never fooled, all five, the last point without a gradient.
    assert outcome.iterations.tolist() == [5, 0, 2, 0, 5, 1, 0, 4, 2]
    assert outcome.backwards.tolist() == [5, 0, 3, 1, 5, 2, 0, 5, 3]
    # Besides: the clean image and the two final checks; and the last point of those that went all the way.
    assert outcome.forwards.tolist() == [9, 3, 6, 4, 9, 5, 3, 8, 6]
    assert outcome.fooled.tolist() == [False, True, True, True, False, True, True, True, True]


def test_the_model_runs_no_more_often_than_full_batches_need() -> None:
    objective = Countdown([1] * 30 + [10] * 10)
    PGD(eps=0.1, steps=10)(objective, images(40), batch_size=5)
    graded = [size for size, graded in objective.batches if graded]
    # 30 x 1 + 10 x 10 passes of samples in batches of 5 is 26; the batch's stragglers would make it 6 + 20 at best.
    assert len(graded) == 26


@pytest.mark.slow
def test_a_lone_survivor_costs_hardly_more_than_it_does_alone() -> None:
    def sent(fall: list[int]) -> int:
        objective = Countdown(fall)
        outcome = Square(eps=0.1, steps=1000, loss="count")(objective, images(len(fall)), batch_size=16)
        assert outcome.iterations[~outcome.fooled].tolist() == [1000]
        images_sent = sum(size for size, _ in objective.batches)
        assert images_sent == int(outcome.forwards.sum())
        return images_sent

    assert sent([NEVER, *[0] * 15]) <= 1.2 * sent([NEVER])


def test_the_last_point_needs_no_gradient() -> None:
    objective = Countdown([NEVER] * 6)
    PGD(eps=0.1, steps=4)(objective, images(6), batch_size=6)
    assert objective.batches == [(6, False), *[(6, True)] * 4, *[(6, False)] * 3]


def test_restarts_follow_until_a_sample_is_fooled() -> None:
    objective = Countdown([NEVER, 2, 6, 0])
    outcome = PGD(eps=0.1, steps=4, restarts=3)(objective, images(4), batch_size=2)
    assert outcome.iterations.tolist() == [12, 1, 5, 0]
    assert outcome.backwards.tolist() == [12, 2, 6, 0]
    assert outcome.forwards.tolist() == [18, 5, 10, 3]


@pytest.mark.parametrize(("batch_size", "widths"), [(4, [1] * 15), (8, [2] * 5 + [1] * 5), (16, [3] * 5)])
def test_a_narrow_batch_takes_later_restarts_and_no_result_depends_on_it(batch_size: int, widths: list[int]) -> None:
    passes: list[int] = []

    def value(pixels: Tensor, index: Tensor) -> Tensor:
        if pixels.requires_grad:
            passes.append(len(pixels))
        return pixels.flatten(1).sum(1)

    outcome = PGD(eps=0.1, steps=5, restarts=3)(Formula(value, 1), images(1), batch_size=batch_size)
    assert passes == widths
    assert outcome.iterations.tolist() == [15]
    assert outcome.forwards.tolist() == [3 * 6 + 3]


@pytest.mark.slow
def test_restarts_ahead_of_their_turn_change_no_result() -> None:
    clean = 0.2 + 0.6 * torch.rand(20, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    land, keys = Landscape(clean), [str(sample) for sample in range(20)]

    def logits(pixels: Tensor) -> Tensor:
        # Some restarts of some samples meet a point where the model says nothing.
        hole = (pixels[:, 0, 0, 0] * 2000 % 10 < 0.1)[:, None]
        return torch.where(hole & (pixels[:, 1, 0, 0] < 0.4)[:, None], torch.nan, land.logits(pixels))

    def run(attack: SearchAttack, rows: list[int]) -> Outcome:
        objective = ClassificationObjective(logits, land.labels[rows], CLASSES)
        return attack(objective, clean[rows], batch_size=32, keys=[keys[row] for row in rows])

    attacks: list[SearchAttack] = [
        PGD(eps=0.012, steps=7, restarts=6),
        APGD(eps=0.012, steps=30, restarts=4, loss="ce-targeted", growth=0.35),
        FAB(eps=0.012, steps=12, restarts=4, loss="margin-targeted", nearest=True),
    ]
    for attack in attacks:
        whole = run(attack, list(range(20)))
        sound = int((~whole.failed).nonzero()[0])  # an attack that fails on all samples is an error
        for row in range(20):
            alone = run(attack, list(dict.fromkeys([row, sound])))
            for field in fields(Outcome):
                left, right = getattr(alone, field.name)[0], getattr(whole, field.name)[row]
                # Passes are those of all restarts, of which more are begun where a batch is narrow.
                if field.name not in ("forwards", "backwards"):
                    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5, equal_nan=True, msg=f"{row} {field}")
        late = whole.fooled & (whole.iterations > attack.steps)
        assert late.any() or attack.name == "fab"
        assert 0 < whole.failed.sum() < 15
        assert 0 < whole.fooled.sum() < 20


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_progress_counts_up_to_every_sample(batch_size: int) -> None:
    calls: list[tuple[int, int]] = []
    objective = Countdown([NEVER, 0, 3, 1, NEVER, 2, 0])
    outcome = PGD(eps=0.1, steps=4)(
        objective, images(7), batch_size=batch_size, progress=lambda done, fooled: calls.append((done, fooled))
    )
    assert calls == sorted(calls)
    assert calls[0][0] >= 2
    assert calls[-1] == (7, int(outcome.fooled.sum()))


class Formula(Objective):
    """An objective from a function of pixels and sample numbers; nothing is ever fooled."""

    losses = ("value",)

    def __init__(self, value: Callable[[Tensor, Tensor], Tensor], size: int) -> None:
        self.value, self.size = value, size

    def __call__(self, pixels: Tensor, index: Tensor, *, loss: str = "") -> Score:
        return Score(self.value(pixels, index), torch.zeros(len(pixels), dtype=torch.bool))


@pytest.mark.parametrize("name", ["pgd", "apgd"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_masked_gradients_and_a_loss_that_does_not_rise_show_in_the_outcome(name: str, batch_size: int) -> None:
    def value(pixels: Tensor, index: Tensor) -> Tensor:
        # Sample 0 has a gradient; that of 1 vanishes; that of 2 vanishes above the middle.
        total = pixels.flatten(1).sum(1)
        return torch.where(index == 0, total, torch.where(index == 1, 0 * total, total.clamp(max=24.0)))

    outcome = make(name, eps=0.1, steps=20)(Formula(value, 3), images(3), batch_size=batch_size)
    assert outcome.zero_gradient[0] == 0
    assert outcome.zero_gradient[1] == 1
    assert 0 < outcome.zero_gradient[2] <= 1
    assert outcome.loss_rose.tolist() == [True, False, False]
    assert torch.equal(outcome.pixels[1], images(1)[0])
    assert outcome.iterations.tolist() == [20, 20, 20]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("when", ["clean", "later", "gradient", "last"])
def test_samples_without_a_finite_loss_or_gradient_are_marked_and_the_others_go_on(when: str, batch_size: int) -> None:
    def value(pixels: Tensor, index: Tensor) -> Tensor:
        total = pixels.flatten(1).sum(1)
        bad = (index == 2) | (index == 4)
        if when == "clean":
            return torch.where(bad, torch.nan, total)
        if when == "later":
            return torch.where(bad & (total != 24.0), torch.inf, total)
        if when == "last":
            return torch.where(bad & (total > 28.5), torch.nan, total)
        # Finite, but with a root whose derivative at zero is not.
        return torch.where(bad, 0 * total, total).sqrt()

    attack = PGD(eps=0.1, steps=3, step_size=0.1, random_start=False)
    outcome = attack(Formula(value, 5), images(5), batch_size=batch_size)
    assert outcome.failed.tolist() == [False, False, True, False, True]
    assert not outcome.fooled.any()
    healthy = attack(Formula(lambda pixels, index: value(pixels, 0 * index), 5), images(5), batch_size=batch_size)
    for row in (0, 1, 3):
        assert torch.equal(outcome.pixels[row], healthy.pixels[row])
        assert outcome.iterations[row] == 3
    assert (outcome.pixels - images(5)).abs().amax() <= 0.1 + 1e-6
    assert outcome.pixels.isfinite().all()


def test_a_failure_of_all_samples_is_an_error() -> None:
    with pytest.raises(InputError, match="not a finite number for any of the samples"):
        PGD(eps=0.1, steps=3)(Formula(lambda pixels, index: pixels.flatten(1).sum(1) / 0, 3), images(3), batch_size=2)


class Narrow(Formula):
    """Runs out of memory on more than ``room`` images with a gradient."""

    room = 3

    def __call__(self, pixels: Tensor, index: Tensor, *, loss: str = "") -> Score:
        if pixels.requires_grad and len(pixels) > self.room:
            raise torch.OutOfMemoryError("no room for this batch")
        return super().__call__(pixels, index, loss=loss)


def test_out_of_memory_halves_the_batch_size_once_per_warning_and_changes_nothing() -> None:
    def value(pixels: Tensor, index: Tensor) -> Tensor:
        return (pixels * (index + 1)[:, None, None, None]).sin().flatten(1).sum(1)

    attack = PGD(eps=0.1, steps=5, restarts=2)
    with pytest.warns(RuntimeWarning, match="out of memory at") as caught:
        outcome = attack(Narrow(value, 20), images(20), batch_size=16)
    assert [str(w.message) for w in caught] == [
        "out of memory at batch size 16; going on with 8",
        "out of memory at batch size 8; going on with 4",
        "out of memory at batch size 4; going on with 2",
    ]
    expected = attack(Formula(value, 20), images(20), batch_size=2)
    assert torch.equal(outcome.pixels, expected.pixels)
    assert torch.equal(outcome.iterations, expected.iterations)


def test_out_of_memory_for_a_single_image_is_an_error() -> None:
    objective = Narrow(lambda pixels, index: pixels.flatten(1).sum(1), 2)
    objective.room = 0
    with pytest.raises(torch.OutOfMemoryError), pytest.warns(RuntimeWarning, match="going on with 1"):
        PGD(eps=0.1, steps=5)(objective, images(2), batch_size=2)


def test_when_time_is_up_every_sample_keeps_what_it_has() -> None:
    objective = Formula(lambda pixels, index: pixels.flatten(1).sum(1), 6)
    outcome = PGD(eps=0.1, steps=50)(objective, images(6), batch_size=2, seconds=0.0)
    assert outcome.unfinished.all()
    assert not outcome.fooled.any()
    unlimited = PGD(eps=0.1, steps=5)(objective, images(6), batch_size=2, seconds=1e6)
    assert not unlimited.unfinished.any()


def test_what_was_found_when_time_runs_out_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    objective = Countdown([NEVER, 2, NEVER, 3, NEVER, 0])
    outcome = PGD(eps=0.1, steps=50)(objective, images(6), batch_size=2, seconds=6.0)
    # The first and the third sample hold the two slots to the end.
    assert outcome.fooled.tolist() == [False, True, False, False, False, True]
    assert outcome.unfinished.tolist() == [True, False, True, True, True, False]
    assert (outcome.distance > 0).tolist() == [True, True, True, False, False, False]
    assert outcome.iterations.min() >= 0


def test_an_objective_that_fails_names_the_samples_and_the_cause() -> None:
    def value(pixels: Tensor, index: Tensor) -> Tensor:
        if (index == 3).any():
            raise KeyError("no such caption")
        return pixels.flatten(1).sum(1)

    with pytest.raises(InputError, match="failed on samples '2', '3': KeyError: 'no such caption'") as caught:
        PGD(eps=0.1, steps=3)(Formula(value, 4), images(4), batch_size=2)
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    "value",
    [
        lambda pixels, index: torch.ones(len(pixels)),
        lambda pixels, index: pixels.detach().flatten(1).sum(1),
        lambda pixels, index: torch.ones(len(pixels), requires_grad=True) * 2,
    ],
)
def test_a_loss_without_a_gradient_is_refused(value: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(InputError, match="no gradient with respect to the pixels, which pgd needs"):
        PGD(eps=0.1, steps=3)(Formula(value, 2), images(2), batch_size=2)


def test_a_loss_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(InputError, match="one loss and one flag per sample"):
        PGD(eps=0.1, steps=3)(Formula(lambda pixels, index: pixels.sum(), 2), images(2), batch_size=2)
