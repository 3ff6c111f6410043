from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.models.openclip import CLIP
from tests.tiny import finetuned
from torch import Tensor

import radapt
from radapt.errors import SettingsError
from radapt.finetuning._layers import open_layers
from radapt.finetuning.fare import FARE
from radapt.models import parts

SHORT: dict[str, Any] = {"eps": 8 / 255, "attack_steps": 1, "batch_size": 4, "quiet": True}
BLOCK = "vision_model.encoder.layers.0."
LINEAR = [f"{BLOCK}self_attn.{each}_proj" for each in ("k", "v", "q", "out")] + [f"{BLOCK}mlp.fc{i}" for i in (1, 2)]


def bits(model: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.model.state_dict().items()}


def changed(before: dict[str, Tensor], model: Any) -> set[str]:
    after = model.model.state_dict()
    assert list(after) == list(before)
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def named(tensors: dict[str, Tensor]) -> set[str]:
    """Keys without their bias: k_proj.bias moves no attention, so its gradient may be zero."""
    return {name for name in tensors if not name.endswith("k_proj.bias")}


@pytest.mark.parametrize("layers", ["embedding", "attention:1", "block:0+head", "deep:1-", "embedding+block:0", "all"])
def test_only_what_was_chosen_changes(tiny_vlm: Any, tiny_shapes: Any, layers: str) -> None:
    before, chosen = bits(tiny_vlm), parts(tiny_vlm, layers)
    tuned, _ = finetuned(FARE(), tiny_vlm, tiny_shapes(8), layers=layers, steps=2, lr=1e-3, **SHORT)
    moved = changed(before, tuned)
    assert moved <= set(chosen)
    assert moved >= named(chosen)
    assert changed(before, tiny_vlm) == set()
    assert not any(parameter.requires_grad for parameter in tuned.model.parameters())


@pytest.mark.slow
def test_low_rank_updates_are_of_that_rank_and_leave_an_ordinary_model(
    tiny_vlm: Any, tiny_shapes: Any, tmp_path: Path
) -> None:
    before = bits(tiny_vlm)
    state = torch.get_rng_state()
    tuned, history = finetuned(FARE(), tiny_vlm, tiny_shapes(8), layers="lora:r2@0", steps=20, lr=1e-2, **SHORT)
    assert torch.equal(torch.get_rng_state(), state)
    assert changed(before, tuned) == {f"{name}.weight" for name in LINEAR}
    for name in LINEAR:
        update = (bits(tuned)[f"{name}.weight"] - before[f"{name}.weight"]).double()
        values = torch.linalg.svdvals(update)
        assert values[1] > 1e-3 * values[0]
        assert values[2] < 1e-4 * values[0]
    assert sum(history[-5:]) < sum(history[:5])
    tuned.save_pretrained(tmp_path / "twin")
    tiny_vlm.save_pretrained(tmp_path / "original")
    files = [load_file(tmp_path / each / "model.safetensors") for each in ("twin", "original")]
    assert list(files[0]) == list(files[1])
    assert not any("lora" in name for name in files[0])
    pixels = torch.rand(2, 3, 32, 32)
    assert torch.equal(radapt.load(tmp_path / "twin").encode_image(pixels), tuned.encode_image(pixels))


def test_low_rank_updates_beside_whole_parts(tiny_vlm: Any, tiny_shapes: Any) -> None:
    before, options = bits(tiny_vlm), {"layers": "embedding+lora:r3@1-", "steps": 2, "lr": 1e-3, **SHORT}
    tuned, _ = finetuned(FARE(), tiny_vlm, tiny_shapes(8), **options)
    second = {f"{name}.weight".replace("layers.0", "layers.1") for name in LINEAR}
    assert changed(before, tuned) == set(parts(tiny_vlm, "embedding")) | second


def test_an_update_is_the_product_of_its_factors_times_8_by_the_rank(tiny_vlm: Any) -> None:
    before, pixels = bits(tiny_vlm), torch.rand(2, 3, 32, 32)
    bare = tiny_vlm.encode_image(pixels)
    opened = open_layers(tiny_vlm, "lora:r2@0")
    assert set(opened.parameters) == {name for name, p in tiny_vlm.model.named_parameters() if p.requires_grad}
    assert torch.allclose(tiny_vlm.encode_image(pixels), bare, atol=1e-5)  # the second factors begin at zero
    factors = opened.parameters
    with torch.no_grad():
        for name, factor in factors.items():
            if "lora_B" in name:
                factor.normal_(0, 0.1)
    expected = {
        name: 8 / 2 * factors[f"{name}.lora_B.default.weight"] @ factors[f"{name}.lora_A.default.weight"]
        for name in LINEAR
    }
    adapted = tiny_vlm.encode_image(pixels)
    opened.close()
    assert torch.allclose(tiny_vlm.encode_image(pixels), adapted, rtol=1e-3, atol=1e-3)
    assert (adapted - bare).abs().max() > 0.1
    assert changed(before, tiny_vlm) == {f"{name}.weight" for name in LINEAR}
    for name, update in expected.items():
        assert torch.allclose(bits(tiny_vlm)[f"{name}.weight"] - before[f"{name}.weight"], update, atol=1e-5)


