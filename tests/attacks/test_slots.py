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


def test_samples_begin_in_their_slots_only() -> None:
    slots = SlotState(IMAGES, VALUES, 3)
    slots.begin(torch.tensor([0, 1, 2]), torch.tensor([1, 2, 3]), IMAGES, VALUES)
    slots.place(torch.tensor([0, 1, 2]), IMAGES[:3] + 0.5, {"memory": torch.tensor([7, 8, 9])})
    slots.iteration, slots.vanished = slots.iteration + 4, slots.vanished + 2
    slots.remember(slots.points, torch.tensor([5.0, 0.0, 5.0]), torch.tensor([False, True, False]))
    before = {name: value.clone() for name, value in vars(slots).items() if isinstance(value, torch.Tensor)}
    slots.begin(torch.tensor([1]), torch.tensor([4]), IMAGES, VALUES)
    slots.place(torch.tensor([1]), IMAGES[:3] - 1, {"memory": torch.tensor([0, 1, 0])})
    for name, value in before.items():
        assert torch.equal(vars(slots)[name][[0, 2]], value[[0, 2]]), name
    assert slots.state["memory"].tolist() == [7, 1, 9]
    assert (slots.sample[1], slots.iteration[1], slots.vanished[1], slots.value[1]) == (4, 0, 0, 4.0)
    assert not slots.fooled[1]
    assert torch.equal(slots.clean[1], IMAGES[4])
    assert torch.equal(slots.best[1], IMAGES[4])
    assert torch.equal(slots.points[1], IMAGES[1] - 1)
