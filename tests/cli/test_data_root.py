"""``--data-root`` on every command that takes datasets by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
import yaml
from click.testing import Result
from tests.data.hub_files import mirror

from radapt.results.plots import read_plots

Run = Callable[..., Result]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mirror, outside the folder that the command runs in, and no other one."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.delenv("RADAPT_DATA", raising=False)
    return mirror(tmp_path / "mirror", {"test": 6, "train": 7})


def experiment(data: str) -> str:
    attacks = [{"attack": "pgd", "eps": "4/255", "options": {"steps": 1}}]
    profile = {"models": {"CLIP": "micro/clip"}, "data": [data], "n": 6, "attacks": attacks}
    content = {"title": "Own", "description": "Own.", "published": "No.", "profiles": {"micro": profile}}
    Path("own.yaml").write_text(yaml.safe_dump(content))
    return "own.yaml"


def a_search(model: str) -> str:
    rounds = [{"steps": 1, "n": 2}]
    content = {"model": model, "data": "pets", "n": 4, "space": {"layers": ["block:0"]}, "rungs": rounds}
    Path("search.yaml").write_text(yaml.safe_dump({**content, "validation": "pets"}))
    return "search.yaml"


@pytest.mark.slow
def test_images_come_from_the_mirror(run: Run, root: Path, model: str) -> None:
    for words in (
        ("adapt", "data-driven", "--model", model, "--data", "cifar-10", "--n", 6, "--steps", 1, "--out", "adapter"),
        ("adapt", "training-free", "--model", model, "--image", "mean", "--data", "cifar-10", "--n", 6, "--out", "m"),
        ("analyze", "cka", model, "micro/clip", "--data", "cifar-10", "--n", 6, "--out", "plots"),
        ("evaluate", model, "--data", "cifar-10", "--n", 6, "--attack", "none"),
        ("reproduce", experiment("cifar-10"), "--out", "made"),
    ):
        result = run(*words, "--data-root", root, "--quiet")
        assert result.exit_code == 0, result.output
        assert "RADAPT_DATA" not in os.environ
    assert list(Path("adapter").glob("*.safetensors"))
    assert len(read_plots("plots/plots.json")) == 1


@pytest.mark.parametrize(
    "command", ["adapt", "tune", "analyze", "check", "evaluate", "finetune", "micro photos", "reproduce", "search"]
)
def test_a_set_that_the_mirror_lacks_is_one_error(run: Run, root: Path, model: str, command: str) -> None:
    data = ("--data", "pets", "--n", 4)
    assert run("adapt", "training-free", "--model", model, "--out", "adapter").exit_code == 0
    words: dict[str, tuple[object, ...]] = {
        "adapt": ("adapt", "data-driven", "--model", model, *data, "--out", "other"),
        "tune": ("tune", "adapter", "--model", model, *data),
        "analyze": ("analyze", "cka", model, "micro/clip", *data),
        "check": ("check", model, *data),
        "evaluate": ("evaluate", model, *data),
        "finetune": ("finetune", "fare", "--model", model, *data, "--steps", 1),
        "micro photos": ("micro", "photos", *data, "--shares", 1, "--steps", 1),
        "reproduce": ("reproduce", experiment("pets")),
        "search": ("search", a_search(model)),
    }
    result = run(*words[command], "--data-root", root)
    assert result.exit_code != 0
    assert "there is no folder" in result.output
    assert "wds_vtab-pets" in result.output
    assert "RADAPT_DATA" not in os.environ


@pytest.mark.parametrize(
    "words", [("adapt", "training-free"), ("adapt", "data-driven", "--steps", 1), ("reproduce",), ("demo",)], ids=str
)
def test_a_mirror_that_would_have_no_effect_is_refused(run: Run, root: Path, words: tuple[object, ...]) -> None:
    result = run(*words, "--data-root", root)
    assert result.exit_code == 2
    assert "--data-root would have no effect without" in result.output
