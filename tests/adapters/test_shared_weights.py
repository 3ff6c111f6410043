"""Layers that share one weight: an adapter changes it in all of them, and each of them gets it back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import changed_twin, tiny_clip
from torch import Tensor

import radapt
from radapt.adapters import graft
from radapt.errors import AdapterError
from radapt.models import VLM, interpolated, parts

PIXELS = torch.rand(4, 3, 48, 48, generator=torch.Generator().manual_seed(3))


def layers(model: VLM) -> Any:
    return model.tower.root.encoder.layers


def shared(model: VLM) -> VLM:
    """A model whose second block has the first one's first linear layer of the MLP."""
    layers(model)[1].mlp.fc1.weight = layers(model)[0].mlp.fc1.weight
    return model


@pytest.fixture
def model() -> VLM:
    return shared(tiny_clip(factor=4.0))


def embedded(model: VLM) -> Tensor:
    with torch.no_grad():
        return model.encode_image(PIXELS)


def test_it_is_a_part_of_the_first_block_that_has_it(model: VLM) -> None:
    name = next(name for name, each in model.image_parameters().items() if each is layers(model)[1].mlp.fc1.weight)
    assert name in parts(model, "block:0")
    assert name not in parts(model, "block:1")


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_interpolation_changes_it_in_every_layer(model: VLM, weight: float) -> None:
    twin = changed_twin(model)
    between = interpolated(model, twin, {"block:0": weight})
    first, second = layers(between)
    assert second.mlp.fc1.weight is first.mlp.fc1.weight
    own, its = (layers(each)[0].mlp.fc1.weight for each in (model, twin))
    torch.testing.assert_close(first.mlp.fc1.weight, torch.lerp(own, its, weight))


def test_a_graft_of_everything_is_the_twin_and_comes_off_again(model: VLM) -> None:
    twin, before = changed_twin(model), embedded(model)
    own, state = layers(model)[0].mlp.fc1.weight, {k: v.clone() for k, v in model.model.state_dict().items()}
    adapter = graft(model, twin, weights="embedding+block:0-1")
    expected = embedded(interpolated(model, twin, {"embedding+block:0-1": 1}))
    with adapter.attach(model):
        torch.testing.assert_close(embedded(model), expected, atol=1e-4, rtol=1e-4)
        assert layers(model)[1].mlp.fc1.weight is layers(model)[0].mlp.fc1.weight is not own
        saved = model.model.state_dict()  # in which both layers have the model's own
        assert list(saved) == list(state)
        assert all(torch.equal(saved[name], state[name]) for name in state)
    assert layers(model)[0].mlp.fc1.weight is layers(model)[1].mlp.fc1.weight is own
    assert torch.equal(embedded(model), before)


def test_what_is_trained_is_what_is_attached(model: VLM) -> None:
    """The first loss of a training that begins with a graft is that of the model with the graft on it."""
    start = graft(model, changed_twin(model), weights="block:0")
    reference = embedded(model)
    with start.attach(model):
        expected = float((embedded(model) - reference).square().sum(1).mean())
    settings: dict[str, Any] = {"eps": 2e-6, "attack_steps": 1, "steps": 1, "clean_weight": 0, "cutoff": None}
    adapter = radapt.shallow(model, PIXELS, layers="block:0", start=start, batch_size=4, quiet=True, **settings)
    assert adapter.settings.origin["first_loss"] == pytest.approx(expected, rel=1e-3)
    assert expected > 0


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # of PEFT
def test_peft_would_change_one_layer_alone_and_is_refused(model: VLM, tmp_path: Path) -> None:
    adapter = graft(model, changed_twin(model), weights="block:0", rank=2)
    matrices = {name: delta for name, delta in adapter.deltas.items() if not isinstance(delta, Tensor)}
    low = radapt.Adapter(adapter.change(base_weights=None).settings, deltas=matrices)
    with pytest.raises(AdapterError, match=r"layers\.0\.mlp\.fc1\.weight and .*layers\.1\.mlp\.fc1\.weight are one"):
        low.save_peft(tmp_path / "lora", model)
    plain = tiny_clip(factor=4.0)
    low.save_peft(tmp_path / "lora", plain)  # which shares nothing
    with pytest.raises(AdapterError, match="are one weight"):
        radapt.Adapter.from_peft(tmp_path / "lora", model)


def test_the_model_is_the_same_one_while_an_adapter_is_on_it(model: VLM) -> None:
    before = model.fingerprint
    with graft(model, changed_twin(model)).attach(model):
        assert model.fingerprint == before
    layers(model)[1].mlp.fc1.weight = torch.nn.Parameter(layers(model)[0].mlp.fc1.weight.detach().clone())
    assert model.fingerprint == before  # what it puts out is the same
