"""Replicas share weights and nothing else: adapters and hooks of one are not the other's, in any thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from tests.tiny import tiny_clip
from torch import Tensor

import radapt
from radapt.adapters import adapter_of, graft
from radapt.models import replica

PIXELS = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))


def test_a_replica_gives_the_same_on_the_same_weights() -> None:
    model = tiny_clip()
    other = replica(model)
    assert torch.equal(other.encode_image(PIXELS), model.encode_image(PIXELS))
    own = dict(model.model.named_parameters())
    assert all(parameter is own[name] for name, parameter in other.model.named_parameters())
    assert other.fingerprint == model.fingerprint


def test_what_is_attached_to_one_is_not_on_the_other() -> None:
    model = tiny_clip()
    before = model.encode_image(PIXELS)
    other = replica(model)
    radapt.training_free(model).attach(other)
    assert radapt.attached(other)
    assert not radapt.attached(model)
    assert torch.equal(model.encode_image(PIXELS), before)
    assert not torch.equal(other.encode_image(PIXELS), before)


def test_a_replica_of_a_defended_model_has_no_defence() -> None:
    model = tiny_clip()
    before = model.encode_image(PIXELS)
    adapter = radapt.training_free(model)
    with adapter.attach(model):
        model.input_transform = torch.flip  # type: ignore[assignment]
        other = replica(model)
        assert adapter_of(other) is None
        assert adapter_of(model) is not None
    assert torch.equal(other.encode_image(PIXELS), before)


def test_deltas_change_the_weights_of_one_alone() -> None:
    model, guide = tiny_clip(), tiny_clip("guide")
    with torch.no_grad():
        guide.tower.blocks[0].mlp.fc1.weight += 1
    before, adapter = model.encode_image(PIXELS), graft(model, guide, weights="block:0")
    one, two = replica(model), replica(model)
    with adapter.attach(one):
        assert not torch.equal(one.encode_image(PIXELS), before)
        assert torch.equal(model.encode_image(PIXELS), before)
        assert torch.equal(two.encode_image(PIXELS), before)
        assert torch.equal(replica(one).encode_image(PIXELS), before)
    assert torch.equal(one.encode_image(PIXELS), before)


@pytest.mark.usefixtures("unchecked")
def test_replicas_run_in_threads_as_if_alone() -> None:
    model = tiny_clip(factor=5)
    adapters = [radapt.training_free(model, alpha=alpha) for alpha in (0.0, 0.3, 0.6, 1.0)]

    def defended(adapter: Any) -> Tensor:
        other = replica(model)
        adapter.attach(other)
        return other.encode_image(PIXELS)

    alone = [defended(adapter) for adapter in adapters]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(defended, adapters * 8))
    assert all(torch.equal(each, alone[at % 4]) for at, each in enumerate(together))
    assert len({tuple(each.flatten().tolist()) for each in alone}) == 4
