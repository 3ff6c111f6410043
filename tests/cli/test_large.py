"""What a model takes is told before it is loaded, and how it is loaded can be chosen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Run
from tests.cli.test_errors import refused
from tests.models.generative import BUILDERS

import radapt.models
from radapt.models import estimate


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(BUILDERS["llava"](tmp_path_factory.mktemp("llava")))


def test_the_memory_of_a_model_is_a_table(run: Run, llava: str) -> None:
    for file in Path(llava).iterdir():
        if file.name not in ("config.json", "preprocessor_config.json"):
            file.rename(file.with_name(f"hidden-{file.name}"))  # the weights are not needed
    try:
        result = run("models", llava, "--dtype", "bfloat16", "--batch-size", 4, "--gradient-checkpointing")
    finally:
        for file in Path(llava).glob("hidden-*"):
            file.rename(file.with_name(file.name.removeprefix("hidden-")))
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"{llava}, bfloat16, 4 images of 48 x 48, checkpointing\n")
    for part in ("vision tower", "projector", "language model", "together", "parameters (M)", "activations (GB)"):
        assert part in result.output
    whole = estimate(llava, dtype="bfloat16", batch_size=4, gradient_checkpointing=True)
    assert f"total {whole.total / 1e9:.2f} GB" in result.output


def test_what_has_no_estimate_is_one_line(run: Run, model: str) -> None:
    refused(run("models", "micro/clop"), 2, "unknown model 'micro/clop'", "did you mean 'micro/clip'")
    refused(run("models", model, "--dtype", "bf16"), 2, "unknown dtype 'bf16'", "did you mean 'bfloat16'")
    refused(run("models", model, "--batch-size", 0), 2, "batch_size must be at least 1")
    refused(run("models", model, "--gradient-checkpointing"), 1, "does not generate text")
    refused(run("models", model, "--image-size", 4), 2, "multiples of 8 pixels")


def test_evaluate_tells_the_memory_and_loads_as_it_is_told(run: Run, model: str) -> None:
    words = ("--attack", "none", "--n", 2, "-q", "--batch-size", 2)
    result = run("evaluate", f"half={model}", *words, "--dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    line = estimate(model, dtype="bfloat16", batch_size=2).line()
    assert "bfloat16, 2 images of 48 x 48: about" in line
    assert result.output.count(line) == 1
    assert "images of" not in run("evaluate", "micro/clip", *words).output


@pytest.mark.slow
def test_candidates_of_one_model_load_it_once(run: Run, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("adapt", "training-free", "--model", model, "--out", "a").exit_code == 0
    load, names = radapt.models.load, []

    def counted(name: str, **options: Any) -> Any:
        names.append(name)
        return load(name, **options)

    monkeypatch.setattr("radapt.evaluation._candidates.load", counted)
    words = ("--attack", "pgd", "--option", "steps=2", "--n", 4, "-q", "--batch-size", 4, "--json", "rows.json")
    result = run("evaluate", f"bare={model}", f"R-Adapt={model}+a", *words)
    assert result.exit_code == 0, result.output
    assert names == [model]
    together = sorted(map(figure, json.loads(Path("rows.json").read_text())))
    apart = []
    for number, candidate in enumerate((f"bare={model}", f"R-Adapt={model}+a")):
        assert run("evaluate", candidate, *words, "--results", f"{number}.sqlite").exit_code == 0
        apart += map(figure, json.loads(Path("rows.json").read_text()))
    assert sorted(apart) == together


def figure(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["method"], row["source"], row["percent"], row["n"]


@pytest.mark.parametrize("command", [("evaluate",), ("adapt", "training-free", "--model")])
def test_a_wrong_way_to_load_is_one_line(run: Run, model: str, command: tuple[str, ...]) -> None:
    refused(run(*command, model, "--dtype", "bf16"), 2, "unknown dtype 'bf16'")
    refused(run(*command, model, "--device", "cuda:99"), 1, "no device 'cuda:99' here")
    refused(run(*command, model, "--device-map", "auto"), 1, "device_map is for llava")


def test_checkpointing_is_for_generative_models(run: Run, model: str, llava: str) -> None:
    words = (
        "--data",
        "shapeworld-vqa",
        "--attack",
        "none",
        "--n",
        2,
        "-q",
        "--batch-size",
        2,
        "--gradient-checkpointing",
    )
    refused(run("evaluate", model, *words), 1, "gradient_checkpointing is for a LLaVA or Qwen-VL")
    result = run("evaluate", f"l={llava}", *words)
    assert result.exit_code == 0, result.output
    assert estimate(llava, batch_size=2, gradient_checkpointing=True).line() in result.output


def test_an_adapter_is_made_in_half_precision(run: Run, llava: str) -> None:
    result = run("adapt", "training-free", "--model", llava, "--dtype", "bfloat16", "--out", "a")
    assert result.exit_code == 0, result.output
