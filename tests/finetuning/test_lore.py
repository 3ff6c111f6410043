from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from radapt.attacks import EmbeddingObjective, make
from radapt.errors import SettingsError
from radapt.finetuning import Twin, finetune
from radapt.finetuning.lore import LORE

ROWS = torch.tensor([6, 1, 4])
SHORT: dict[str, Any] = {"batch_size": 4, "attack_steps": 2, "eps": 8 / 255, "lr": 1e-3, "quiet": True}


@pytest.fixture
def pair(twin: Twin) -> Twin:
    """A twin with multipliers."""
    return replace(twin, multipliers=LORE(hidden=6).multipliers(twin.original, 3).parameters)


def embedding(model: Any, pixels: Tensor) -> Any:
    with torch.no_grad():
        return model.encode_image(pixels).double().numpy()


def multiplier(network: Any, reference: Any) -> Any:
    weights = {name: tensor.detach().double().numpy() for name, tensor in network.items()}
    hidden = np.maximum(reference @ weights["0.weight"].T + weights["0.bias"], 0)
    return np.log1p(np.exp(hidden @ weights["1.weight"].T + weights["1.bias"]))[:, 0]


def test_it_is_the_lagrangian(pair: Twin) -> None:
    clean = pair.data.pixels(ROWS)
    adversarial = (clean + 0.05).clamp(0, 1)
    reference = embedding(pair.original, clean)
    robust = ((embedding(pair.tuned, adversarial) - reference) ** 2).sum(1)
    excess = ((embedding(pair.tuned, clean) - reference) ** 2).sum(1) - 0.1 * (reference**2).sum(1)
    weights = multiplier(pair.multipliers, reference)
    assert (weights > 0).all()
    loss = LORE(hidden=6).loss(pair, ROWS, clean, adversarial).item()
    assert loss == pytest.approx((robust + weights * excess).mean(), rel=1e-4)
    with torch.no_grad():
        score = LORE().objective(pair, ROWS, clean)(adversarial[[2, 0]], torch.tensor([2, 0]))
    assert score.loss.tolist() == pytest.approx(robust[[2, 0]], rel=1e-4)


def test_what_is_minimised_over_the_model_is_maximised_over_the_multipliers(pair: Twin) -> None:
    clean = pair.data.pixels(ROWS)
    adversarial = (clean + 0.05).clamp(0, 1)
    weight, method = pair.tuned.model.visual_projection.weight.requires_grad_(), LORE(hidden=6)
    bias = pair.multipliers["1.bias"]
    downhill, uphill = torch.autograd.grad(method.loss(pair, ROWS, clean, adversarial), [weight, bias])
    direction = torch.randn_like(weight)

    def slope(tensor: Tensor, along: Tensor) -> float:
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                tensor.add_(sign * 1e-3 * along)
                values.append(method.loss(pair, ROWS, clean, adversarial).item())
                tensor.sub_(sign * 1e-3 * along)
        return (values[0] - values[1]) / 2e-3

    assert (downhill * direction).sum().item() == pytest.approx(slope(weight, direction), rel=0.05)
    assert uphill.item() == pytest.approx(-slope(bias, torch.ones_like(bias)), rel=0.05)


