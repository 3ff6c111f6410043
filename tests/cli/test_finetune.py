from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import typer
from tests.cli.conftest import Run

import radapt
from radapt import finetuning
from radapt.cli.main import app
from radapt.io import fraction
from radapt.models import parts
from radapt.training.distributed import Workers

SHORT = ("--n", 8, "--steps", 2, "--batch-size", 4, "--attack-steps", 1, "--lr", "1e-4", "-q")


@pytest.mark.slow
@pytest.mark.parametrize("method", finetuning.names())
def test_options_reach_the_training_and_its_recipe(run: Run, model: str, method: str) -> None:
    words = ("--layers", "head+lora:r2@0", "--accumulate", 2, "--optimizer", "sgd", "--ema", 0.5, "--log", "log")
    words += ("--max-grad-norm", 0.5, "--decayed", "all", "--warmup-steps", 1, "--step-size", "1/255", "--last-iterate")
    words += ("--attack-momentum", 0.5, "--eps", "3/255", "--weight-decay", 0.1)
    result = run("finetune", method, "--model", model, *SHORT, *words, "--precision", "bfloat16", "--out", "twin")
    assert result.exit_code == 0, result.output
    recipe = json.loads(Path("twin/recipe.json").read_text())
    expected = {"layers": "head+lora:r2@0", "accumulate": 2, "optimizer": "sgd", "ema": 0.5, "precision": "bfloat16"}
    expected |= {"method": method, "log": "log", "device": "cpu", "workers": 1, "max_grad_norm": 0.5, "decayed": "all"}
    expected |= {"warmup_steps": 1, "step_size": 1 / 255, "last_iterate": True, "attack_momentum": 0.5}
    expected |= {"eps": 3 / 255, "weight_decay": 0.1, "recipe": None, "lr": 1e-4, "steps": 2, "attack_steps": 1}
    assert {key: recipe[key] for key in expected} == expected
    assert len(list(Path("log").iterdir())) == 1
    twin, original = radapt.load("twin"), radapt.load(model)
    linear = {name for name in parts(original, "block:0") if name.endswith("weight") and "norm" not in name}
    before, after = original.model.state_dict(), twin.model.state_dict()
    assert list(before) == list(after)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == linear | set(parts(original, "head"))


@pytest.mark.parametrize(("method", "recipe"), [("tga", "published"), ("fare", "published"), ("lore", "micro")])
def test_a_recipe_is_what_options_take_precedence_over(run: Run, model: str, method: str, recipe: str) -> None:
    words = ("--recipe", recipe, "--best-iterate", "--warmup", 0.5)
    result = run("finetune", method, "--model", model, *SHORT, *words, "--out", "twin")
    assert result.exit_code == 0, result.output
    found = json.loads(Path("twin/recipe.json").read_text())
    wanted = finetuning.make(method).recipes[recipe]
    assert found["recipe"] == recipe
    for key in ("eps", "attack_momentum", "optimizer", "weight_decay", "decayed", "max_grad_norm", "precision"):
        assert found[key] == getattr(wanted, key), key
    assert (found["last_iterate"], found["warmup"], found["warmup_steps"]) == (False, 0.5, None)
    assert (found["lr"], found["attack_steps"], found["batch_size"], found["steps"]) == (1e-4, 1, 4, 2)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tecoa", "lore"])
def test_several_datasets_and_minutes_go_with_a_recipe(run: Run, model: str, method: str) -> None:
    words = ("--data", "shapes,colours", "--n", "5,3", "--minutes", 0.0005, "--recipe", "published")
    words += ("--batch-size", 4, "--attack-steps", 1, "-q", "--out", "twin")
    result = run("finetune", method, "--model", model, *words)
    assert result.exit_code == 0, result.output
    found = json.loads(Path("twin/recipe.json").read_text())
    assert (found["data"], found["n"], found["recipe"]) == ("shapes-colours", 8, "published")
    assert found["lr"] == finetuning.make(method).recipes["published"].lr


def test_the_help_says_what_holds_without_a_recipe() -> None:
    command = typer.main.get_command(app).commands["finetune"]  # type: ignore[attr-defined]
    recipe, said = finetuning.Recipe(), {each.name: re.findall(r"\(([^()]*)\)", each.help) for each in command.params}
    for field in fields(recipe):
        value = getattr(recipe, field.name)
        if field.name in (
            "eps",
            "attack_steps",
            "steps",
            "batch_size",
            "lr",
            "weight_decay",
            "warmup",
            "max_grad_norm",
            "ema",
        ):
            assert fraction(said[field.name][-1]) == value, field.name
        if field.name in ("optimizer", "decayed", "precision"):
            assert said[field.name][-1] == value, field.name


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
        (("--recipe", "publish"), "did you mean 'published'"),
        (("--decayed", "biases"), "Allowed: all, matrices"),
        (("--max-grad-norm", -1), "max_grad_norm >= 0"),
        (("--warmup", 0.1, "--warmup-steps", 3), "not both"),
        (("--minutes", 1), "give steps, or minutes"),
        (("--step-size", "a"), "neither a number nor a fraction"),
    ],
)
def test_wrong_options_are_refused(run: Run, model: str, words: tuple[object, ...], message: str) -> None:
    result = run("finetune", "fare", "--model", model, *SHORT, *words, "--out", "twin")
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert not Path("twin").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--data", "shapes,colours", "--n", "4,4,4"), "got 2 datasets by name and 3 n"),
        (("--n", "4,x"), "--n takes whole numbers, separated by commas, got '4,x'"),
        (("--data", ",", "--n", 4), "data must be a dataset, by name or as an object, or a list of datasets; got none"),
        (("--minutes", 0), "minutes must be a number above 0, got 0"),
    ],
)
def test_wrong_images_and_times_are_refused(run: Run, model: str, words: tuple[object, ...], message: str) -> None:
    result = run("finetune", "fare", "--model", model, "--batch-size", 4, "-q", *words, "--out", "twin")
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert not Path("twin").exists()


def test_of_several_processes_one_writes_and_each_has_its_device(
    run: Run, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("radapt.training", "radapt.finetuning._finetune"):
        monkeypatch.setattr(f"{place}.workers", lambda: Workers(2, 1, torch.device("cpu")))
    words = ("finetune", "fare", "--model", model, *SHORT, "--out", "twin")
    result = run(*words)
    assert (result.exit_code, result.output) == (0, "")
    assert not Path("twin").exists()
    result = run(*words, "--device", "cuda:0")
    assert result.exit_code == 2
    assert "each of the 2 processes has a device of its own; leave device out" in result.output
