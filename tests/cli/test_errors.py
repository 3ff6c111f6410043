"""What goes wrong is one clear line on stderr: exit code 2 for wrong usage, 1 for failure."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import jaxtyping
import pytest
from click.testing import Result
from tests.cli.conftest import Run

from radapt.results import Results


def refused(result: Result, code: int, *parts: str) -> None:
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)  # not an error that would show a traceback
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--data", "shaps"], ["unknown dataset 'shaps'", "did you mean 'shapes'"]),
        (["--data", ""], ["nothing to evaluate"]),
        (["--data", "shapeworld-captions", "--target", " "], ["target is empty"]),
        (["--split", "tset"], ["did you mean 'test'"]),
        (["--n", "0"], ["n must be", "got 0"]),
        (["--n", "-3"], ["n must be", "got -3"]),
        (["--attack", "pdg"], ["unknown attack 'pdg'", "did you mean 'pgd'"]),
        (["--option", "stepz=3"], ["no setting 'stepz'", "did you mean 'steps'"]),
        (["--option", "steps"], ["NAME=VALUE", "got 'steps'"]),
        (["--option", "steps=0"], ["steps must be a whole number", "got 0"]),
        (["--attack", "apgd", "--option", "loss=margn"], ["unknown loss 'margn'", "did you mean 'margin'"]),
        (["--norm", "lnf"], ["'lnf'", "did you mean 'linf'"]),
        (["--eps", "abc"], ["'abc' is neither a number nor a fraction such as 4/255"]),
        (["--eps", "4/0"], ["'4/0' is neither"]),
        (["--eps", "2"], ["eps", "got 2.0", "4/255"]),
        (["--eps", "0"], ["eps", "got 0.0"]),
        (["--eps", "-1/255"], ["eps"]),
        (["--eps", "nan"], ["eps", "got nan"]),
        (["--eps", ""], ["--eps and --source"]),
        (["--source", ""], ["--eps and --source"]),
        (["--source", "slef"], ["unknown source 'slef'", "did you mean 'self'"]),
        (["--undefended", "nonsense"], ["unknown model 'nonsense'"]),
        (["--batch-size", "0"], ["batch_size"]),
    ],
    ids=" ".join,
)
def test_a_wrong_option_of_evaluate(run: Run, model: str, options: list[str], parts: list[str]) -> None:
    n = () if "--n" in options else ("--n", 2)
    refused(run("evaluate", model, *n, "-q", *options), 2, *parts)


@pytest.mark.slow
def test_a_wrong_candidate(run: Run, model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "weights" / "clip").mkdir(parents=True)
    (tmp_path / "weights" / "clip" / "config.json").write_text("{}")
    monkeypatch.setattr("radapt.models._source.MICRO", tmp_path / "weights")
    refused(run("evaluate", "micro/clpi"), 2, "unknown model 'micro/clpi'", "did you mean 'micro/clip'")
    refused(run("evaluate", "nonsense"), 2, "unknown model 'nonsense'", "neither a folder nor a name on the hub")
    refused(run("evaluate", model, model), 2, "candidates must have different names")
    refused(run("evaluate", f"a={model}", f"b={model}"), 2, "'a' and 'b' have the same model name")
    for text in (f"={model}", f"{model}+", "label="):
        refused(run("evaluate", text), 2, "[LABEL=]MODEL[+ADAPTER]")
    refused(run("evaluate", f"{model}+missing"), 1, "no adapter folder at missing")
    (tmp_path / "empty").mkdir()
    refused(run("evaluate", f"{model}+{tmp_path / 'empty'}"), 1, "radapt_config.json", "missing")
    refused(run("evaluate", tmp_path / "empty"), 1, "no readable config.json")
    refused(run("evaluate", "someone/model"), 1, "cannot fetch 'someone/model'", "HF_HOME")


def test_a_damaged_model_or_adapter(run: Run, model: str, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"nothing")
    refused(run("evaluate", tmp_path / "damaged", "--n", 2), 1, "cannot load")
    assert run("adapt", "training-free", "--model", model, "--out", "good").exit_code == 0
    Path("good/radapt_anchor.safetensors").write_bytes(b"nothing")
    refused(run("evaluate", f"{model}+good", "--n", 2), 1, "damaged")


def test_a_results_file_that_cannot_be_used(run: Run, model: str, tmp_path: Path) -> None:
    words = ("evaluate", model, "--n", 2, "--attack", "none", "-q", "--results")
    with Results("other.sqlite"):
        pass
    with sqlite3.connect("other.sqlite") as database:
        database.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
    database.close()
    refused(run(*words, "other.sqlite"), 1, "schema version 99", "write to another file")
    refused(run("report", "other.sqlite"), 1, "schema version 99")
    with Results("busy.sqlite"):
        refused(run(*words, "busy.sqlite"), 1, "in use by another run")
    Path("text").write_text("not a database, and long enough to be seen as something else by its first page" * 20)
    refused(run(*words, "text"), 1, "not a results file")
    refused(run(*words, "text/results.sqlite"), 2, "--results", "'text/results.sqlite' cannot be written")
    refused(run("report", "missing.sqlite"), 1, "no results file at missing.sqlite", "radapt evaluate")
    assert not Path("missing.sqlite").exists()
    with Results("empty.sqlite"):
        pass
    refused(run("report", "empty.sqlite"), 1, "the results file is empty", "radapt evaluate")


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        (["training-fre"], 2, ["unknown adapter method 'training-fre'", "did you mean 'training-free'"]),
        (["model-guided"], 2, ["model-guided needs a guide"]),
        (["training-free", "--guide", "micro/fare"], 2, ["training-free takes no guide"]),
        (["training-free", "--steps", "4"], 2, ["training-free: unknown setting 'steps'"]),
        (["data-driven", "--block", "1"], 2, ["data-driven: unknown setting 'block'"]),
        (["model-guided", "--guide", "nonsense"], 2, ["unknown model 'nonsense'"]),
        (["training-free", "--mix", "ad"], 2, ["unknown mix 'ad'", "did you mean 'add'"]),
        (["training-free", "--image", "wite"], 2, ["did you mean 'white'"]),
        (["training-free", "--alpha", "-1"], 2, ["alpha", "-1"]),
        (["training-free", "--d0", "-1"], 2, ["cutoff"]),
        (["training-free", "--out", "file/adapter"], 2, ["--out", "'file/adapter' cannot be written"]),
        (["data-driven", "--n", "4", "--loss", "txt"], 2, ["unknown loss 'txt'", "did you mean 'text'"]),
        (["data-driven", "--n", "4", "--adversary", "statik"], 2, ["did you mean 'static'"]),
        (["data-driven", "--n", "4", "--data", "objcts"], 2, ["did you mean 'objects'"]),
        (["data-driven", "--n", "4", "--data", "shapes,colurs"], 2, ["unknown dataset 'colurs'"]),
        (["data-driven", "--n", "4,4", "--data", "shapes"], 2, ["give n once", "got 1 datasets by name and 2 n"]),
        (["data-driven", "--n", "4", "--data", ""], 2, ["data must be a dataset", "got none"]),
        (["data-driven", "--n", "4", "--eps", "abc"], 2, ["'abc'"]),
        (["data-driven", "--n", "4", "--steps", "0"], 2, ["steps"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_a_wrong_option_of_adapt(run: Run, model: str, words: list[str], code: int, parts: list[str]) -> None:
    Path("file").write_text("x")
    refused(run("adapt", *words, "--model", model, "-q"), code, *parts)


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        (["missing"], 1, ["no adapter folder at missing"]),
        (["adapter", "--alphas", "abc"], 2, ["'abc'"]),
        (["adapter", "--alphas", ""], 2, ["nothing to try"]),
        (["adapter", "--weight", "2"], 2, ["weight"]),
        (["adapter", "--attack", "pdg"], 2, ["did you mean 'pgd'"]),
        (["adapter", "--data", "shaps"], 2, ["did you mean 'shapes'"]),
        (["adapter", "--option", "stepps=3"], 2, ["did you mean 'steps'"]),
        (["adapter", "--results", "adapter"], 2, ["--results", "adapter"]),
        (["adapter", "--share", "0.5"], 2, ["--out FOLDER, not the adapter's own"]),
        (["adapter", "--share", "0.5", "--out", "./adapter"], 2, ["--out FOLDER, not the adapter's own"]),
        (["micro/shallow"], 2, ["micro/shallow is not a folder here", "--out FOLDER"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_a_wrong_option_of_tune(run: Run, model: str, words: list[str], code: int, parts: list[str]) -> None:
    assert run("adapt", "training-free", "--model", model).exit_code == 0
    refused(run("tune", *words, "--model", model, "--n", 2), code, *parts)


def test_a_wrong_option_of_finetune(run: Run, model: str) -> None:
    refused(run("finetune", "tecao", "--model", model, "--n", 4), 2, "'tecao'", "did you mean 'tecoa'")
    refused(run("finetune", "fare", "--model", "nonsense", "--n", 4), 2, "unknown model 'nonsense'")
    refused(run("finetune", "fare", "--model", model, "--n", 4, "--eps", "abc"), 2, "'abc'")
    refused(run("finetune", "fare", "--model", model, "--n", 4, "--data", "shapes,digts"), 2, "unknown dataset")


def test_a_report_under_a_file(run: Run, model: str) -> None:
    assert run("evaluate", model, "--n", 2, "--attack", "none", "-q").exit_code == 0
    Path("file").write_text("x")
    refused(run("report", "results.sqlite", "--out", "file/report"), 2, "--out", "'file/report' cannot be written")
    refused(run("report", "results.sqlite", "--json", "file/rows.json"), 2, "--json", "'file/rows.json'")


def test_an_option_that_does_not_exist_is_wrong_usage(run: Run, model: str) -> None:
    result = run("evaluate", model, "--attak", "pgd")
    assert result.exit_code == 2
    assert "--attack" in result.output


def test_an_option_of_the_wrong_type_is_refused(run: Run, model: str) -> None:
    # The tests' own run-time checks of signatures would refuse it first.
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        result = run("evaluate", model, "--n", 2, "-q", "--option", "steps=many")
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    refused(result, 2, "steps must be a whole number", "got 'many'")
