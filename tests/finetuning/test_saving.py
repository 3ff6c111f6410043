"""What a fine-tuning leaves on the disk, whatever stops it, and what it refuses before it begins."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

import radapt
from radapt.errors import CheckError, ModelError, SettingsError
from radapt.finetuning import _finetune, finetune
from radapt.finetuning.fare import FARE
from radapt.finetuning.tecoa import TeCoA
from radapt.models import VLM
from radapt.models._dual import DualEncoder

SHORT: dict[str, Any] = {"attack_steps": 1, "batch_size": 4, "steps": 2, "lr": 1e-3, "quiet": True}


class Weighted(FARE):
    """A method with a setting of its own."""

    def __init__(self, weight: float) -> None:
        self.weight = weight


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Fails when a training begins."""
    begun = Mock(side_effect=AssertionError("the training has begun"))
    monkeypatch.setattr(_finetune, "fit", begun)
    return begun


def weights(model: VLM) -> torch.Tensor:
    return torch.cat([parameter.flatten() for parameter in model.model.parameters()])


def test_the_checkpoint_goes_when_the_twin_is_saved(tiny_vlm: Any, tiny_shapes: Any, tmp_path: Path) -> None:
    made = finetune("fare", tiny_vlm, tiny_shapes(8), out=tmp_path / "deep" / "twin", **SHORT)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["twin"]
    again = radapt.load(tmp_path / "deep" / "twin")
    assert torch.equal(weights(again), weights(made.model))
    assert json.loads((tmp_path / "deep" / "twin" / "recipe.json").read_text())["method"] == "fare"


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("there", [False, True])
def test_a_twin_that_cannot_be_saved_is_not_lost(
    tiny_vlm: Any, tiny_shapes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, there: bool
) -> None:
    data, out = tiny_shapes(8), tmp_path / "twin"
    if there:
        tiny_vlm.save_pretrained(out)
    expected = weights(finetune("fare", tiny_vlm, data, **SHORT).model)
    save, calls = DualEncoder.save_pretrained, list[Path]()

    def fails(self: Any, folder: Path, **options: Any) -> None:
        calls.append(folder)
        if len(calls) == 2:  # the first is the rehearsal
            raise error
        save(self, folder, **options)

    with monkeypatch.context() as patch:
        patch.setattr(DualEncoder, "save_pretrained", fails)
        with pytest.raises((ModelError, KeyboardInterrupt)) as caught:
            finetune("fare", tiny_vlm, data, out=out, **SHORT)
    checkpoint = tmp_path / "twin.checkpoint.safetensors"
    assert isinstance(caught.value, KeyboardInterrupt) or f"its training is kept in {checkpoint}" in str(caught.value)
    assert checkpoint.exists()
    assert out.exists() == there
    if there:
        assert torch.equal(weights(radapt.load(out)), weights(tiny_vlm))
    with monkeypatch.context() as patch:
        patch.setattr(FARE, "loss", Mock(side_effect=AssertionError("trained again")))
        again = finetune("fare", tiny_vlm, data, out=out, **SHORT)
    assert torch.equal(weights(again.model), expected)
    assert torch.equal(weights(radapt.load(out)), expected)
    assert not checkpoint.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": "file"}, "it is a file, and must be a folder"),
        ({"out": "/dev/null"}, "must be a folder"),
        ({"out": "file/twin"}, "Not a directory"),
        ({"out": "x" * 300}, "name too long"),
        ({"out": "x" * 240}, "name too long"),  # of its checkpoint
        ({"checkpoint": "folder"}, "it is a folder, and must be a file"),
        ({"checkpoint": "file/deep/run"}, "Not a directory"),
        ({"log": "file"}, "must be a folder"),
        ({"out": "model"}, "out is the folder of the model itself"),
    ],
    ids=str,
)
def test_a_destination_is_checked_before_the_training(
    tiny_vlm: Any, tiny_shapes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, untrained: Mock,
    options: dict[str, str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("folder").mkdir()
    tiny_vlm.save_pretrained("model")
    with pytest.raises(SettingsError, match=message):
        finetune("fare", radapt.load("model"), tiny_shapes(8), **SHORT, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "model"]
    assert radapt.load("model")


@pytest.mark.parametrize("error", [NotImplementedError(), OSError("No space left on device"), ModelError("not here")])
def test_a_model_that_cannot_be_saved_is_refused_before_the_training(
    tiny_vlm: Any, tiny_shapes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, untrained: Mock, error: Exception
) -> None:
    monkeypatch.setattr(DualEncoder, "save_pretrained", Mock(side_effect=error))
    with pytest.raises(ModelError, match=r"cannot be saved to|not here"):
        finetune("fare", tiny_vlm, tiny_shapes(8), out=tmp_path / "twin", **SHORT)
    assert not list(tmp_path.iterdir())


def test_a_tilde_is_the_home_of_the_user(
    tiny_vlm: Any, tiny_shapes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    tiny_vlm.save_pretrained("~/model")
    finetune("fare", "~/model", tiny_shapes(8), out="~/twin", checkpoint="~/run", **SHORT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "twin"]
    assert radapt.load("~/twin").image_size == tiny_vlm.image_size


@pytest.mark.parametrize(
    "wrong",
    [
        *({"lr": math.inf}, {"lr": math.nan}, {"lr": "1e-3"}, {"lr": 1e30}, {"eps": math.nan}, {"eps": math.inf}),
        *({"eps": -1}, {"steps": 10**20}, {"steps": 1.5}, {"steps": True}, {"attack_steps": 0}, {"attack_steps": 1.5}),
        *({"batch_size": 2.0}, {"batch_size": True}, {"batch_size": "4"}, {"seed": 10**23}, {"seed": -1}),
        *({"seed": 1.5}, {"ema": 1.0}, {"ema": math.nan}, {"warmup": -0.5}, {"weight_decay": math.inf}, {"n": 0}),
        *({"accumulate": 0}, {"accumulate": 10**20}, {"weight_decay": -1.0}),
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused(
    tiny_vlm: Any, tiny_shapes: Any, untrained: Mock, unchecked: None, wrong: dict[str, Any]
) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        finetune("fare", tiny_vlm, tiny_shapes(8), **{**SHORT, **wrong})


@pytest.mark.slow
@pytest.mark.parametrize("factor", [math.inf, math.nan, 1e30])
def test_a_training_that_breaks_is_an_error_that_keeps_the_checkpoint(
    tiny_vlm: Any, tiny_shapes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    data, out, loss, calls = tiny_shapes(8), tmp_path / "twin", FARE.loss, list[int]()

    def breaks(self: Any, *given: Any) -> Any:
        calls.append(1)
        return loss(self, *given) * (factor if len(calls) == 22 else 1)

    monkeypatch.setattr(FARE, "loss", breaks)
    with pytest.raises(CheckError, match=r"the (loss|gradient) is (inf|nan) at step 21"):
        finetune("fare", tiny_vlm, data, out=out, **{**SHORT, "steps": 30})
    assert not out.exists()
    assert (tmp_path / "twin.checkpoint.safetensors").exists()


def test_weights_that_float16_cannot_hold_are_refused(tiny_vlm: Any, tmp_path: Path) -> None:
    with torch.no_grad():
        tiny_vlm.model.visual_projection.weight[0, 0] = 1e6
    with pytest.raises(ModelError, match=r"visual_projection.weight holds values up to 1e\+06, too large"):
        tiny_vlm.save_pretrained(tmp_path / "half", dtype=torch.float16)
    assert not list(tmp_path.iterdir())


def stopped(tmp_path: Path, *given: Any, **options: Any) -> Path:
    """The checkpoint of a training that was not saved."""
    file = tmp_path / "run.safetensors"
    finetune(*given, checkpoint=file, **{**SHORT, **options})
    assert file.exists()
    return file


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("images", lambda data: replace(data, images=data.images[::-1].copy())),
        ("images", lambda data: replace(data, images=data.images ^ (np.arange(3072).reshape(32, 32, 3) == 99))),
        ("labels", lambda data: replace(data, labels=data.labels.flip(0))),
        ("texts", lambda data: replace(data, classes=tuple(reversed(data.classes)))),
        ("texts", lambda data: replace(data, card=replace(data.card, templates=("{c} and {c}",)))),
    ],
    ids=["order", "pixel", "labels", "classes", "prompts"],
)
def test_a_checkpoint_of_other_data_is_refused(
    tiny_vlm: Any, tiny_shapes: Any, tmp_path: Path, name: str, change: Callable[[Any], Any]
) -> None:
    data = tiny_shapes(8)
    file = stopped(tmp_path, "tecoa", tiny_vlm, data)
    kept = file.read_bytes()
    with pytest.raises(SettingsError, match=rf"belongs to a training with .*{name} '[0-9a-f]+' instead of"):
        finetune("tecoa", tiny_vlm, change(data), checkpoint=file, **SHORT)
    assert file.read_bytes() == kept
    finetune("tecoa", tiny_vlm, tiny_shapes(8), checkpoint=file, **SHORT)  # the same, made anew


def test_a_checkpoint_of_other_weights_is_refused(tiny_vlm: Any, tiny_shapes: Any, tmp_path: Path) -> None:
    data = tiny_shapes(8)
    file = stopped(tmp_path, "fare", tiny_vlm, data)
    with torch.no_grad():
        tiny_vlm.model.text_projection.weight[0, 0] += 1e-3
    with pytest.raises(SettingsError, match=r"belongs to a training with .*weights '[0-9a-f]+' instead of"):
        finetune("fare", tiny_vlm, data, checkpoint=file, **SHORT)


def test_a_checkpoint_of_another_method_is_refused(tiny_vlm: Any, tiny_shapes: Any, tmp_path: Path) -> None:
    data = tiny_shapes(8)
    file = stopped(tmp_path, Weighted(1.0), tiny_vlm, data)
    for method in (Weighted(2.0), FARE(), TeCoA()):
        with pytest.raises(SettingsError, match=r"belongs to a training with .*method '[0-9a-f]+' instead of"):
            finetune(method, tiny_vlm, data, checkpoint=file, **SHORT)
    finetune(Weighted(1.0), tiny_vlm, data, checkpoint=file, **SHORT)
