"""Saving a model: the old files, the new ones, or none that are loaded."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

import radapt
from radapt.errors import ModelError


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("No space left on device")])
def test_a_save_over_another_model_that_stops_leaves_the_old_one(
    tiny_vlm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    other = copy.deepcopy(tiny_vlm)
    with torch.no_grad():
        other.model.visual_projection.weight.add_(1)
    tiny_vlm.save_pretrained(tmp_path / "model")
    before = radapt.load(tmp_path / "model").fingerprint
    with monkeypatch.context() as patch:
        patch.setattr(type(other.tokenizer), "save_pretrained", Mock(side_effect=error))
        with pytest.raises((KeyboardInterrupt, ModelError)):
            other.save_pretrained(tmp_path / "model")
    assert radapt.load(tmp_path / "model").fingerprint == before
    other.save_pretrained(tmp_path / "model")
    assert radapt.load(tmp_path / "model").fingerprint != before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not [path.name for path in (tmp_path / "model").iterdir() if path.name.endswith(".partial")]


@pytest.mark.parametrize("killed_at", [0, 1, 3])
def test_a_save_over_another_model_that_is_killed_between_files_is_not_loaded(
    tiny_vlm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    tiny_vlm.save_pretrained(tmp_path)
    replace, moves = Path.replace, list[str]()

    def dies(self: Path, target: Path) -> Path:
        if len(moves) == killed_at:
            raise KeyboardInterrupt
        moves.append(self.name)
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            tiny_vlm.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"no readable config.json"):
        radapt.load(tmp_path)


def test_a_model_is_not_saved_into_a_file(tiny_vlm: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in ("file", "file/model"):
        with pytest.raises(ModelError, match="cannot be written to"):
            tiny_vlm.save_pretrained(tmp_path / path)
    assert (tmp_path / "file").read_text() == "mine"