def test_multipliers_grow_where_embeddings_have_gone_too_far_and_shrink_where_they_have_not(
    tiny_vlm: Any, tiny_shapes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a whole training: with rho = 0 no distance is tolerated, with a large rho any."""
    found = dict[float, float]()
    for rho in (0.0, 100.0):
        method, networks = LORE(rho=rho, updates=2, multiplier_lr=1e-2), list[Any]()
        make_network = LORE.multipliers

        def kept(self: Any, *given: Any, made: Any = make_network, into: Any = networks) -> Any:
            into.append(made(self, *given))
            return into[-1]

        monkeypatch.setattr(LORE, "multipliers", kept)
        finetune(method, tiny_vlm, tiny_shapes(8), steps=6, **{**SHORT, "attack_steps": 1})
        monkeypatch.setattr(LORE, "multipliers", make_network)
        reference = embedding(tiny_vlm, tiny_shapes(8).pixels(range(8)))
        before = multiplier(method.multipliers(tiny_vlm, 0).parameters, reference).mean()
        found[rho] = multiplier(networks[0].parameters, reference).mean() - before
    assert found[0.0] > 1e-3
    assert found[100.0] < -1e-3


@pytest.mark.slow
def test_it_resists_the_attack_and_keeps_clean_embeddings_where_they_may_be(tiny_vlm: Any, tiny_shapes: Any) -> None:
    data = tiny_shapes(8)
    clean = data.pixels(range(8))
    reference = embedding(tiny_vlm, clean)

    def distances(model: Any) -> tuple[float, float]:
        """Of clean embeddings, and of those under a fresh attack."""
        objective = EmbeddingObjective(model.encode_image, torch.from_numpy(reference).float())
        found = make("pgd", eps=8 / 255, steps=5)(objective, clean)
        return float(((embedding(model, clean) - reference) ** 2).sum(1).mean()), float(found.loss.mean())

    options = {**SHORT, "steps": 120, "lr": 3e-3, "batch_size": 8}
    near, robust = distances(finetune("lore", tiny_vlm, data, **options).model)
    far, _ = distances(finetune("fare", tiny_vlm, data, **options).model)
    allowed = 0.1 * (reference**2).sum(1).mean()
    assert near < allowed < far
    assert robust < 0.8 * distances(tiny_vlm)[1]


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [7, 22])
def test_a_killed_run_resumes_to_the_same_weights_and_multipliers(
    tiny_vlm: Any, tiny_shapes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    data, file, loss, calls = tiny_shapes(8), tmp_path / "run.safetensors", LORE.loss, list[int]()
    options = {**SHORT, "steps": 24, "accumulate": 2, "attack_steps": 1, "batch_size": 2}
    whole = finetune("lore", tiny_vlm, data, **options)

    def dies(self: Any, *given: Any) -> Any:
        calls.append(1)
        if len(calls) == 2 * killed_at:
            raise KeyboardInterrupt
        return loss(self, *given)

    monkeypatch.setattr(LORE, "loss", dies)
    with pytest.raises(KeyboardInterrupt):
        finetune("lore", tiny_vlm, data, checkpoint=file, **options)
    monkeypatch.setattr(LORE, "loss", loss)
    assert file.exists() == (killed_at > 20)
    if file.exists():
        with pytest.raises(SettingsError, match=r"belongs to a training with .*method '[0-9a-f]+' instead of"):
            finetune(LORE(rho=0.3), tiny_vlm, data, checkpoint=file, **options)
    resumed = finetune("lore", tiny_vlm, data, checkpoint=file, **options)
    assert resumed.losses == whole.losses
    weights = resumed.model.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in whole.model.model.state_dict().items())
    again = finetune("lore", tiny_vlm, data, checkpoint=file, **options)  # a finished run is not run again
    assert again.losses == whole.losses


def test_a_training_too_short_for_a_step_of_the_multipliers_resumes_too(
    tiny_vlm: Any, tiny_shapes: Any, tmp_path: Path
) -> None:
    options = {**SHORT, "steps": 3, "checkpoint": tmp_path / "run.safetensors"}
    first = finetune("lore", tiny_vlm, tiny_shapes(8), **options)
    assert finetune("lore", tiny_vlm, tiny_shapes(8), **options).losses == first.losses


def test_its_settings_are_recorded(tiny_vlm: Any, tiny_shapes: Any) -> None:
    made = finetune(LORE(rho=0.2), tiny_vlm, tiny_shapes(8), steps=1, **SHORT)
    assert made.recipe["options"] == {"rho": 0.2, "updates": 5, "multiplier_lr": 5e-4, "hidden": 512}


@pytest.mark.parametrize(
    "wrong", [{"rho": -0.1}, {"rho": float("inf")}, {"updates": 0}, {"multiplier_lr": 0.0}, {"hidden": 1.5}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], unchecked: None) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        LORE(**wrong)
