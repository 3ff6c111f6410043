"""The rows of a batch: what begins in some slots leaves the others as they are, and the better point is kept."""

from __future__ import annotations

import torch

from radapt.attacks._slots import SlotState, is_better

IMAGES = torch.arange(5.0)[:, None, None, None].expand(-1, 3, 2, 2) / 10
VALUES = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])


def test_a_point_that_fools_is_better_and_then_the_larger_value() -> None:
    fooled = torch.tensor([True, False, True, True, False, False])
    best_fooled = torch.tensor([False, True, True, True, False, False])
    value, best_value = torch.tensor([0.0, 9.0, 2.0, 1.0, 2.0, 2.0]), torch.tensor([9.0, 0.0, 1.0, 1.0, 1.0, 3.0])
    assert is_better(fooled, value, best_fooled, best_value).tolist() == [True, False, True, False, True, False]


def begun(samples: list[int]) -> SlotState:
    slots = SlotState.begin(torch.tensor(samples), IMAGES[samples], VALUES[samples])
    slots.state = {"memory": torch.tensor(samples) + 7}
    return slots


def rows_of(slots: SlotState) -> dict[str, torch.Tensor]:
    return {**{name: value for name, value in vars(slots).items() if name != "state"}, **slots.state}


def test_searches_that_begin_and_leave_do_not_change_the_others() -> None:
    slots = begun([1, 2, 3])
    slots.iteration, slots.vanished = slots.iteration + 4, slots.vanished + 2
    slots.points = slots.points + 0.5
    slots.remember(slots.points, torch.tensor([5.0, 0.0, 5.0]), torch.tensor([False, True, False]))
    assert torch.equal(slots.best, IMAGES[1:4] + 0.5)
    assert slots.fooled.tolist() == [False, True, False]
    more = slots.extended(begun([4]))
    fewer = more.select(torch.tensor([0, 2]))
    for name, value in rows_of(slots).items():
        assert torch.equal(rows_of(more)[name], torch.cat([value, rows_of(begun([4]))[name]])), name
        assert torch.equal(rows_of(fewer)[name], value[[0, 2]]), name
    assert (more.sample[3], more.iteration[3], more.value[3], more.state["memory"][3]) == (4, 0, 4.0, 11)


def test_nothing_changes_in_a_search_that_is_over() -> None:
    slots = begun([1, 2])
    slots.over = torch.tensor([True, False])
    slots.remember(slots.points + 1, torch.tensor([9.0, 9.0]), torch.tensor([True, True]))
    assert slots.value.tolist() == [1.0, 9.0]
    assert slots.fooled.tolist() == [False, True]
    assert torch.equal(slots.best, torch.stack([IMAGES[1], IMAGES[2] + 1]))
