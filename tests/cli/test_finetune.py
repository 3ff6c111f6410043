from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.cli.conftest import Run

import radapt
from radapt import finetuning
from radapt.models import parts
from radapt.training.distributed import Workers

SHORT = ("--n", 8, "--steps", 2, "--batch-size", 4, "--attack-steps", 1, "--lr", "1e-4", "-q")


@pytest.mark.parametrize("method", finetuning.names())
def test_options_reach_the_training_and_its_recipe(run: Run, model: str, method: str) -> None:
    words = ("--layers", "head+lora:r2@0", "--accumulate", 2, "--optimizer", "sgd", "--ema", 0.5, "--log", "log")
    result = run("finetune", method, "--model", model, *SHORT, *words, "--precision", "bfloat16", "--out", "twin")
    assert result.exit_code == 0, result.output
    recipe = json.loads(Path("twin/recipe.json").read_text())
    expected = {"layers": "head+lora:r2@0", "accumulate": 2, "optimizer": "sgd", "ema": 0.5, "precision": "bfloat16"}
    expected |= {"method": method, "log": "log", "device": "cpu", "workers": 1}
    assert {key: recipe[key] for key in expected} == expected
    assert len(list(Path("log").iterdir())) == 1
    twin, original = radapt.load("twin"), radapt.load(model)
    linear = {name for name in parts(original, "block:0") if name.endswith("weight") and "norm" not in name}
    before, after = original.model.state_dict(), twin.model.state_dict()
    assert list(before) == list(after)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == linear | set(parts(original, "head"))


def test_every_method_is_named_in_the_help(run: Run) -> None:
    output = run("finetune", "--help").output
    assert all(name in output for name in finetuning.names())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--layers", "embeding"), "did you mean 'embedding'"),
        (("--layers", "block:99"), "has blocks 0 to"),
        (("--layers", "lora:r8"), "write a low-rank update as lora:r8@0-2"),
        (("--precision", "float16"), "did you mean 'bfloat16'"),
        (("--optimizer", "adam"), "did you mean 'adamw'"),
        (("--accumulate", 0), "accumulate >= 1"),
        (("--ema", 1), "ema in [0, 1)"),
    ],
)
def test_wrong_options_are_refused(run: Run, model: str, words: tuple[object, ...], message: str) -> None:
    result = run("finetune", "fare", "--model", model, *SHORT, *words, "--out", "twin")
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert not Path("twin").exists()


def test_of_several_processes_one_writes_and_each_has_its_device(
    run: Run, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("radapt.training", "radapt.finetuning._method"):
        monkeypatch.setattr(f"{place}.workers", lambda: Workers(2, 1, torch.device("cpu")))
    words = ("finetune", "fare", "--model", model, *SHORT, "--out", "twin")
    result = run(*words)
    assert (result.exit_code, result.output) == (0, "")
    assert not Path("twin").exists()
    result = run(*words, "--device", "cuda:0")
    assert result.exit_code == 2
    assert "each of the 2 processes has a device of its own; leave device out" in result.output
