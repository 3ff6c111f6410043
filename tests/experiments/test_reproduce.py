"""Experiments: their files, what is wrong in them, and a run from adapters to report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import Result

from radapt.adapters import REGISTRY, AdapterMethod, model_guided
from radapt.errors import SettingsError
from radapt.evaluation import Threat
from radapt.experiments import Experiment, experiments, read, run
from radapt.experiments.candidates import Builder
from radapt.experiments.parts import DefenceSpec, Sweep, TrainingSpec
from radapt.models import VLM
from radapt.results import Results
from radapt.schema import parse

Run = Callable[..., Result]

PROFILE: dict[str, Any] = {
    "models": {"CLIP": "micro/clip"},
    "twins": {"FARE": "micro/fare"},
    "defences": {
        "R-Adapt": {"method": "training-free", "alpha": 0.4},
        "R-Adapt_FARE": {"method": "model-guided", "guide": "micro/fare", "alpha": 0.4},
        "R-Adapt+": {
            "method": "data-driven",
            "data": "objects",
            "n": 8,
            "steps": 1,
            "attack_steps": 1,
            "batch_size": 4,
        },
    },
    "data": ["shapes"],
    "n": 4,
    "attacks": [{"attack": "pgd", "eps": "4/255", "options": {"steps": 2}}],
}


PGD = PROFILE["attacks"][0]
TRAINED = {"method": "fare", "data": "objects"}
TEXTS = {"title": "T", "description": "D", "published": "P"}


def file(folder: Path, **changes: object) -> Path:
    content = {**TEXTS, "profiles": {"micro": {**PROFILE, **changes}}}
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


_NO_PHOTOS = ("lvlm", "tab4", "attackers")
"""Photographs have no captions and no questions; and there are no adapters yet whose attackers would be compared."""


def method(spec: DefenceSpec) -> AdapterMethod:
    chosen: AdapterMethod = REGISTRY.get(spec.method)
    return chosen


@pytest.mark.parametrize("name", experiments())
def test_every_experiment_can_be_read_and_has_its_profiles(name: str) -> None:
    found = read(name)
    assert set(found.profiles) == {"micro", "paper"} | (set() if name in _NO_PHOTOS else {"photos"})
    assert all("self" in attack.source for profile in found.profiles.values() for attack in profile.attacks)


@pytest.mark.parametrize("name", experiments())
def test_every_setting_of_every_experiment_is_one(name: str, tmp_path: Path) -> None:
    def unloaded(model: str) -> VLM:
        raise AssertionError(f"{model} is loaded before the settings are checked")

    for profile in read(name).profiles.values():
        Builder(profile, unloaded, tmp_path, report=print, quiet=True)
        for part in profile.attacks:
            for eps in part.eps:
                Threat(attack=part.attack, eps=eps, norm=part.norm, source="self", options=part.options)


def test_d0_becomes_a_cutoff_and_zero_no_filter(tmp_path: Path) -> None:
    for d0, cutoff in ((0, None), (40, 40 / 224), (22.4, 0.1)):
        how = {"A": {"method": "model-guided", "guide": "micro/fare", "alpha": 0.4, "d0": d0}}
        spec = read(file(tmp_path, defences=how)).profiles["micro"].defences["A"]
        assert method(spec).make is model_guided
        settings = method(spec).settings("A", spec.settings)
        assert settings == {"alpha": 0.4, "cutoff": cutoff if cutoff is None else pytest.approx(cutoff)}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"d0": "wide"}, "A: d0 must be a number, 0 for no filter, got 'wide'"),
        ({"d0": None}, "A: d0 must be a number"),
        ({"alpha": None}, "A: alpha must be a number, got None"),
        ({"aplha": 1}, "A: unknown setting 'aplha'.*alpha"),
        ({"steps": 4}, "A: unknown setting 'steps'"),
    ],
)
def test_wrong_settings_are_said_before_anything_is_made(changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    late = DefenceSpec(method="training-free", settings=changes)
    with pytest.raises(SettingsError, match=problem):
        method(late).settings("A", changes)
    twins = {"T": TrainingSpec(method="fare", data=("objects",))}
    profile = replace(read(file(tmp_path)).profiles["micro"], trained=twins)
    touched: list[str] = []

    def touch(name: str) -> Any:
        touched.append(name)

    def build(**changes: Any) -> None:
        Builder(replace(profile, **changes), touch, tmp_path / "made", report=lambda text: None, quiet=True)

    build()
    with pytest.raises(SettingsError, match=problem):
        build(defences={**profile.defences, "A": late})
    wrong = {"T": TrainingSpec(method="fare", data=("objects",), settings={"step": 3})}
    with pytest.raises(SettingsError, match=r"T: unknown setting 'step'.*steps"):
        build(trained=wrong)
    with pytest.raises(SettingsError, match="unknown dataset 'objets'; did you mean 'objects'"):
        build(trained={"T": TrainingSpec(method="fare", data=("objets",))})
    for over, value in (("data", 3), ("data", ["objects", "3"])):
        with pytest.raises(SettingsError, match="unknown dataset '3'"):
            build(sweep=Sweep(over=over, values=("objects", value), label="x"))
    assert not touched
    assert not (tmp_path / "made").exists()


@pytest.mark.slow
def test_an_experiment_runs_from_adapters_to_the_report_and_continues(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = file(tmp_path)
    words = ("reproduce", path.name, "--out", "here", "--batch-size", "4", "--no-sanity", "--quiet", "--json", "f.json")
    first = run(*words)
    assert first.exit_code == 0, first.output
    assert "Published: P" in first.output
    assert Path("here/report/report.html").exists()
    page = Path("here/index.html").read_text()
    assert "radapt reproduce own.yaml --profile micro --batch-size 4 --no-sanity" in page
    assert "white-box results are upper bounds" in page
    with Results("here/results.sqlite", read_only=True) as results:
        figures = results.all()
    kinds: dict[str, list[str]] = {}
    for figure in figures:
        kinds.setdefault(figure.setting.method, []).append(figure.kind)
    attacked = ["clean", "transfer", "white-box"]
    assert kinds.pop("CLIP") == ["clean", "white-box"]  # it is the source
    assert kinds == dict.fromkeys(("FARE", "R-Adapt", "R-Adapt_FARE", "R-Adapt+"), attacked)
    sources = {f.setting.options["source_model"] for f in figures if f.kind == "transfer"}
    assert sources == {"micro/clip"}
    again = run(*words)
    assert again.exit_code == 0
    assert "trained again" not in again.output


@pytest.mark.slow
def test_workers_make_the_same_table_as_one_process(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    changes = {"twins": {"FARE": "micro/fare", "half": {"twin": "micro/fare", "weights": 0.5}}}
    words = ("reproduce", file(tmp_path, **changes).name, "--no-sanity", "--quiet")
    threads = torch.get_num_threads()
    spread = ("--executor", "ray", "--workers", "1", "--resources", f"CPU={threads}")
    tables = {}
    for folder, how in (("here", ()), ("there", spread)):
        done = run(*words, "--out", folder, *how)
        assert done.exit_code == 0, done.output
        with Results(f"{folder}/results.sqlite", read_only=True) as results:
            tables[folder] = {each.setting.key: results.samples(each.setting) for each in results.all()}
    assert tables["here"] == tables["there"]
    assert len(tables["here"]) == 17  # six clean, six white-box, five by transfer from the other one
    wrong = run("reproduce", "own.yaml", "--out", "wrong", "--executor", "ray", "--device", "cuda:0")
    assert "Ray gives each worker devices of its own" in wrong.output
    assert not Path("wrong").exists()


def test_experiments_are_listed_those_of_the_paper_first(run: Run) -> None:
    output = run("reproduce").output
    assert all(name in output for name in experiments())
    assert output.index("fig1b") < output.index("tab6") < output.index("anchors") < output.index("images")
    assert "figure 1b" in output


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model": {}}, "unknown key 'model'"),
        ({"models": {}}, "models: dictionary should have at least 1 item"),
        ({"n": 0}, "n: input should be greater than or equal to 1, got 0"),
        ({"attacks": []}, "give data, n and attacks for a table, or analyses"),
        ({"attacks": [{"eps": "4/255"}]}, "attacks: 0: missing attack"),
        ({"attacks": [{"attack": "pgd", "eps": "4/255", "source": ["undefended"]}]}, "source must name self"),
        ({"attacks": [{"attack": "pgd", "eps": "much"}]}, "neither a number nor a fraction"),
        ({"defences": {"A": {"method": "magic"}}}, "unknown adapter method 'magic'"),
        ({"defences": {"A": {"method": "model-guided"}}}, "model-guided needs a guide"),
        ({"defences": {"A": {"method": "data-driven"}}}, "A: data-driven needs data"),
        ({"defences": {"A": {"method": "training-free", "image": "mean"}}}, "A: the image mean needs data"),
        ({"defences": {"A": {"method": "training-free", "alpha": "much"}}}, "neither a number nor a fraction"),
        ({"defences": {"A": {"alpha": 1}}}, "A: a defence has a method, or an adapter that is there"),
        ({"defences": {"A": {"method": "training-free", "adapter": "a"}}}, "a method, or an adapter that is there"),
        ({"defences": {"A": {"adapter": "a", "alpha": 1}}}, "A: a is there, and takes no alpha"),
        ({"defences": {"A": {"adapter": "a", "data": "objects"}}}, "A: a is there, and takes no data"),
        ({"defences": {"A": {"adapter": "a", "to": "FAIR"}}}, "A: unknown model 'FAIR'; did you mean 'FARE'"),
        ({"twins": {"T": {"twin": "micro/fare"}}}, "T: interpolation: missing weights"),
        ({"data": {}}, "data: 0: input should be a valid string, got {}"),
        (
            {"sweep": {"over": "alpha", "values": [], "label": "alpha"}},
            "sweep: values: .*at least 1 item",
        ),
        ({"sweep": {"over": "attack", "values": [1, 2], "label": "x"}}, "one value for each of the 1 attacks"),
        ({"sweep": {"over": "alpha", "values": [1]}}, "sweep: missing label"),
        ({"sweep": {"over": "d0", "values": [0.4, "2/5"], "label": "x"}}, r"sweep: .*values: 0\.4 stands twice"),
        ({"sweep": {"over": "n", "values": [1, 2, 1.0], "label": "x"}}, r"values: 1\.0 stands twice"),
        ({"sweep": {"over": "mix", "values": ["add", 1, "add"], "label": "x"}}, "values: add stands twice"),
        (
            {"sweep": {"over": "attack", "values": [2, 2], "label": "x"}, "attacks": [PGD, {**PGD, "options": {}}]},
            r"values: 2\.0 stands twice",
        ),
        ({"sweep": {"over": "alpha", "values": [1, "much"], "label": "x"}}, "alpha must be numbers, got 'much'"),
        ({"sweep": {"over": "data", "values": [None], "label": "x"}}, "sweep over data: 0: input should be .*got None"),
        ({"sweep": {"over": "data", "values": [{"objects": 1}], "label": "x"}}, "sweep over data: 0: input should"),
        ({"sweep": {"over": "n", "values": [8, "many"], "label": "x"}}, "sweep over n: input should be .*got 'many'"),
        ({"sweep": {"over": "guide", "values": [3], "label": "x"}}, "sweep over guide: input should be a valid string"),
        ({"trained": {"FARE": TRAINED}}, "'FARE' is the label of two of models, twins, trained and defences"),
        ({"models": {"FARE": "micro/clip"}}, "'FARE' is the label of two"),
        ({"trained": {"CLIP": TRAINED}}, "'CLIP' is the label of two"),
        ({"trained": {"R-Adapt": TRAINED}}, "'R-Adapt' is the label of two"),
        ({"twins": {"R-Adapt+": "micro/fare"}}, r"'R-Adapt\+' is the label of two"),
        ({"models": {"self": "micro/clip"}}, "'self' is a source of attacks"),
        ({"defences": {"undefended": {"adapter": "a"}}}, "'undefended' is a source of attacks"),
        (
            {
                "sweep": {"over": "attack", "values": [1], "label": "x"},
                "attacks": [{"attack": "pgd", "eps": ["1/255", "2/255"]}],
            },
            "differ in options alone, and have one eps",
        ),
        ({"replacement": {"twins": {}}}, "twins: dictionary should have at least 1 item"),
        ({"trained": {"T": {"method": "fare"}}}, "T: missing data"),
        (
            {"trained": {"T": {"method": "fare", "data": "objects", "n": 0}}},
            "T: n: input should be greater than or equal to 1",
        ),
        ({"analyses": [{"analysis": "cka", "number": 3}]}, "unknown key 'number'. Allowed: analysis, data"),
        ({"analyses": {"analysis": "cka"}}, "analyses: input should be a valid array"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(tmp_path: Path, changes: dict[str, object], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        read(file(tmp_path, **changes))


def parse_file(content: object) -> Experiment:
    found: Experiment = parse(Experiment, content, where="x.yaml")
    return found


def test_a_file_needs_a_table_or_a_look(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="give data, n and attacks for a table, or analyses"):
        parse_file({**TEXTS, "profiles": {"micro": {"models": {"CLIP": "micro/clip"}}}})


def test_unknown_names_are_explained(run: Run, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"unknown experiment 'tab5'.*tab4"):
        read("tab5")
    with pytest.raises(SettingsError, match="missing title"):
        parse_file({"description": "D", "published": "P", "profiles": {}})
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(SettingsError, match="not valid YAML"):
        read(str(tmp_path / "bad.yaml"))
    result = run("reproduce", "tab4", "--profile", "mikro")
    assert result.exit_code == 2
    assert "micro" in result.output


def test_experiments_that_are_put_together_in_code_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    analyses = [{"analysis": "kernels", "data": "shapes"}]
    looked = {"models": PROFILE["models"], "twins": PROFILE["twins"], "analyses": analyses}
    first: Experiment = parse(Experiment, {**TEXTS, "profiles": {"micro": looked}}, where="own")
    other = replace(first, description="Another one, of the same title.")
    folders = [run(each, quiet=True).folder for each in (first, other, first)]
    assert folders[0] == folders[2] != folders[1]
    assert all(each.name.startswith("t-") and each.name.endswith("-micro") for each in folders)
    page = (folders[1] / "index.html").read_text(encoding="utf-8")
    assert "Another one" in page
    assert "radapt reproduce" not in page
