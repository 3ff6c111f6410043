"""Models and adapters by name, and defended models that nobody shares with anybody's settings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import radapt
from radapt.errors import AdapterError, InputError, ModelError, SettingsError
from radapt.ui._actions import Actions
from radapt.ui._shelf import SLIDERS, Shelf


def test_the_adapters_that_fit_a_model_are_offered(actions: Actions) -> None:
    shipped = ["micro/r-adapt-plus-adaptive", "micro/r-adapt-plus-static", "micro/shallow"]
    assert actions.shelf.defences("micro/clip") == [SLIDERS, *shipped]


def test_adapters_of_ones_own_are_offered(tmp_path: Path) -> None:
    clip = radapt.load("micro/clip")
    adapter = radapt.training_free(clip, alpha=0.7)
    adapter.save_pretrained(tmp_path / "mine")
    shelf = Shelf([clip], [tmp_path / "mine", radapt.training_free(clip, alpha=0.9)])
    names = shelf.defences("micro/clip")
    assert str(tmp_path / "mine") in names
    found = [shelf.adapter("micro/clip", name, d0=0, alpha=0).settings.alpha for name in names]
    assert 0.7 in found
    assert 0.9 in found


def test_the_sliders_make_the_adapter_of_the_library(actions: Actions) -> None:
    clip = actions.shelf.model("micro/clip")
    made = actions.shelf.adapter("micro/clip", SLIDERS, d0=30, alpha=0.6)
    assert made.fingerprint == radapt.training_free(clip, cutoff=30 / 224, alpha=0.6).fingerprint
    assert actions.shelf.adapter("micro/clip", SLIDERS, d0=0, alpha=0.6).settings.cutoff is None


def test_nothing_is_attached_to_a_model_of_the_shelf(actions: Actions) -> None:
    adapter = actions.shelf.adapter("micro/clip", "micro/shallow", d0=0, alpha=0)
    defended = actions.shelf.defended("micro/clip", adapter)
    assert radapt.attached(defended)
    assert not radapt.attached(actions.shelf.model("micro/clip"))
    assert actions.shelf.defended("micro/clip", adapter) is defended


def test_only_so_many_defended_models_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("radapt.ui._shelf._KEPT", 2)
    shelf = Shelf(["micro/clip"])
    pixels = torch.rand(1, 3, 48, 48)
    first = shelf.adapter("micro/clip", SLIDERS, d0=40, alpha=0.0)
    made = shelf.defended("micro/clip", first)
    assert shelf.defended("micro/clip", first) is made
    for number in range(1, 3):
        shelf.defended("micro/clip", shelf.adapter("micro/clip", SLIDERS, d0=40, alpha=number / 20))
    again = shelf.defended("micro/clip", first)
    assert again is not made
    assert torch.equal(again.encode_image(pixels), made.encode_image(pixels))


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    shelf = Shelf(["micro/clip"])
    with pytest.raises(InputError, match="there is no model 'micro/clap' here; did you mean 'micro/clip'"):
        shelf.model("micro/clap")
    with pytest.raises(InputError, match="there is no defence '/etc' of micro/clip here"):
        shelf.adapter("micro/clip", "/etc", d0=0, alpha=0)
    with pytest.raises(SettingsError, match="alpha must be finite"):
        shelf.adapter("micro/clip", SLIDERS, d0=40, alpha=float("nan"))
    with pytest.raises(SettingsError, match="there is no model to play with"):
        Shelf([])
    with pytest.raises(SettingsError, match="given twice"):
        Shelf(["micro/clip", "micro/clip"])
    with pytest.raises(ModelError, match="micro/clap"):
        Shelf(["micro/clap"])
    with pytest.raises(AdapterError, match="nowhere"):
        Shelf(["micro/clip"], [tmp_path / "nowhere"])
