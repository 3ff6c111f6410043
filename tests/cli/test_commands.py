from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.cli.conftest import Run

import radapt
from radapt.adapters import Adapter, cutoff_from_d0
from radapt.cli._shared import split_names
from radapt.data import load_dataset
from radapt.errors import SettingsError
from radapt.evaluation import Candidate, Threat, evaluate
from radapt.io import fraction, options_of, write_text
from radapt.results import Results, Sample

DOCUMENTED = (Path(__file__).parents[2] / "docs" / "json.md").read_text(encoding="utf-8")
RESULT = {
    "method", "model", "adapter", "task", "dataset", "split", "n", "attack", "norm", "eps", "source",
    "options", "seed", "chunk_size",
    "version", "kind", "metric", "main", "percent", "low", "high", "seconds", "forwards", "backwards", "flags",
    "depends", "checked",
}  # fmt: skip
ADAPTER = {
    "cutoff", "alpha", "mix", "block", "width", "grid", "prefix", "patch_size", "method", "base_model",
    "base_weights", "fingerprint",
}  # fmt: skip
TRAINED = {
    "loss", "adversary", "data", "split", "images", "eps", "attack", "steps", "batch", "lr", "seed", "first_loss",
    "last_loss",
}  # fmt: skip
CARD = {
    "card", "name", "model", "adapter", "settings", "about", "norm", "eps", "source", "results", "versions", "commands",
    "date", "paper", "authors", "venue", "link", "changed", "task", "dataset", "split", "metric", "planned", "clean",
    "robust", "attacks", "transfer", "flags", "checked", "percent", "low", "high", "n", "attack", "options",
}  # fmt: skip
TRIAL = {"alpha", "cutoff", "shares", "clean", "robust", "clean_interval", "robust_interval", "score"}
SHALLOW = {"layers", "rank", "weight_decay", "clean_weight", "ema", "share", "start"}
TWIN = {
    "method", "options", "recipe", "model", "data", "split", "n", "layers", "eps", "attack_steps", "step_size",
    "attack_momentum", "last_iterate", "steps", "batch_size", "accumulate", "workers", "optimizer", "lr", "warmup",
    "warmup_steps", "weight_decay", "decayed", "max_grad_norm", "ema", "precision", "seed", "device", "log",
    "report_to", "first_loss", "last_loss",
}  # fmt: skip


