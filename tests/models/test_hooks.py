"""What saves a model warns that the adapter on it stays behind, and saves its weights as they are."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_model
from tests.models.generative import llava_parts, qwen_parts
from tests.tiny import tiny_clip
from transformers import CLIPModel

import radapt
from radapt.adapters import training_free
from radapt.models import tower_of
from radapt.models.llava import llava
from radapt.models.qwen_vl import qwen_vl

VLMS: dict[str, Callable[[], Any]] = {
    "clip": tiny_clip,
    "llava": lambda: llava("l", *llava_parts()),
    "qwen3_vl": lambda: qwen_vl("q", *qwen_parts(True)),
}
every = pytest.mark.parametrize("kind", VLMS)
stays_behind = r"not saved with its weights.*adapter\.save_pretrained\(folder\)"


@every
@pytest.mark.parametrize("whose", ["vlm", "module", "tower"])
def test_saving_a_model_warns_where_it_is_called_and_leaves_the_weights_alone(
    kind: str, whose: str, tmp_path: Path
) -> None:
    vlm = VLMS[kind]()
    part = {"vlm": vlm, "module": vlm.model, "tower": vlm.tower.root}[whose]
    part.save_pretrained(tmp_path / "bare")
    # What is attached through one part of a model is noticed through another.
    with training_free(vlm).attach(vlm), pytest.warns(UserWarning, match=stays_behind) as caught:
        part.save_pretrained(tmp_path / "defended")
    assert len(caught) == 1
    if whose != "vlm":  # whose method stands behind that of the tests' run-time checks
        assert caught[0].filename == __file__
    files = [tmp_path / folder / "model.safetensors" for folder in ("bare", "defended")]
    assert files[0].read_bytes() == files[1].read_bytes()
    part.save_pretrained(tmp_path / "after")  # without a warning, which would be an error here


@pytest.mark.filterwarnings("ignore:.*came without an image processor:UserWarning")
def test_other_ways_to_save_warn_too(tmp_path: Path) -> None:
    model: Any = tiny_clip().model
    copied = copy.deepcopy(model)
    training_free(model).attach(model)
    with pytest.warns(UserWarning, match=stays_behind):
        save_model(model, str(tmp_path / "file.safetensors"))
    with pytest.warns(UserWarning, match=stays_behind):
        copy.deepcopy(model).save_pretrained(tmp_path / "copy")
    loaded = CLIPModel.from_pretrained(tmp_path / "copy")
    assert not radapt.adapters.attached(loaded)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), copied.parameters(), strict=True))


@every
def test_nothing_else_that_reads_weights_warns(kind: str, tmp_path: Path) -> None:
    vlm = VLMS[kind]()
    adapter = training_free(vlm)
    adapter.attach(vlm)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        twin = copy.deepcopy(vlm)
        twin.model.load_state_dict(vlm.model.state_dict())
        assert twin.fingerprint == vlm.fingerprint
        torch.save(vlm.model, tmp_path / "model.pt")
        torch.save(vlm.model.state_dict(), tmp_path / "weights.pt")
        adapter.save_pretrained(tmp_path / "adapter")
        assert tower_of(vlm.model).unmount()
        vlm.save_pretrained(tmp_path / "weights")
