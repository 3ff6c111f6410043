"""Experiments: their files, what is wrong in them, and a run from adapters to report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result

from radapt.adapt import model_guided
from radapt.cli._experiment import Experiment, experiments, read
from radapt.cli._ingredients import Defence, Training, check_settings
from radapt.cli._lines import lines_of, maker_of
from radapt.errors import SettingsError
from radapt.finetune import finetune
from radapt.results import Results

Run = Callable[..., Result]

PROFILE: dict[str, Any] = {
    "models": {"CLIP": "micro/clip"},
    "twins": {"FARE": "micro/fare"},
    "defences": {
        "R-Adapt": {"method": "training-free", "alpha": 0.4},
        "R-Adapt_FARE": {"method": "model-guided", "guide": "micro/fare", "alpha": 0.4},
        "R-Adapt+": {"method": "data-driven", "data": "objects", "n": 8, "steps": 1, "attack_steps": 1, "batch": 4},
    },
    "data": ["shapes"],
    "n": 4,
    "attacks": [{"attack": "pgd", "eps": "4/255", "options": {"steps": 2}}],
}


TEXTS = {"title": "T", "description": "D", "published": "P"}


def file(folder: Path, **changes: object) -> Path:
    content = {**TEXTS, "profiles": {"micro": {**PROFILE, **changes}}}
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.mark.parametrize("name", experiments())
def test_every_experiment_can_be_read_and_has_both_profiles(name: str) -> None:
    found = read(name)
    assert set(found.profiles) == {"micro", "paper"}
    assert all("self" in attack.source for profile in found.profiles.values() for attack in profile.attacks)
    for profile in found.profiles.values():
        for title, how in profile.defences.items():
            _, settings = maker_of(title, how)
            assert "d0" not in settings
        for title, training in profile.trained.items():
            check_settings(title, finetune, training.settings)


def test_d0_becomes_a_cutoff_and_zero_no_filter() -> None:
    for d0, cutoff in ((0, None), (40, 40 / 224), (22.4, 0.1)):
        how = Defence.of("A", {"method": "model-guided", "guide": "micro/fare", "alpha": 0.4, "d0": d0})
        maker, settings = maker_of("A", how)
        assert maker is model_guided
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
    with pytest.raises(SettingsError, match=problem):
        maker_of("A", Defence(method="training-free", settings=changes))
    twins = {"T": Training(method="fare", data="objects")}
    profile = replace(read(str(file(tmp_path))).profiles["micro"], trained=twins)
    touched: list[str] = []

    def touch(name: str) -> Any:
        touched.append(name)

    late = replace(profile, defences={**profile.defences, "A": Defence(method="training-free", settings=changes)})
    with pytest.raises(SettingsError, match=problem):
        next(lines_of(late, touch, tmp_path / "made", quiet=True))
    wrong = {"T": Training(method="fare", data="objects", settings={"step": 3})}
    with pytest.raises(SettingsError, match=r"T: unknown setting 'step'.*steps"):
        next(lines_of(replace(profile, trained=wrong), touch, tmp_path / "made", quiet=True))
    assert not touched
    assert not (tmp_path / "made").exists()


def test_an_experiment_runs_from_adapters_to_the_report_and_continues(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = file(tmp_path)
    words = ("reproduce", path.name, "--out", "here", "--slots", "4", "--no-sanity", "--quiet", "--json", "f.json")
    first = run(*words)
    assert first.exit_code == 0, first.output
    assert "Published: P" in first.output
    assert Path("here/report/report.html").exists()
    page = Path("here/index.html").read_text()
    assert "radapt reproduce own.yaml --profile micro --slots 4 --no-sanity" in page
    assert "white-box figures are upper bounds" in page
    with Results("here/results.sqlite", read_only=True) as results:
        figures = results.figures()
    assert [f.setting.method for f in figures[::3]] == ["CLIP", "FARE", "R-Adapt", "R-Adapt_FARE", "R-Adapt+"]
    assert [f.kind for f in figures[:3]] == ["clean", "transfer", "white-box"]
    assert figures[4].setting.options["source_model"] == "micro/clip"
    again = run(*words)
    assert again.exit_code == 0
    assert "made anew" not in again.output


def test_experiments_are_listed_those_of_the_paper_first(run: Run) -> None:
    output = run("reproduce").output
    assert all(name in output for name in experiments())
    assert output.index("fig1b") < output.index("tab6") < output.index("anchors") < output.index("images")
    assert "figure 1b" in output


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model": {}}, "unknown key 'model'"),
        ({"models": {}}, "models is empty"),
        ({"n": 0}, "n must be a whole number"),
        ({"attacks": []}, "attacks must be a list"),
        ({"attacks": [{"eps": "4/255"}]}, "attack 1: missing attack"),
        ({"attacks": [{"attack": "pgd", "eps": "4/255", "source": ["undefended"]}]}, "source must name self"),
        ({"attacks": [{"attack": "pgd", "eps": "much"}]}, "neither a number nor a fraction"),
        ({"defences": {"A": {"method": "magic"}}}, "unknown method 'magic'"),
        ({"defences": {"A": {"method": "model-guided"}}}, "guide belongs to model-guided, and model-guided needs it"),
        ({"defences": {"A": {"method": "data-driven"}}}, "A: data-driven needs data"),
        ({"defences": {"A": {"method": "training-free", "image": "mean"}}}, "A: the image mean needs data"),
        ({"defences": {"A": {"method": "training-free", "alpha": "much"}}}, "neither a number nor a fraction"),
        ({"data": {}}, "data must be a name or a list of names"),
        ({"sweep": {"over": "alpha", "values": [], "label": "alpha"}}, "sweep: values must be a list of at least one"),
        ({"sweep": {"over": "attack", "values": [1, 2], "label": "x"}}, "one value for each of the 1 attacks"),
        ({"sweep": {"over": "alpha", "values": [1]}}, "sweep: missing label"),
        (
            {
                "sweep": {"over": "attack", "values": [1], "label": "x"},
                "attacks": [{"attack": "pgd", "eps": ["1/255", "2/255"]}],
            },
            "differ in options alone, and have one eps",
        ),
        ({"replacement": {"twins": {}}}, "twins is empty"),
        ({"trained": {"T": {"method": "fare"}}}, "T: missing data"),
        ({"trained": {"T": {"method": "fare", "data": "objects", "n": 0}}}, "T: n must be a whole number"),
        ({"analyses": [{"analysis": "cka", "number": 3}]}, "unknown key 'number'. Allowed: analysis, data"),
        ({"analyses": {"analysis": "cka"}}, "analyses as a list"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(tmp_path: Path, changes: dict[str, object], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        read(str(file(tmp_path, **changes)))


def test_a_file_needs_a_table_or_a_look(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="give data, n and attacks for a table, or analyses"):
        Experiment.of("x.yaml", {**TEXTS, "profiles": {"micro": {"models": {"CLIP": "micro/clip"}}}})


def test_unknown_names_are_explained(run: Run, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"unknown experiment 'tab5'.*tab4"):
        read("tab5")
    with pytest.raises(SettingsError, match="missing title"):
        Experiment.of("x.yaml", {"description": "D", "published": "P", "profiles": {}})
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(SettingsError, match="not valid YAML"):
        read(str(tmp_path / "bad.yaml"))
    result = run("reproduce", "tab4", "--profile", "mikro")
    assert result.exit_code == 2
    assert "micro" in result.output
