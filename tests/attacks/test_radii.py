"""Several radii, from the smallest up."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from tests.attacks.landscape import CLASSES, Landscape
from torch import Tensor

from radapt.attacks import ClassificationObjective, Score, ascending, make
from radapt.errors import SettingsError

RADII = [0.02, 0.004, 0.01]


@pytest.fixture
def clean() -> Tensor:
    return 0.2 + 0.6 * torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(3))


def hills(clean: Tensor) -> ClassificationObjective:
    land = Landscape(clean)
    return ClassificationObjective(land.logits, land.labels, CLASSES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"), [("apgd", {"steps": 20}), ("square", {"steps": 60}), ("autoattack", {"n_queries": 60})]
)
def test_a_sample_fooled_within_a_radius_stays_fooled(clean: Tensor, name: str, settings: dict[str, Any]) -> None:
    found = ascending(make(name, eps=1.0, **settings), hills(clean), clean, radii=RADII, batch_size=40, seed=2)
    assert list(found) == sorted(RADII)
    outcomes = list(found.values())
    assert 0 < outcomes[0].fooled.sum() < outcomes[1].fooled.sum() < outcomes[2].fooled.sum()
    for eps, outcome in found.items():
        assert (outcome.pixels - clean).abs().max() <= eps + 1e-6
        assert torch.allclose(outcome.distance, (outcome.pixels - clean).abs().amax((1, 2, 3)))
    for small, large in pairwise(outcomes):
        assert torch.equal(large.pixels[small.fooled], small.pixels[small.fooled])
        assert large.fooled[small.fooled].all()
        assert torch.equal(large.forwards[small.fooled], small.forwards[small.fooled])
        assert (large.forwards[~small.fooled] > small.forwards[~small.fooled]).all()


def test_it_is_as_strong_as_every_radius_by_itself(clean: Tensor) -> None:
    attack = make("apgd", eps=1.0, steps=30)
    found = ascending(attack, hills(clean), clean, radii=RADII, batch_size=40)
    for eps, outcome in found.items():
        alone = make("apgd", eps=eps, steps=30)(hills(clean), clean, batch_size=40)
        assert outcome.fooled.sum() >= alone.fooled.sum() - 1


def test_a_larger_radius_starts_where_the_last_one_ended(clean: Tensor) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    class Watched(ClassificationObjective):
        def __call__(self, pixels: Tensor, index: Tensor, **rest: Any) -> Score:
            if pixels.requires_grad:
                seen.append((pixels.detach().clone(), index.clone()))
            return super().__call__(pixels, index, **rest)

    land = Landscape(clean[:4], rate=0.05)
    objective = Watched(land.logits, land.labels, CLASSES)
    found = ascending(make("pgd", eps=1.0, steps=3), objective, clean[:4], radii=[0.01, 0.02], batch_size=4)
    assert not found[0.02].fooled.any()
    first = next(pixels for pixels, _ in seen[3:])
    assert torch.allclose(first, found[0.01].pixels, atol=1e-6)


def test_no_radius_is_refused(clean: Tensor) -> None:
    with pytest.raises(SettingsError, match="radii is empty"):
        ascending(make("pgd", eps=1.0), hills(clean), clean, radii=[])
    with pytest.raises(SettingsError, match="eps must be a number above 0"):
        ascending(make("pgd", eps=1.0), hills(clean), clean, radii=[0.1, -1])
