"""Evaluation on the accelerator, end to end: the same rows twice, the rest of an interrupted run, the CPU's figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import radapt
from radapt.adapters import training_free
from radapt.results import Result, Results, Sample

pytestmark = pytest.mark.gpu

SETS = {"micro/clip": "shapes", "micro/llava": "shapeworld-captions", "micro/qwen-vl": "shapeworld-vqa"}


def evaluated(name: str, device: torch.device, file: Path, **more: Any) -> list[Result]:
    """A bare and an adapted model, attacked; less of it where a sample is attacked answer by answer."""
    n, answers = 8, dict[str, Any]()
    if name != "micro/clip":
        n, answers = 3, {"source": "self", "sanity": False, "options": {"steps": 2}}
    adapter = training_free(radapt.load(name), alpha=0.5)
    lines = {"bare": name, "adapted": (name, adapter)}
    settings: dict[str, Any] = {
        "attack": "apgd",
        "eps": 2 / 255,
        "options": {"steps": 4},
        "batch_size": 4,
        "chunk_size": 4,
        **answers,
        **more,
    }
    data = radapt.load_dataset(SETS[name], n=n)
    return radapt.evaluate(lines, data=data, results=file, device=str(device), quiet=True, **settings)


def stored(file: Path) -> list[tuple[str, list[Sample]]]:
    with Results(file, read_only=True) as results:
        return [(found.setting.key, results.samples(found.setting)) for found in results.all()]


@pytest.mark.parametrize("name", SETS)
def test_two_evaluations_have_the_same_rows(name: str, device: torch.device, tmp_path: Path) -> None:
    for file in ("one.sqlite", "two.sqlite"):
        evaluated(name, device, tmp_path / file)
    assert stored(tmp_path / "one.sqlite") == stored(tmp_path / "two.sqlite")


def test_an_interrupted_evaluation_goes_on_with_the_same_rows(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated("micro/clip", device, tmp_path / "whole.sqlite", sanity=False)
    add, left = Results.add, [3]

    def dying(self: Results, *given: Any, **named: Any) -> None:
        add(self, *given, **named)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Results, "add", dying)
        with pytest.raises(KeyboardInterrupt):
            evaluated("micro/clip", device, tmp_path / "killed.sqlite", sanity=False)
    evaluated("micro/clip", device, tmp_path / "killed.sqlite", sanity=False)
    assert stored(tmp_path / "killed.sqlite") == stored(tmp_path / "whole.sqlite")


@pytest.mark.parametrize("name", SETS)
def test_figures_are_those_of_the_cpu(name: str, device: torch.device, tmp_path: Path, record_property: Any) -> None:
    here = evaluated(name, torch.device("cpu"), tmp_path / "cpu.sqlite")
    there = evaluated(name, device, tmp_path / "device.sqlite")
    pairs = list(zip(here, there, strict=True))
    record_property("percent", str([(one.kind, one.percent, other.percent) for one, other in pairs]))
    for one, other in pairs:
        assert (one.kind, one.n, one.setting.attack) == (other.kind, other.n, other.setting.attack)
        if one.kind == "clean":
            assert other.percent == pytest.approx(one.percent, abs=0.5)


@pytest.mark.parametrize("attack", ["autoattack", "square"])
def test_a_model_on_the_accelerator_is_attacked_there(attack: str, device: torch.device, tmp_path: Path) -> None:
    options = {"autoattack": {"steps": 5, "n_queries": 20, "n_target_classes": 2}, "square": {"steps": 20}}[attack]
    found = evaluated("micro/clip", device, tmp_path / "r.sqlite", attack=attack, options=options)
    assert {each.kind for each in found} >= {"clean", "white-box"}


def test_a_model_in_bfloat16_is_evaluated(device: torch.device, tmp_path: Path) -> None:
    found = evaluated("micro/clip", device, tmp_path / "r.sqlite", dtype="bfloat16")
    assert all(0 <= each.percent <= 100 for each in found)
