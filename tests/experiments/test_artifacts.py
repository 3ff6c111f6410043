"""Twins that an experiment trains once: read again where they are whole and of the recipe, made again where not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from tests.tiny import killed_after, tiny_clip

from radapt.adapters import REGISTRY as METHODS
from radapt.adapters import Adapter, AdapterMethod, data_driven
from radapt.data import Dataset, load_dataset
from radapt.errors import SettingsError
from radapt.experiments import artifacts
from radapt.experiments.artifacts import trained_adapter, trained_twin
from radapt.experiments.parts import TrainingSpec
from radapt.finetuning import _finetune
from radapt.finetuning.fare import FARE
from radapt.models import VLM
from radapt.models._dual import DualEncoder

SETTINGS = {"steps": 1, "attack_steps": 1, "batch_size": 4, "lr": 1e-3}
SPEC = TrainingSpec(method="fare", data=("objects",), n=8, settings=SETTINGS)
LABELLED = TrainingSpec(method="tecoa", data=("objects",), n=8, settings=SETTINGS)


def weights(model: VLM) -> torch.Tensor:
    return torch.cat([parameter.flatten() for parameter in model.model.parameters()])


@pytest.fixture
def twin(tmp_path: Path) -> Callable[..., tuple[VLM, str]]:
    """Asks for the twin, and returns it with what is reported."""

    def ask(spec: TrainingSpec = SPEC) -> tuple[VLM, str]:
        reported: list[str] = []
        made = trained_twin(tiny_clip(), spec, tmp_path / "twin", report=reported.append, quiet=True)
        return made, "\n".join(reported)

    return ask


@pytest.mark.slow
def test_a_twin_that_is_not_whole_is_named_and_made_again(twin: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "twin"
    made, said = twin()
    assert said == ""
    assert twin()[1] == ""
    assert [path.name for path in tmp_path.iterdir()] == ["twin"]
    config = json.loads((folder / "config.json").read_text())
    changes: list[tuple[Callable[[], object], str]] = [
        ((folder / "tokenizer.json").unlink, "tokenizer.json in"),
        (lambda: (folder / "tokenizer.json").write_text("{"), "tokenizer.json in"),
        (lambda: (folder / "model.safetensors").write_bytes(b"half"), "model.safetensors in"),
        ((folder / "model.safetensors").unlink, "model.safetensors in"),
        ((folder / "preprocessor_config.json").unlink, "preprocessor_config.json in"),
        (lambda: (folder / "config.json").write_text(json.dumps({**config, "projection_dim": 8})), "config.json in"),
        ((folder / "recipe.json").unlink, "has another recipe"),
        (lambda: (folder / "recipe.json").write_text("[" * 10_000), "has another recipe"),
        (lambda: (folder / "recipe.json").write_text('{"recipe": 1, "files": 2}'), "has another recipe"),
        (lambda: [path.unlink() for path in folder.iterdir()], "has another recipe"),
    ]
    for change, message in changes:
        change()
        again, said = twin()
        assert message in said, said
        assert said.endswith("; it is trained again")
        assert torch.equal(weights(again), weights(made))
        assert again.name == made.name
        assert twin()[1] == ""


def test_a_twin_of_another_recipe_is_made_again(twin: Callable[..., Any]) -> None:
    made, _ = twin()
    other, said = twin(TrainingSpec(method="fare", data=("objects",), n=8, settings={**SETTINGS, "seed": 1}))
    assert "has another recipe" in said
    assert other.name != made.name


def test_a_twin_that_cannot_be_read_is_made_again(
    twin: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made, _ = twin()

    def fails(*given: Any, **named: Any) -> VLM:
        raise Exception("no such file format")

    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "load", fails)
        again, said = twin()
    assert said == f"what lies in {tmp_path / 'twin'} cannot be read (no such file format); it is trained again"
    assert torch.equal(weights(again), weights(made))


def test_a_file_in_the_place_of_the_folder_is_named(twin: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "twin").write_text("mine")
    with pytest.raises(SettingsError, match="twin' cannot be written: it is a file"):
        twin()
    assert (tmp_path / "twin").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize("there", [False, True])
def test_a_kill_while_the_twin_is_saved_loses_nothing(
    twin: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    folder = tmp_path / "twin"
    expected = weights(twin()[0])
    shutil.rmtree(folder)
    if there:
        tiny_clip().save_pretrained(folder)
    save = DualEncoder.save_pretrained

    def dies(self: Any, *given: Any, **named: Any) -> None:
        save(self, *given, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DualEncoder, "save_pretrained", dies)
        with pytest.raises(KeyboardInterrupt):
            twin()
    assert len(list(tmp_path.glob("twin.*.checkpoint.safetensors"))) == 1
    assert folder.exists() == there
    with monkeypatch.context() as patch:
        patch.setattr(FARE, "loss", Mock(side_effect=AssertionError("trained again")))
        made, said = twin()
    assert torch.equal(weights(made), expected)
    assert said == (f"what lies in {folder} has another recipe; it is trained again" if there else "")
    assert [path.name for path in tmp_path.iterdir()] == ["twin"]
    assert twin()[1] == ""


def test_a_twin_that_is_trained_for_minutes_goes_on_after_a_kill(
    twin: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, steps = replace(SPEC, settings={**SETTINGS, "minutes": 1}), iter([22, 25])
    del spec.settings["steps"]  # type: ignore[attr-defined]
    monkeypatch.setattr(_finetune, "steps_within", lambda *given, **named: next(steps))
    with killed_after(20):
        twin(spec)
    made, said = twin(spec)
    assert said == ""
    assert [path.name for path in tmp_path.iterdir()] == ["twin"]
    assert torch.equal(weights(made), weights(twin(replace(SPEC, settings={**SETTINGS, "steps": 22}))[0]))


def test_what_another_recipe_left_half_done_stops_nobody(twin: Callable[..., Any], tmp_path: Path) -> None:
    whole = replace(SPEC, settings={**SETTINGS, "steps": 22})
    with killed_after(20):
        twin(replace(whole, settings={**whole.settings, "lr": 2e-3}))
    (tmp_path / "twin.mine.checkpoint.safetensors").write_text("mine")
    made, said = twin(whole)
    assert said == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["twin", "twin.mine.checkpoint.safetensors"]
    shutil.rmtree(tmp_path / "twin")
    assert torch.equal(weights(made), weights(twin(whole)[0]))


def test_labels_words_and_configuration_are_a_part_of_a_twin(
    twin: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = artifacts.images_of
    made, _ = twin(LABELLED)
    assert twin(LABELLED)[1] == ""

    def relabelled(*given: Any, **named: Any) -> Dataset:
        data = read(*given, **named)
        return replace(data, labels=(data.labels + 1) % len(data.classes))

    def reworded(*given: Any, **named: Any) -> Dataset:
        data = read(*given, **named)
        return replace(data, card=replace(data.card, templates=("{c}, drawn",)))

    for changed in (relabelled, reworded):
        monkeypatch.setattr(artifacts, "images_of", changed)
        other, said = twin(LABELLED)
        assert "has another recipe" in said
        assert other.name != made.name
    monkeypatch.undo()
    again, _ = twin(LABELLED)
    assert torch.equal(weights(again), weights(made))

    plain = tiny_clip()
    plain.tower.root.config.hidden_act = "gelu"
    monkeypatch.setitem(globals(), "tiny_clip", lambda: plain)
    assert "has another recipe" in twin(LABELLED)[1]


def test_an_adapter_of_another_method_is_not_taken(tmp_path: Path) -> None:
    model, reported = tiny_clip(), list[str]()
    images = load_dataset("objects", split="train", n=8, quiet=True)
    settings = {"batch_size": 4, "attack_steps": 1, "steps": 1}
    own = AdapterMethod(bolder, needs_images=True)
    for method, alpha in ((METHODS.get("data-driven"), 0.8), (own, 2.0), (own, 2.0)):
        adapter = trained_adapter(method, model, images, settings, tmp_path / "a", report=reported.append, quiet=True)
        assert adapter.settings.alpha == alpha
    assert len(reported) == 1


def test_labels_and_words_are_a_part_of_an_adapter_whose_loss_reads_them(tmp_path: Path) -> None:
    model, reported = tiny_clip(), list[str]()
    images = load_dataset("objects", split="train", n=8, quiet=True)
    relabelled = replace(images, labels=(images.labels + 1) % len(images.classes))
    reworded = replace(images, card=replace(images.card, templates=("{c}, drawn",)))

    def trained(loss: str, data: Dataset) -> Adapter:
        settings = {"batch_size": 4, "attack_steps": 1, "steps": 1, "loss": loss}
        method, folder = METHODS.get("data-driven"), tmp_path / loss
        return trained_adapter(method, model, data, settings, folder, report=reported.append, quiet=True)

    made = [trained("text", data).fingerprint for data in (images, images, relabelled, reworded)]
    assert made[0] == made[1]
    assert len(set(made)) == 3
    assert len(reported) == 2
    assert len({trained("embedding", data).fingerprint for data in (images, relabelled, reworded)}) == 1
    assert len(reported) == 2


def bolder(model: VLM, pixels: torch.Tensor, **settings: Any) -> Adapter:
    return data_driven(model, pixels, **settings).change(alpha=2.0)