def test_the_seed_makes_the_first_factors(tiny_vlm: Any) -> None:
    def first(seed: int) -> Tensor:
        opened = open_layers(tiny_vlm, "lora:r2@0", seed=seed)
        factor = opened.parameters[f"{LINEAR[0]}.lora_A.default.weight"].detach().clone()
        opened.close()
        return factor

    assert torch.equal(first(3), first(3))
    assert not torch.equal(first(3), first(4))


@pytest.mark.slow
def test_a_killed_run_with_everything_on_resumes_to_the_same_bits(
    tiny_vlm: Any, tiny_shapes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"layers": "head+lora:r2@0-1", "optimizer": "sgd", "ema": 0.9, "accumulate": 2, "precision": "bfloat16"}
    options |= {"steps": 22, "lr": 1e-4, **SHORT, "batch_size": 3}
    data, whole_file = tiny_shapes(6), tmp_path / "whole.safetensors"
    whole, history = finetuned(FARE(), tiny_vlm, data, checkpoint=whole_file, **options)
    file, loss, calls = tmp_path / "run.safetensors", FARE.loss, []

    def dies(self: Any, *args: Any) -> Tensor:
        calls.append(1)
        if len(calls) == 43:
            raise KeyboardInterrupt
        result: Tensor = loss(self, *args)
        return result

    monkeypatch.setattr(FARE, "loss", dies)
    with pytest.raises(KeyboardInterrupt):
        finetuned(FARE(), tiny_vlm, data, checkpoint=file, **options)
    monkeypatch.setattr(FARE, "loss", loss)
    other = {"layers": "head+lora:r2@0", "optimizer": "adamw", "ema": 0.8, "accumulate": 1, "precision": "float32"}
    for key, value in other.items():
        with pytest.raises(SettingsError, match="belongs to a training with"):
            finetuned(FARE(), tiny_vlm, data, checkpoint=file, **{**options, key: value})
    resumed, again = finetuned(FARE(), tiny_vlm, data, checkpoint=file, **options)
    assert again == history
    assert changed(bits(whole), resumed) == set()
    assert changed(bits(tiny_vlm), resumed)
    assert file.exists()  # nothing was saved yet


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("lora", "'lora': write a low-rank update as lora:r8@0-2"),
        ("lora:8@0", "'lora:8@0': write a low-rank update as"),
        ("lora:r0@0", "'lora:r0@0': write a low-rank update as"),
        ("lora:r8", "'lora:r8': write a low-rank update as"),
        ("lora:r8@2", "'lora:r8@2': .*tiny/clip has blocks 0 to 1"),
        ("lora:r8@1-0", "'lora:r8@1-0': .*from the lower to the higher"),
        ("lora:r8@0+lora:r4@1", "write one lora part"),
        ("attention:0+lora:r8@0-1", "'lora:r8@0-1': .*self_attn.* is trained whole already"),
        ("embeding+lora:r8@0", "did you mean 'embedding'"),
        ("", "unknown part ''"),
    ],
)
def test_wrong_layers_are_refused(tiny_vlm: Any, tiny_shapes: Any, layers: str, message: str) -> None:
    before = bits(tiny_vlm)
    with pytest.raises(SettingsError, match=message):
        finetuned(FARE(), tiny_vlm, tiny_shapes(8), layers=layers, **SHORT)
    assert changed(before, tiny_vlm) == set()


def test_attention_that_is_not_made_of_linear_layers_is_refused() -> None:
    with pytest.warns(UserWarning, match="processor="):
        model = radapt.load(CLIP())
    with pytest.raises(SettingsError, match="not made of linear layers; load its checkpoint by name"):
        open_layers(model, "lora:r2@0")


def test_without_peft_the_error_says_what_to_install(tiny_vlm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(SettingsError, match=r'pip install "radapt\[lora\]"'):
        open_layers(tiny_vlm, "lora:r2@0")
    assert list(open_layers(tiny_vlm, "head").parameters) == list(parts(tiny_vlm, "head"))
