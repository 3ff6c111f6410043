"""Fine-tuning on the accelerator: in float32 and bfloat16, equal bit for bit, and resumed to the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.gpu.process import train
from tests.tiny import finetuned, own_labels, tiny_clip

from radapt import finetuning
from radapt.finetuning.fare import FARE

pytestmark = pytest.mark.gpu

SHORT: dict[str, Any] = {"steps": 4, "batch_size": 4, "attack_steps": 2, "lr": 1e-4, "ema": 0.5, "quiet": True}


def bits(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def start(device: torch.device) -> tuple[Any, Any]:
    model = tiny_clip("tiny/clip", factor=10.0)
    data = own_labels(model, 12)
    return model.to(device), data


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", finetuning.names())
def test_two_trainings_are_equal_bit_for_bit(method: str, precision: str, device: torch.device) -> None:
    model, data = start(device)
    before = bits(model)
    one, losses = finetuned(method, model, data, precision=precision, **SHORT)
    other, again = finetuned(method, model, data, precision=precision, **SHORT)
    assert one.device == model.device
    assert {value.dtype for value in bits(one).values() if value.is_floating_point()} == {torch.float32}
    assert losses == again
    assert same(bits(one), bits(other))
    assert same(before, bits(model))
    assert not same(before, bits(one))


@pytest.mark.parametrize("layers", ["all", "lora:r4@0-1"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_killed_training_resumes_to_the_same_bits(
    layers: str, precision: str, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = start(device)
    settings = {**SHORT, "precision": precision, "layers": layers, "steps": 24}
    whole, losses = finetuned("fare", model, data, **settings)
    loss, done = FARE.loss, [0]

    def dies(self: Any, *given: Any) -> torch.Tensor:
        done[0] += 1
        if done[0] > 22:  # checkpoints are written every twenty steps
            raise KeyboardInterrupt
        result: torch.Tensor = loss(self, *given)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(FARE, "loss", dies)
        with pytest.raises(KeyboardInterrupt):
            finetuned("fare", model, data, checkpoint=tmp_path / "run.safetensors", **settings)
    assert (tmp_path / "run.safetensors").exists()
    resumed, again = finetuned("fare", model, data, checkpoint=tmp_path / "run.safetensors", **settings)
    assert again == losses
    assert same(bits(resumed), bits(whole))


def test_a_training_goes_as_on_the_cpu(device: torch.device) -> None:
    model, data = start(torch.device("cpu"))
    _, expected = finetuned("tecoa", model, data, **SHORT)
    _, found = finetuned("tecoa", model.to(device), data, **SHORT)
    assert found == pytest.approx(expected, rel=0.02)


def test_what_accelerate_launches_trains_to_the_same_bits(device: torch.device, tmp_path: Path) -> None:
    model, losses = train(str(device))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", *(["--cpu"] if device.type == "cpu" else [])]
    environment = {**os.environ, "PYTHONWARNINGS": "default"}
    words = [*launch, train.__code__.co_filename, str(device), str(tmp_path / "weights"), str(tmp_path / "losses")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "losses").read_text()) == losses
    assert same(load_file(tmp_path / "weights", device=str(device)), bits(model))