def documented(heading: str) -> set[str]:
    """Keys in the first column of the tables below a heading of the page."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", DOCUMENTED, re.MULTILINE | re.DOTALL)
    assert section is not None
    cells = re.findall(r"^\| (`.*?) \|", section.group(1), re.MULTILINE)
    return {key for cell in cells for key in re.findall(r"`(\w+)`", cell)}


def read(path: str) -> Any:
    return json.loads(Path(path).read_text())


def twin_of(model: str) -> str:
    """A folder with the model whose weights are all changed."""
    twin = radapt.load(model)
    with torch.no_grad():
        for parameter in twin.image_parameters().values():
            parameter += 0.01 * torch.randn_like(parameter)
    twin.save_pretrained("changed")
    return "changed"


@pytest.mark.slow
def test_adapt_tune_evaluate_and_report_one_after_the_other(run: Run, model: str) -> None:
    words = ("--model", model, "--out", "a", "--alpha", 0.5, "--d0", 30, "--json", "a.json")
    result = run("adapt", "training-free", *words)
    assert result.exit_code == 0, result.output
    adapter = Adapter.from_pretrained("a")
    assert adapter.settings.alpha == 0.5
    assert adapter.settings.cutoff == pytest.approx(30 / 224)
    assert read("a.json")["fingerprint"] == adapter.fingerprint
    assert read("a.json").keys() == ADAPTER | {"image"} == documented("Adapters") - TRAINED - SHALLOW - {"guide"}

    words = (
        "--data",
        "shapes,colours",
        "--n",
        4,
        "--alphas",
        "0.1,1/2",
        "--d0s",
        "20,40",
        "--attack",
        "pgd",
        "--option",
        "steps=2",
    )
    result = run("tune", "a", "--model", model, *words, "--out", "best", "--json", "trials.json")
    assert result.exit_code == 0, result.output
    trials = read("trials.json")
    assert {(t["alpha"], t["cutoff"]) for t in trials} == {(a, cutoff_from_d0(d)) for a in (0.1, 0.5) for d in (20, 40)}
    assert [t["score"] for t in trials] == sorted((t["score"] for t in trials), reverse=True)
    best = Adapter.from_pretrained("best").settings
    assert (best.alpha, best.cutoff) == (trials[0]["alpha"], trials[0]["cutoff"])
    assert all(trial.keys() == TRIAL for trial in trials)
    assert documented("Trials") == TRIAL
    assert Adapter.from_pretrained("a").settings == adapter.settings  # --out: the first is left alone

    graft = ("adapt", "graft", "--model", model, "--guide", twin_of(model), "--option", "weights=block:0")
    assert run(*graft, "--out", "g").exit_code == 0
    words = (
        "--data",
        "shapes",
        "--n",
        4,
        "--share",
        "block:0=0.5,1",
        "--attack",
        "pgd",
        "--option",
        "steps=1",
        "--out",
        "shared",
    )
    result = run("tune", "g", "--model", model, *words, "--json", "shares.json")
    assert result.exit_code == 0, result.output
    assert sorted(trial["shares"]["block:0"] for trial in read("shares.json")) == [0.5, 1]
    assert Adapter.from_pretrained("shared").deltas

    words = ("--data", "shapes,colours", "--attack", "pgd", "--option", "steps=2", "--n", 4, "--batch-size", 4, "-q")
    result = run("evaluate", f"CLIP={model}", f"R-Adapt={model}+best", *words, "--json", "rows.json")
    assert result.exit_code == 0, result.output
    assert "results in results.sqlite" in result.output
    assert "R-Adapt" in result.output
    rows = read("rows.json")
    assert [(r["dataset"], r["method"], r["source"]) for r in rows] == [
        (data, method, source)
        for data in ("shapes", "colours")
        for method in ("CLIP", "R-Adapt")
        for source in ("", "undefended", "self")
        if (method, source) != ("CLIP", "undefended")  # it would be attacked from itself
    ]
    assert all(row.keys() == RESULT for row in rows)
    assert documented("Results") == RESULT
    assert {r["adapter"] for r in rows if r["method"] == "R-Adapt"} == {Adapter.from_pretrained("best").fingerprint}

    result = run("report", "results.sqlite", "--out", "report", "--json", "again.json")
    assert result.exit_code == 0, result.output
    assert read("again.json") == rows
    assert {"report.html", "table.md", "results.json"} <= {path.name for path in Path("report").iterdir()}
    assert "wrote report/report.html" in result.output

    Path("about.yaml").write_text("R-Adapt: {paper: 'What Makes VLMs Robust?'}\n")
    result = run("report", "results.sqlite", "--out", "report", "--cards", "cards", "--about", "about.yaml")
    assert result.exit_code == 0, result.output
    (path,) = Path("cards").glob("r-adapt-linf-*.json")
    card = read(str(path))
    (kept,) = [each["robust"]["percent"] for each in card["results"] if each["dataset"] == "shapes"]
    assert kept == min(row["percent"] for row in rows if row["method"] == "R-Adapt" and row["dataset"] == "shapes")
    assert card["about"] == {"paper": "What Makes VLMs Robust?", "authors": "", "venue": "", "link": "", "changed": 0.0}
    assert keys(card) == CARD == documented("Result cards")
    result = run("leaderboard", "cards", "--out", "page.html", "--title", "Here")
    assert result.exit_code == 0, result.output
    assert "<h1>Here</h1>" in Path("page.html").read_text()


def keys(value: Any) -> set[str]:
    """The keys of a card and of its parts, the names that settings, flags and versions have left out."""
    if isinstance(value, list):
        return set().union(*map(keys, value))
    free = ("settings", "options", "flags", "versions")
    own = value if isinstance(value, dict) else {}
    return set(own).union(*(keys(each) for name, each in own.items() if name not in free))


def test_the_command_gives_the_figures_of_the_library(run: Run, model: str) -> None:
    words = ("--data", "colours", "--attack", "apgd", "--eps", "1/255,2/255", "--option", "steps=3")
    result = run("evaluate", model, *words, "--n", 6, "--seed", 2, "--no-sanity", "-q", "--json", "rows.json")
    assert result.exit_code == 0, result.output
    sources = ("undefended", "self")
    threats = [Threat(attack="apgd", eps=e / 255, source=s, options={"steps": 3}) for e in (1, 2) for s in sources]
    with Results("direct.sqlite") as results:
        figures = evaluate(
            [Candidate(method=model, model=radapt.load(model))],
            data=[load_dataset("colours", n=6)],
            threats=threats,
            results=results,
            seed=2,
            sanity=False,
            quiet=True,
        )
        expected = [(figure.setting, results.samples(figure.setting)) for figure in figures]
    with Results("results.sqlite", read_only=True) as results:
        assert [(f.setting, results.samples(f.setting)) for f in results.all()] == expected
    assert [row["eps"] for row in read("rows.json")] == [0, 1 / 255, 2 / 255]


def test_a_second_run_adds_chunks_and_does_not_redo_those_there_are(
    run: Run, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (
        "evaluate",
        model,
        "--attack",
        "pgd",
        "--option",
        "steps=2",
        "--source",
        "self",
        "-q",
        "--chunk-size",
        4,
        "--n",
    )
    assert run(*words, 4).exit_code == 0
    added: list[int] = []
    add = Results.add

    def watched(self: Results, setting: object, samples: list[Sample], **more: object) -> None:
        added.extend(sample.position for sample in samples)
        add(self, setting, samples, **more)

    monkeypatch.setattr(Results, "add", watched)
    assert run(*words, 6).exit_code == 0
    assert sorted(added) == [4, 4, 5, 5]


def test_an_interrupt_is_one_line_and_the_same_command_continues(
    run: Run, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("evaluate", model, "--attack", "pgd", "--option", "steps=2", "--n", 4, "-q", "--json", "rows.json")
    add = Results.add

    def interrupted(self: Results, *given: Any, **named: Any) -> None:
        add(self, *given, **named)
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Results, "add", interrupted)
            result = run(*words)
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.exit_code == 1
    assert result.stderr == "interrupted; what was computed is kept, run the same command to continue\n"
    assert not Path("rows.json").exists()
    with Results("results.sqlite", read_only=True) as results:
        assert [(f.setting.attack, f.n) for f in results.all()] == [("none", 4)]
    assert run(*words).exit_code == 0
    assert [row["n"] for row in read("rows.json")] == [4, 4]  # clean, and white-box: it is its own source


@pytest.mark.slow
def test_a_data_driven_adapter_is_trained_and_says_how(run: Run, model: str) -> None:
    words = ("--model", model, "--n", 6, "--steps", 2, "--eps", "2/255", "--d0", 0, "-q", "--json", "a.json")
    for loss in ("embedding", "text"):
        result = run("adapt", "data-driven", "--loss", loss, "--adversary", "adaptive", "--out", loss, *words)
        assert result.exit_code == 0, result.output
        facts = read("a.json")
        assert facts.keys() == ADAPTER | TRAINED
        assert (facts["loss"], facts["adversary"], facts["images"], facts["steps"]) == (loss, "adaptive", 6, 2)
        assert (facts["eps"], facts["cutoff"], facts["alpha"]) == (2 / 255, None, 0.8)
        assert Adapter.from_pretrained(loss).fingerprint == facts["fingerprint"]
    assert not list(Path().glob("*.checkpoint.*"))
    assert documented("Adapters") == ADAPTER | TRAINED | SHALLOW | {"image", "guide"}
    layers = ("--option", "layers=embedding+block:0")
    words = ("--model", model, "--n", 6, "--steps", 1, "--out", "b", "-q", "--json", "b.json")
    result = run("adapt", "shallow", *words, *layers)
    assert result.exit_code == 0, result.output
    assert read("b.json").keys() == (ADAPTER | TRAINED | SHALLOW) - {"adversary", "start"}


def test_a_twin_is_fine_tuned_and_guides_an_adapter(run: Run, model: str) -> None:
    words = ("--model", model, "--n", 8, "--steps", 2, "--batch-size", 4, "--attack-steps", 1, "--lr", "1e-3", "-q")
    result = run("finetune", "fare", *words, "--out", "twin", "--json", "twin.json")
    assert result.exit_code == 0, result.output
    assert read("twin.json").keys() == TWIN == documented("Twins")
    assert read("twin/recipe.json") == read("twin.json")
    assert radapt.load("twin").name == "twin"
    result = run("adapt", "model-guided", "--model", model, "--guide", "twin", "--out", "a", "--json", "a.json")
    assert result.exit_code == 0, result.output
    assert read("a.json")["guide"] == "twin"
    own = radapt.training_free(radapt.load(model))
    assert Adapter.from_pretrained("a").fingerprint != own.fingerprint


def test_the_json_of_the_renderer_is_documented() -> None:
    keys = {"benchmark", "images", "size", "repeats", "seconds", "images_per_second", "goal", "version"}
    assert documented("Rendering") == keys


@given(st.integers(-1000, 1000), st.integers(1, 1000))
def test_fractions_are_read(top: int, bottom: int) -> None:
    assert fraction(f"{top}/{bottom}") == top / bottom
    assert fraction(str(top / bottom)) == top / bottom


def test_options_are_read_by_their_looks() -> None:
    read = options_of(["steps=50", "rho=0.5", "step_size=1/255", "random_start=false", "loss=margin", "eps=2.0"])
    assert read == {"steps": 50, "rho": 0.5, "step_size": 1 / 255, "random_start": False, "loss": "margin", "eps": 2.0}
    assert [type(value) for value in read.values()] == [int, float, float, bool, str, float]
    assert options_of(["growth=none"]) == {"growth": None}
    with pytest.raises(SettingsError, match="NAME=VALUE"):
        options_of(["steps"])
    assert split_names(" shapes, colours,,") == ["shapes", "colours"]


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "new" / "rows.json"
    write_text(target, "old")

    def full(self: Path, content: bytes) -> int:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        write_text(target, "new")
    assert target.read_text() == "old"


def test_parts_that_several_processes_measured_are_merged(run: Run, model: str) -> None:
    words = ("evaluate", model, "--attack", "none", "-q", "--n", 6, "--chunk-size", 2)
    for part in (1, 2):
        assert run(*words, "--shard", f"{part}/2", "--results", f"{part}.sqlite").exit_code == 0
    merged = run("merge", "1.sqlite", "2.sqlite", "--results", "both.sqlite")
    assert merged.exit_code == 0, merged.output
    assert "results in both.sqlite" in merged.output
    assert run(*words, "--results", "whole.sqlite", "--no-sanity").exit_code == 0
    with Results("both.sqlite", read_only=True) as both, Results("whole.sqlite", read_only=True) as whole:
        (one,), (other,) = both.all(), whole.all()
        assert (one.n, one.percent) == (other.n, other.percent) == (6, other.percent)
        assert both.samples(one.setting) == whole.samples(other.setting)
