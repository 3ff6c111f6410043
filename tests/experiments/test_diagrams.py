"""Experiments with an axis: sweeps, replacement, trained twins, analyses, and all of them on one page."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result

import radapt
from radapt.analysis.cka import CKA
from radapt.attacks import Outcome
from radapt.evaluation import BoundTask
from radapt.evaluation._bench import Bench
from radapt.evaluation._units import Measured, Unit
from radapt.results import Results
from radapt.results.plots import Curves, Plot, read_plots

Run = Callable[..., Result]
SMALL = ("--batch-size", "4", "--quiet")
ATTACK = {"attack": "pgd", "eps": "8/255", "options": {"steps": 1}}
FREE = {"method": "training-free"}


def write(folder: Path, name: str = "own", **profile: Any) -> Path:
    table = {"data": ["shapes"], "n": 4, "attacks": [ATTACK], "sanity": False}
    content = {"models": {"CLIP": "micro/clip"}, **table, **profile}
    path = folder / f"{name}.yaml"
    path.write_text(
        yaml.safe_dump({"title": name, "description": "D", "published": "P", "profiles": {"micro": content}})
    )
    return path


def plots(folder: str | Path) -> list[Plot]:
    return read_plots(Path(folder) / "plots.json")


def points(plot: Plot, kind: str) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
    assert isinstance(plot, Curves)
    return {line.name: (line.x, line.y) for line in plot.lines if line.kind == kind}


def percents(file: str, kind: str) -> dict[str, float]:
    with Results(file, read_only=True) as results:
        return {figure.setting.method: figure.percent for figure in results.all() if figure.kind == kind}


@pytest.mark.slow
def test_a_sweep_of_alpha_is_a_line_with_the_undefended_model_level_beside_it(run: Run, tmp_path: Path) -> None:
    sweep = {"over": "alpha", "values": [0, 0.5, 2], "label": "alpha"}
    path = write(tmp_path, defences={"A": FREE, "B": {**FREE, "image": "black"}}, sweep=sweep)
    result = run("reproduce", path, "--out", "here", *SMALL)
    assert result.exit_code == 0, result.output
    (plot,) = plots("here/plots")
    figures = percents("here/results.sqlite", "white-box")
    # At 0 the anchors do not matter: the two adapters are one, and it is evaluated once.
    assert set(figures) == {"CLIP", "A, alpha 0", "A, alpha 0.5", "A, alpha 2", "B, alpha 0.5", "B, alpha 2"}
    drawn = points(plot, "white-box")
    assert drawn["CLIP"] == ((0.0, 2.0), (figures["CLIP"],) * 2)
    for name in "AB":
        ends = [figures["A, alpha 0"], figures[f"{name}, alpha 0.5"], figures[f"{name}, alpha 2"]]
        assert drawn[name] == ((0.0, 0.5, 2.0), tuple(ends))
    assert set(points(plot, "clean")) == {"CLIP", "A", "B"}
    assert set(points(plot, "transfer")) == {"A", "B"}  # CLIP is the source: attacked from itself, it is white-box


@pytest.mark.slow
def test_a_sweep_of_a_setting_without_numbers_names_its_places(run: Run, tmp_path: Path) -> None:
    sweep = {"over": "mix", "values": ["interpolate", "add"], "label": "mix"}
    result = run("reproduce", write(tmp_path, defences={"A": FREE}, sweep=sweep), "--out", "here", *SMALL)
    assert result.exit_code == 0, result.output
    (plot,) = plots("here/plots")
    assert isinstance(plot, Curves)
    assert plot.ticks == ("interpolate", "add")
    assert points(plot, "clean")["A"][0] == (0.0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("over", "values", "methods"),
    [
        ("d0", [0, 40], {"A, d0 0", "A, d0 40"}),
        ("block", [0, 3], {"A, block 0", "A, block 3"}),
        ("cutoff", [0.1, 0.3], {"A, cutoff 0.1", "A, cutoff 0.3"}),
    ],
)
def test_other_sweeps_change_the_adapter(
    run: Run, tmp_path: Path, over: str, values: list[float], methods: set[str]
) -> None:
    one = {**FREE, "alpha": 0.5, "d0": 30}
    path = write(tmp_path, defences={"A": one}, sweep={"over": over, "values": values, "label": "x"})
    assert run("reproduce", path, "--out", "here", *SMALL).exit_code == 0
    with Results("here/results.sqlite", read_only=True) as results:
        adapters = {figure.setting.method: figure.setting.adapter for figure in results.all()}
    assert set(adapters) == {"CLIP", *methods}
    assert len(set(adapters.values())) == 3  # none for the undefended model, and two that differ


@pytest.mark.slow
def test_a_sweep_over_attacks_puts_every_model_under_each(run: Run, tmp_path: Path) -> None:
    rings = [(0.0, 0.1), (0.3, 0.7)]
    attacks = [{"attack": "band", "eps": "16/255", "options": {"steps": 2, "low": a, "high": b}} for a, b in rings]
    sweep = {"over": "attack", "values": [0.05, 0.5], "label": "frequency"}
    path = write(tmp_path, twins={"FARE": "micro/fare"}, attacks=attacks, sweep=sweep)
    result = run("reproduce", path, "--out", "here", *SMALL)
    assert result.exit_code == 0, result.output
    (plot,) = plots("here/plots")
    with Results("here/results.sqlite", read_only=True) as results:
        expected = {
            (figure.setting.method, figure.setting.options["low"]): figure.percent
            for figure in results.all()
            if figure.kind == "white-box"
        }
    for name, (x, y) in points(plot, "white-box").items():
        assert (x, y) == ((0.05, 0.5), (expected[name, 0.0], expected[name, 0.3]))
    assert points(plot, "clean")["FARE"][0] == (0.05, 0.5)


@pytest.mark.slow
def test_a_sweep_over_attacks_takes_every_option_for_what_it_is(run: Run, tmp_path: Path) -> None:
    options = [{"steps": 2}, {"steps": 2, "low": 0.3}]  # the first is no special case of the second
    attacks = [{"attack": "band", "eps": "1/255", "options": each} for each in options]
    sweep = {"over": "attack", "values": ["all", "high"], "label": "band"}
    assert run("reproduce", write(tmp_path, attacks=attacks, sweep=sweep), "--out", "here", *SMALL).exit_code == 0
    with Results("here/results.sqlite", read_only=True) as results:
        found = {f.setting.options["low"]: f.percent for f in results.all() if f.kind == "white-box"}
    assert found[0.0] < found[0.3]  # else nothing would tell them apart
    (plot,) = plots("here/plots")
    assert isinstance(plot, Curves)
    assert plot.ticks == ("all", "high")
    assert points(plot, "white-box")["CLIP"] == ((0.0, 1.0), (found[0.0], found[0.3]))


@pytest.mark.slow
def test_a_sweep_of_images_may_name_the_mean(run: Run, tmp_path: Path) -> None:
    sweep = {"over": "image", "values": ["white", "mean"], "label": "image"}
    path = write(tmp_path, defences={"A": {**FREE, "alpha": "1/2", "data": "objects", "n": 4}}, sweep=sweep)
    result = run("reproduce", path, "--out", "here", *SMALL)
    assert result.exit_code == 0, result.output
    assert set(percents("here/results.sqlite", "clean")) == {"CLIP", "A, image white", "A, image mean"}


@pytest.mark.slow
def test_replacement_goes_from_the_model_to_its_twin(run: Run, tmp_path: Path) -> None:
    orders = {"twins": {"FARE": "micro/fare"}, "order": ["progressive", "interpolation"]}
    path = write(tmp_path, replacement=orders, twins={"whole": "micro/fare"})
    result = run("reproduce", path, "--out", "here", *SMALL)
    assert result.exit_code == 0, result.output
    plot, control = plots("here/plots")
    assert isinstance(plot, Curves)
    assert isinstance(control, Curves)
    assert control.ticks == ("Original", "0.25", "0.5", "0.75", "Full")
    assert control.title.startswith("Interpolation of weights")
    # The control begins and ends where the replacement does.
    for kind in ("clean", "white-box"):
        (_, whole), (_, ways) = (points(each, kind)["FARE"] for each in (plot, control))
        assert (ways[0], ways[-1]) == (whole[0], whole[-1])
    assert plot.ticks == ("Original", "Emb.", "B1-Attn", *(f"B{n}" for n in range(1, 9)), "Full")
    for kind in ("clean", "transfer", "white-box"):
        figures = percents("here/results.sqlite", kind)
        x, y = points(plot, kind)["FARE"]
        first = int(kind == "transfer")  # the original is the source: attacked from itself, it is white-box
        assert x == tuple(map(float, range(first, 12)))
        assert y[-1] == figures["whole"]
        assert first or y[0] == figures["CLIP"]


@pytest.mark.slow
def test_twins_on_the_way_adapters_that_are_there_and_adapters_on_twins(run: Run, tmp_path: Path) -> None:
    path = write(
        tmp_path,
        twins={"FARE": "micro/fare", "half": {"twin": "micro/fare", "weights": 0.5}},
        defences={
            "shipped": {"adapter": "micro/r-adapt-plus-static"},
            "graft": {"method": "graft", "guide": "micro/fare", "weights": "embedding", "cutoff": 0.35},
            "FARE, filtered": {**FREE, "to": "FARE", "alpha": 0, "cutoff": 0.25},
            "as of TeCoA": {**FREE, "made_on": "micro/tecoa"},
        },
    )
    result = run("reproduce", path, "--out", "here", *SMALL)
    assert result.exit_code == 0, result.output
    methods = {"CLIP", "FARE", "half", "shipped", "graft", "FARE, filtered", "as of TeCoA"}
    assert set(percents("here/results.sqlite", "white-box")) == methods
    fare = radapt.load("micro/fare")
    half = radapt.models.interpolated(radapt.load("micro/clip"), fare, 0.5)
    with Results("here/results.sqlite", read_only=True) as results:
        depends = {figure.setting.method: dict(figure.setting.depends) for figure in results.all()}
        adapters = {figure.setting.method: figure.setting.adapter for figure in results.all()}
        models = {figure.setting.method: figure.setting.model for figure in results.all()}
    assert models["half"] == half.name
    assert depends["FARE, filtered"]["model"] == depends["FARE"]["model"] != depends["half"]["model"]
    assert depends["half"]["model"] != depends["shipped"]["model"] == depends["CLIP"]["model"]
    assert adapters["shipped"] == radapt.Adapter.from_pretrained("micro/r-adapt-plus-static").fingerprint
    assert adapters["as of TeCoA"] == radapt.training_free(radapt.load("micro/tecoa")).fingerprint
    filtered = radapt.training_free(fare, alpha=0, cutoff=0.25)
    assert adapters["FARE, filtered"] == filtered.fingerprint


@pytest.mark.slow
def test_a_twin_is_trained_once_and_read_afterwards(run: Run, tmp_path: Path) -> None:
    how = {"method": "fare", "data": "objects", "n": 8, "steps": 1, "batch_size": 4, "attack_steps": 1, "lr": 1e-3}
    path = write(tmp_path, trained={"shallow": {**how, "layers": "embedding"}, "deep": {**how, "layers": "deep:7-"}})
    first = run("reproduce", path, "--out", "here", *SMALL)
    assert first.exit_code == 0, first.output
    with Results("here/results.sqlite", read_only=True) as results:
        models = {figure.setting.method: figure.setting.model for figure in results.all()}
    assert len({models["CLIP"], models["shallow"], models["deep"]}) == 3
    assert all(name.startswith("micro/clip") for name in models.values())  # no path of this machine
    weights = sorted(Path("here/made").glob("*/model.safetensors"))
    assert len(weights) == 2
    times = [each.stat().st_mtime_ns for each in weights]
    assert run("reproduce", path, "--out", "here", *SMALL).exit_code == 0
    assert [each.stat().st_mtime_ns for each in weights] == times


@pytest.mark.slow
def test_analyses_are_made_once(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    analyses = [{"analysis": "kernels", "n": 1}, {"analysis": "cka", "n": 8, "options": {"tokens": "mean"}}]
    content = {"models": {"CLIP": "micro/clip"}, "twins": {"FARE": "micro/fare"}, "analyses": analyses}
    path = tmp_path / "own.yaml"
    path.write_text(
        yaml.safe_dump({"title": "T", "description": "D", "published": "P", "profiles": {"micro": content}})
    )
    result = run("reproduce", path, "--out", "here", *SMALL)
    assert result.exit_code == 0, result.output
    assert [plot.title for plot in plots("here/plots")] == [
        "Patch embedding: spectrum of FARE minus that of CLIP",
        "CKA of FARE and CLIP (n = 8)",
    ]
    assert not Path("here/results.sqlite").exists()
    monkeypatch.setattr(CKA, "__call__", None)  # read, not made again
    assert run("reproduce", path, "--out", "here", *SMALL).exit_code == 0
    assert "CKA of FARE and CLIP" in Path("here/index.html").read_text()


@pytest.mark.slow
def test_all_experiments_are_on_one_page_and_one_that_fails_costs_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"good": write(tmp_path, "good"), "bad": write(tmp_path, "bad", models={"CLIP": "no/such-model"})}
    files["fine"] = write(tmp_path, "fine", data=["colours"])
    monkeypatch.setattr(importlib.import_module("radapt.experiments.run"), "experiments", lambda: files)
    monkeypatch.setattr("radapt.experiments.spec.experiments", lambda: files)
    result = run("reproduce", "all", "--out", "here", "--json", "all.json", *SMALL)
    assert result.exit_code == 1
    assert "1 of 3 experiments failed: bad" in result.stderr
    page = Path("here/index.html").read_text()
    assert "radapt reproduce good --profile micro" in page
    assert "radapt reproduce fine --profile micro" in page
    assert {row["dataset"] for row in json.loads(Path("all.json").read_text())} == {"shapes", "colours"}


@pytest.mark.slow
def test_what_one_experiment_measured_another_one_does_not(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"first": write(tmp_path, "first"), "second": write(tmp_path, "second", data=["shapes", "colours"])}
    monkeypatch.setattr(importlib.import_module("radapt.experiments.run"), "experiments", lambda: files)
    monkeypatch.setattr("radapt.experiments.spec.experiments", lambda: files)
    assert run("reproduce", "second", "--out", "alone", *SMALL).exit_code == 0
    measured, measure = set[str](), Bench.measure

    def watched(self: Bench, unit: Unit, *given: Any) -> Measured:
        measured.add(f"{unit}")
        return measure(self, unit, *given)

    monkeypatch.setattr(Bench, "measure", watched)
    assert run("reproduce", "first", "--out", "here/first", *SMALL).exit_code == 0
    shapes = set(measured)
    assert shapes
    assert all("shapes" in each for each in shapes)
    measured.clear()
    result = run("reproduce", "all", "--out", "here", *SMALL)
    assert result.exit_code == 0, result.output
    assert len(measured) == len(shapes)
    assert all("colours" in each for each in measured)
    found = list[list[tuple[object, ...]]]()
    for folder in ("here/second", "alone"):
        with Results(f"{folder}/results.sqlite", read_only=True) as results:
            found.append([(each.setting, each.percent, each.flags) for each in results.all()])
    assert found[0] == found[1]


@pytest.mark.slow
def test_images_that_several_experiments_transfer_are_made_by_one_of_them(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "first": write(tmp_path, "first", defences={"A": FREE}),
        "second": write(tmp_path, "second", defences={"B": {**FREE, "alpha": 0.3}}),
        "third": write(tmp_path, "third", defences={"C": FREE}, attacks=[{**ATTACK, "attack": "mi-fgsm"}]),
    }
    monkeypatch.setattr(importlib.import_module("radapt.experiments.run"), "experiments", lambda: files)
    monkeypatch.setattr("radapt.experiments.spec.experiments", lambda: files)
    made, attack = list[int](), BoundTask.attack

    def watched(self: BoundTask, how: Any, pixels: Any, positions: Any, **named: Any) -> Outcome:
        if not named["stop"]:
            made.append(len(positions))
        return attack(self, how, pixels, positions, **named)

    monkeypatch.setattr(BoundTask, "attack", watched)
    result = run("reproduce", "all", "--out", "here", *SMALL)
    assert result.exit_code == 0, result.output
    assert made == [4, 4]
    kept = list(Path("here/made/transferred").rglob("*.safetensors"))
    assert len(kept) == 1  # those of the third are nobody else's
    assert run("reproduce", "second", "--out", "alone", *SMALL).exit_code == 0
    assert made == [4, 4, 4]
    assert percents("here/second/results.sqlite", "transfer") == percents("alone/results.sqlite", "transfer")
    assert not Path("alone/made").exists()


@pytest.mark.slow
def test_of_all_experiments_those_without_the_profile_are_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = yaml.safe_load(write(tmp_path, "other").read_text())
    other["profiles"] = {"special": other["profiles"]["micro"]}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(other))
    files = {"good": write(tmp_path, "good"), "other": tmp_path / "other.yaml"}
    monkeypatch.setattr(importlib.import_module("radapt.experiments.run"), "experiments", lambda: files)
    monkeypatch.setattr("radapt.experiments.spec.experiments", lambda: files)
    result = run("reproduce", "all", "--out", "here", *SMALL)
    assert result.exit_code == 0, result.stderr
    assert "Without other: they have no profile micro" in result.stdout
    assert radapt.reproduce("all", out="here", n=4, quiet=True).left_out == ("other",)
    result = run("reproduce", "all", "--out", "there", "--profile", "specal", *SMALL)
    assert "no profile 'specal'; did you mean 'special'" in result.stderr
    assert not Path("there").exists()


def test_without_photographs_one_error_says_how_to_get_them(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RADAPT_DATA", raising=False)
    result = run("reproduce", "all", "--profile", "photos", "--out", "here")
    assert result.exit_code != 0
    assert result.stderr.count("error:") == 1
    assert "name the one around it in --data-root or RADAPT_DATA" in " ".join(result.stderr.split())
    assert not Path("here").exists()


def test_settings_that_a_method_lacks_are_refused(run: Run, tmp_path: Path) -> None:
    result = run("reproduce", write(tmp_path, defences={"A": {**FREE, "alfa": 1}}), "--out", "here", *SMALL)
    assert result.exit_code == 2
    assert "alfa" in result.stderr
    how = {
        "method": "fare",
        "data": "objects",
        "n": 4,
        "batch_size": 4,
        "lr": "3e-4",
    }  # a text to YAML, and a number here
    result = run("reproduce", write(tmp_path, trained={"T": {**how, "stepz": 1}}), "--out", "here", *SMALL)
    assert result.exit_code == 2
    assert "unknown setting 'stepz'; did you mean 'steps'" in result.stderr
    result = run("reproduce", write(tmp_path, trained={"T": {**how, "steps": "many"}}), "--out", "here", *SMALL)
    assert result.exit_code == 2
    assert "steps must be a whole number or none, got 'many'" in result.stderr
    sweep = {"over": "alpha", "values": ["much"], "label": "alpha"}
    result = run("reproduce", write(tmp_path, defences={"A": FREE}, sweep=sweep), "--out", "here", *SMALL)
    assert result.exit_code == 2
    assert "over alpha must be numbers, got 'much'" in result.stderr
    analyses = [{"analysis": "kka"}]
    result = run("reproduce", write(tmp_path, analyses=analyses), "--out", "there", *SMALL)
    assert result.exit_code == 2
    assert "unknown analysis 'kka'; did you mean 'cka'?" in result.stderr
    assert not Path("there/results.sqlite").exists()  # said before anything is computed
