"""Searches that are given up: the rule, what it costs and what it must not do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pytest
import torch
from tests.attacks.landscape import CLASSES, Landscape
from torch import Tensor

from radapt.attacks import ClassificationObjective, Outcome, Score, Stoppable, make, round_8bit
from radapt.attacks._abandonment import Abandonment, _is_exempt
from radapt.attacks._search import Evaluation
from radapt.attacks._slots import SlotState
from radapt.attacks.apgd import APGD
from radapt.attacks.fab import FAB
from radapt.attacks.pgd import PGD
from radapt.errors import SettingsError

BATCH_SIZE = 50


def searches(count: int, logits: list[float], target: Tensor | None = None) -> tuple[SlotState, Tensor]:
    """Searches that begin, of samples of class 0, and their logits."""
    slots = SlotState.begin(torch.arange(count), torch.zeros(count, 3, 2, 2), torch.zeros(count))
    slots.target = slots.target if target is None else target
    return slots, torch.tensor([logits] * count)


def rising(stopping: Abandonment, ways: list[list[float]], steps: int) -> list[int | None]:
    """When each of several searches is first hopeless, given how far it has come after every step."""
    count = len(ways)
    # A margin of -4 at the clean image; a search that has come r of its way has one of -4 (1 - r).
    slots, logits = searches(count, [4.0, 0.0, -9.0])
    stopping.begin(slots, logits)
    ended: list[int | None] = [None] * count
    for k in range(steps):
        logits = torch.tensor([[4 * (1 - way[k]), 0.0, -9.0] for way in ways])
        none = torch.zeros(count, dtype=torch.bool)
        slots.iteration = torch.full((count,), k)
        hopeless = stopping.hopeless(slots, Evaluation(slots.clean, torch.zeros(count), none, torch.zeros(0), logits))
        for row in hopeless.nonzero().flatten().tolist():
            ended[row] = k if ended[row] is None else ended[row]
    return ended


@pytest.mark.parametrize("growth", [0.2, 0.35, 1.0])
def test_a_search_ends_where_its_way_extrapolated_by_a_power_falls_short(growth: float) -> None:
    steps = 200
    plateaus = [0.0, 0.203, 0.507, 0.703, 0.903, 0.998, 1.01]
    ways = [[height] * steps for height in plateaus]
    expected = []
    for height in plateaus:
        late = [k for k in range(steps) if k >= 20 and height > 0 and height * (steps / k) ** growth < 1]
        expected.append(late[0] if late else None)
    stopping = Abandonment(APGD(eps=0.1, steps=steps, growth=growth), [str(i) for i in range(len(ways))], 0)
    assert rising(stopping, ways, steps) == expected
    assert expected[0] is None
    assert min(end for end in expected if end is not None) in (20, *range(40, 42))


def test_the_farthest_point_counts_and_no_search_ends_before_its_tenth_step() -> None:
    steps = 30
    fallen = [0.99] + [0.01] * (steps - 1)
    short = [0.05] * steps
    stopping = Abandonment(APGD(eps=0.1, steps=steps, growth=0.35), ["a", "b"], 0)
    assert rising(stopping, [fallen, short], steps) == [None, 10]


def test_a_targeted_search_is_measured_by_its_target() -> None:
    stopping = Abandonment(APGD(eps=0.1, steps=100, growth=0.35, loss="ce-targeted"), ["a", "b"], 0)
    slots, logits = searches(2, [4.0, 0.0, 0.0], torch.tensor([1, 2]))
    stopping.begin(slots, logits)
    slots.iteration = torch.full((2,), 40)
    logits = torch.tensor([[2.0, 1.9, 0.5]] * 2)
    current = Evaluation(slots.clean, torch.zeros(2), slots.over, torch.zeros(0), logits)
    assert stopping.hopeless(slots, current).tolist() == [False, True]


def test_fab_has_come_as_far_as_its_nearest_success_is_near() -> None:
    clean = torch.full((3, 3, 2, 2), 0.5)
    points = clean + torch.tensor([0.2, 0.05, 0.2])[:, None, None, None]
    fooled = torch.tensor([True, True, False])
    reach = FAB(eps=0.1)._reach(clean, Evaluation(points, torch.zeros(3), fooled, clean), *torch.zeros(2, 3))
    assert reach.tolist() == pytest.approx([0.5, 2.0, 0.0])


def attacked(growth: float | None, *, name: str = "apgd", stop: bool = True, **settings: Any) -> Outcome:
    clean = 0.2 + 0.6 * torch.rand(150, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    land = Landscape(clean)
    objective = ClassificationObjective(land.logits, land.labels, CLASSES, stop=stop)
    return make(name, growth=growth, **settings)(objective, clean, batch_size=BATCH_SIZE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("apgd", {"eps": 0.012}),
        ("apgd", {"eps": 0.012, "loss": "ce-targeted", "restarts": 3}),
        ("apgd", {"eps": 0.06, "norm": "l2"}),
        pytest.param("fab", {"eps": 0.012, "loss": "margin-targeted", "restarts": 3}, marks=pytest.mark.slow),
        pytest.param("square", {"eps": 0.012, "steps": 400}, marks=pytest.mark.slow),
    ],
)
def test_verdicts_stay_and_the_survivors_cost_less(name: str, settings: dict[str, Any]) -> None:
    whole, eager = (attacked(growth, name=name, **settings) for growth in (None, 0.35))
    assert 5 < whole.fooled.sum() < 145
    # These hills are wilder than a network's; still hardly a search is given up that would have succeeded.
    assert not (eager.fooled & ~whole.fooled).any()
    assert (eager.fooled != whole.fooled).sum() <= 3
    left = ~whole.fooled
    assert eager.forwards[left].sum() < 0.8 * whole.forwards[left].sum()
    assert not (eager.given_up & eager.fooled).any()
    assert eager.given_up.any()
    assert eager.audited.any()
    # An audited search goes on to its end.
    assert torch.equal(eager.iterations[eager.audited & left], whole.iterations[eager.audited & left])
    assert not whole.given_up.any()
    assert not whole.audited.any()


def test_nothing_is_given_up_where_whole_searches_are_wanted() -> None:
    settings: dict[str, Any] = {"eps": 0.012, "steps": 30, "stop": False}
    whole, eager = (attacked(growth, **settings) for growth in (None, 0.35))
    assert torch.equal(whole.pixels, eager.pixels)
    assert not eager.given_up.any()


def late(size: int) -> ClassificationObjective:
    """Half way to a success from the first step on, and all the way near the border of the ball."""

    def logits(pixels: Tensor) -> Tensor:
        moved = (pixels - 0.5).flatten(1).mean(1) / 0.01
        margin = torch.where(moved == 0, -4.0, torch.where(moved > 0.8, 1.0, -2.0)) + 1e-3 * moved
        return torch.stack([torch.zeros_like(margin), margin], 1)

    return ClassificationObjective(logits, torch.zeros(size, dtype=torch.long), 2)


@final
@dataclass(frozen=True, kw_only=True)
class Creeping(PGD, Stoppable):
    """Steps so small that a search may seem hopeless on its way."""

    growth: float | None = None


def test_mistakes_show_on_the_audited_samples() -> None:
    size = 64
    clean = torch.full((size, 3, 2, 2), 0.5)
    attack = Creeping(eps=0.01, steps=100, growth=0.35, step_size=0.01 / 60, random_start=False)
    outcome = attack(late(size), clean, batch_size=7)
    assert 1 <= outcome.audited.sum() <= 12
    for flags in (outcome.misjudged, outcome.fooled, ~outcome.given_up):
        assert torch.equal(outcome.audited, flags)
    # Which ones they are depends on their keys, not on their neighbours.
    for part in (0, 1):
        half = attack(late(size // 2), clean[part::2], batch_size=7, keys=[str(i) for i in range(part, size, 2)])
        assert torch.equal(half.audited, outcome.audited[part::2])


def test_images_are_scored_as_a_file_holds_them() -> None:
    clean = round_8bit(torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(1)))

    def logits(pixels: Tensor) -> Tensor:
        # Class 1 where pixels have moved by more than 0.3 levels on the mean; half of the samples need 3 levels.
        moved = (pixels - clean_of(pixels)).abs().flatten(1).mean(1) * 255
        return torch.stack([torch.full_like(moved, 0.3) + 2.7 * far_of(pixels), moved], 1)

    current: dict[str, Tensor] = {}

    def clean_of(pixels: Tensor) -> Tensor:
        return clean[current["index"]]

    def far_of(pixels: Tensor) -> Tensor:
        return (current["index"] >= 3).to(pixels)

    class Watched(ClassificationObjective):
        def __call__(self, pixels: Tensor, index: Tensor, **rest: Any) -> Score:
            current["index"] = index
            return super().__call__(pixels, index, **rest)

    objective = Watched(logits, torch.zeros(6, dtype=torch.long), 2)
    small = make("pgd", eps=0.45 / 255, steps=3)(objective, clean, batch_size=6)
    assert small.fooled.tolist() == [True] * 3 + [False] * 3
    assert not small.fooled_8bit.any()
    large = make("pgd", eps=5 / 255, steps=20)(objective, clean, batch_size=6)
    assert large.fooled_8bit.all()


def test_what_was_made_without_gradients_is_marked() -> None:
    assert attacked(None, name="square", eps=0.05, steps=20).gradient_free.all()
    assert not attacked(None, name="apgd", eps=0.05, steps=20).gradient_free.any()


@pytest.mark.parametrize("growth", [0.0, -0.1, np.inf])
def test_a_growth_that_makes_no_sense_is_refused(growth: float) -> None:
    with pytest.raises(SettingsError, match="growth must be a number above 0"):
        make("apgd", eps=0.1, growth=growth)


def test_attacks_of_small_steps_or_that_leave_the_ball_or_look_elsewhere_have_no_growth() -> None:
    for name in ("pgd", "cw", "mi-fgsm", "low-frequency"):
        with pytest.raises(SettingsError, match="no setting 'growth'"):
            make(name, eps=0.1, growth=0.35)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [2, 16])
def test_searches_that_go_on_as_a_check_are_chosen_by_their_keys(batch_size: int) -> None:
    clean, objective = torch.full((64, 3, 2, 2), 0.5), late(64)
    settings: dict[str, Any] = {"eps": 0.01, "step_size": 0.01 / 600, "growth": 0.35}
    outcome = Creeping(**settings, steps=100)(objective, clean, batch_size=batch_size)
    audited = [str(i) for i in outcome.audited.nonzero().flatten().tolist()]
    assert audited == [key for key in map(str, range(64)) if _is_exempt(0, key)]
    assert (outcome.iterations[outcome.audited] == 100).all()
    assert (outcome.iterations[outcome.given_up] < 100).all()
    # A search that is over before any could be hopeless needs no check.
    assert not Creeping(**settings, steps=10)(objective, clean, batch_size=batch_size).audited.any()


@pytest.mark.slow
def test_every_restart_is_given_up_once() -> None:
    clean = torch.full((64, 3, 2, 2), 0.5)
    settings: dict[str, Any] = {"eps": 0.01, "steps": 100, "step_size": 0.01 / 600}
    outcome = Creeping(**settings, growth=0.35, restarts=3)(late(64), clean, batch_size=7)
    assert not outcome.fooled.any()
    # Half way from the first step on, each of three searches is hopeless after a seventh of its steps.
    ends = next(k for k in range(10, 100) if 0.5 * (100 / k) ** 0.35 < 1)
    for flags, steps in ((outcome.given_up, ends), (outcome.audited, 100)):
        assert flags.any()
        assert outcome.iterations[flags].tolist() == [3 * steps] * int(flags.sum())
    # The clean image and two checks; and of whole searches the last point.
    assert outcome.forwards[outcome.given_up].tolist() == [3 * (ends + 1) + 3] * int(outcome.given_up.sum())
    assert outcome.forwards[outcome.audited].tolist() == [3 * 101 + 3] * int(outcome.audited.sum())
