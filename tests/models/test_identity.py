"""The fingerprint of a model is that of what it computes: not of where it lies, nor of what passes leave behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.generative import SIDE, llava_parts, qwen_parts
from tests.tiny import tiny_clip
from torch.nn import functional as F

import radapt
from radapt.adapters import data_driven, graft, shallow, training_free
from radapt.analysis import frequency_response
from radapt.errors import AdapterError, InputError, ModelError, SettingsError
from radapt.evaluation import InputDefence
from radapt.models import VLM
from radapt.models.llava import llava
from radapt.models.qwen_vl import qwen_vl

BUILDERS: dict[str, Callable[[], VLM]] = {
    "clip": tiny_clip,
    "llava": lambda: llava("tiny", *llava_parts()),
    "llava-next": lambda: llava("tiny", *llava_parts(next_=True)),
    "siglip-llava": lambda: llava("tiny", *llava_parts(tower="siglip")),
    "qwen2.5": lambda: qwen_vl("tiny", *qwen_parts(three=False)),
    "qwen3": lambda: qwen_vl("tiny", *qwen_parts(three=True)),
}


def test_a_model_is_the_same_wherever_it_lies(tiny_vlm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_vlm.save_pretrained(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    found = {radapt.load(each).fingerprint for each in (tmp_path / "here", tmp_path / "elsewhere", "./here")}
    assert len(found) == 1


@pytest.mark.parametrize("family", BUILDERS)
def test_a_pass_changes_no_fingerprint(family: str) -> None:
    model = BUILDERS[family]()
    before = model.fingerprint
    pixels = torch.rand(1, 3, *model.image_size)
    model.encode_image(pixels)
    if family != "clip":
        speaker: Any = model
        speaker.generate(pixels, ["what?"], longest=2)
    else:
        model.model.vision_model(pixels, output_hidden_states=True, output_attentions=True)
    assert model.fingerprint == before


def test_recomputing_changes_no_fingerprint() -> None:
    model, other = (llava("tiny", *llava_parts()) for _ in range(2))
    other.checkpointing = True
    assert model.fingerprint == other.fingerprint


def test_a_hook_of_ones_own_still_counts() -> None:
    model = tiny_clip()
    before = model.fingerprint
    model.model.vision_model.register_forward_hook(lambda module, args, output: output)
    assert model.fingerprint != before


@pytest.mark.parametrize("settings", [{"alpha": 1}, {"alpha": 0}, {"alpha": 0.5, "cutoff": 1}])
def test_an_adapter_of_whole_numbers_is_the_same_when_it_is_read(settings: dict[str, Any], tmp_path: Path) -> None:
    adapter = training_free(tiny_clip(), **settings)
    adapter.save_pretrained(tmp_path)
    assert radapt.Adapter.from_pretrained(tmp_path).fingerprint == adapter.fingerprint


def test_a_training_begins_with_deltas_of_its_own_model_alone() -> None:
    clip, twin, other = tiny_clip(), tiny_clip(), tiny_clip(seed=2, factor=3.0)
    with torch.no_grad():
        for weight in twin.tower.root.parameters():
            weight += 0.1 * torch.randn_like(weight)
    start = graft(clip, twin, weights={"block:0": 1.0})
    settings: dict[str, Any] = {"layers": "embedding+block:0", "steps": 1, "batch_size": 2, "quiet": True}
    shallow(clip, torch.rand(2, 3, 48, 48), start=start, **settings)
    with pytest.raises(AdapterError, match="differences from other weights"):
        shallow(other, torch.rand(2, 3, 48, 48), start=start, **settings)


def half(pixels: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(pixels, 3, 1, 1)


def test_a_defence_sees_the_image_of_a_model_that_looks_at_tiles() -> None:
    model: Any = llava("tiny", *llava_parts(next_=True))
    pixels, seen = torch.rand(2, 3, 2 * SIDE, 2 * SIDE), list[torch.Size]()

    def watched(images: torch.Tensor) -> torch.Tensor:
        seen.append(images.shape)
        return half(images)

    expected = model.encode_image(half(pixels))
    with InputDefence(watched, fingerprint="half").attach(model):
        assert torch.allclose(model.encode_image(pixels), expected, atol=1e-6)
    assert set(seen) == {pixels.shape}


def test_a_response_is_not_that_of_an_adapter(tiny_vlm: Any) -> None:
    with training_free(tiny_vlm, cutoff=0.1).attach(tiny_vlm), pytest.raises(InputError, match="carries an adapter"):
        frequency_response({"tiny": tiny_vlm})


def test_an_anchor_is_not_trained_behind_another_defence() -> None:
    model = tiny_clip()
    with InputDefence(half).attach(model), pytest.raises(SettingsError, match="carries an input defence"):
        data_driven(model, torch.rand(2, 3, 48, 48), steps=1, quiet=True)


def test_what_is_loaded_moves_where_it_is_told_and_takes_nothing_else() -> None:
    model = tiny_clip()
    assert radapt.load(model) is model
    assert next(radapt.load(model, device="meta").model.parameters()).is_meta
    for wrong in ({"device_map": "auto"}, {"base": "micro/clip"}):
        with pytest.raises(ModelError, match="is loaded already"):
            radapt.load(tiny_clip(), **wrong)
