"""The search for an adapter: many trials, the best of them longer, an interrupted one continued, nothing on test."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from radapt.adapters import Adapter, AdapterMethod, adapt
from radapt.errors import CheckError, InputError, SettingsError
from radapt.experiments import SearchSpec, Trial, artifacts, pareto_front, search
from radapt.experiments.search import _kept
from radapt.experiments.trials import drawn_of
from radapt.results import Results
from radapt.schema import parse

module = importlib.import_module("radapt.experiments.search")
SPEC: dict[str, Any] = {
    "data": "objects",
    "n": 8,
    "settings": {"batch_size": 4, "attack_steps": 1},
    "space": {"layers": ["embedding", "block:0"], "cutoff": [None, 0.35]},
    "rungs": [{"steps": 1, "n": 4, "keep": 2}, {"steps": 2, "n": 6}],
    "validation": ["shapes", "colours"],
    "attack": "pgd",
    "options": {"steps": 1},
}
BLANK = Trial(
    name="x",
    rung=0,
    settings={},
    clean=0,
    robust=0,
    score=0,
    seconds=0,
    images=0,
    changed=0,
    folder=Path("x"),
    clean_interval=(0, 0),
    robust_interval=(0, 0),
)


def spec(**changes: Any) -> SearchSpec:
    made: SearchSpec = parse(SearchSpec, {**SPEC, **changes}, where="test")
    return made


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12), st.integers(1, 12))
def test_the_front_is_what_nothing_beats_and_goes_on_first(points: list[tuple[int, int]], keep: int) -> None:
    trials = [
        replace(BLANK, name=str(at), clean=clean, robust=robust, score=clean + robust)
        for at, (clean, robust) in enumerate(points)
    ]
    best = pareto_front(trials)
    beaten = [
        each
        for each in trials
        if any(o.clean >= each.clean and o.robust >= each.robust and o.score > each.score for o in trials)
    ]
    assert {each.name for each in best} == {each.name for each in trials} - {each.name for each in beaten}
    kept = _kept(trials, keep)
    assert len(kept) == min(keep, len(trials))
    names = {each.name for each in best}
    assert kept <= names or names <= kept


@pytest.mark.slow
def test_every_trial_is_tried_and_the_best_go_on(tmp_path: Path) -> None:
    told = list[str]()
    trials = search(spec(), out=tmp_path, progress=told.append, quiet=True)
    first, second = ([trial for trial in trials if trial.rung == rung] for rung in (0, 1))
    assert len(first) == 4
    assert {trial.name for trial in second} == _kept(first, 2)
    assert len({json.dumps(trial.settings) for trial in first}) == 4
    for trial in trials:
        adapter = Adapter.from_pretrained(trial.folder)
        assert adapter.settings.cutoff == trial.settings["cutoff"]
        assert adapter.settings.origin["layers"] == trial.settings["layers"]
        assert adapter.settings.origin["steps"] == trial.rung + 1
        assert trial.images == 4 * (trial.rung + 1)
        assert 0 < trial.changed < 15
    assert len([line for line in told if line.startswith("round")]) == 6
    for rung, n in ((1, 4), (2, 6)):
        with Results(tmp_path / f"rung-{rung}.sqlite", read_only=True) as results:
            assert {(r.setting.split, r.n) for r in results.all()} == {("validation", n)}
            shown = {r.setting.method for r in results.all()}
        assert shown == {trial.name for trial in trials if trial.rung == rung - 1}
    rows = json.loads((tmp_path / "trials.json").read_text())
    assert [row["name"] for row in rows] == [trial.name for trial in trials]
    # Again: nothing is trained or measured, and the seconds are those of the first time.
    again = search(spec(), out=tmp_path, quiet=True)
    assert again == trials


@pytest.mark.slow
def test_a_loss_that_needs_labels_gets_those_of_the_images(tmp_path: Path) -> None:
    """As ``radapt adapt`` trains with it, to the bit."""
    space = {"layers": ["embedding"], "loss": ["embedding", "text"]}
    trials = search(spec(space=space, rungs=[{"steps": 2, "n": 4}]), out=tmp_path, quiet=True)
    made = {trial.settings["loss"]: Adapter.from_pretrained(trial.folder) for trial in trials}
    for loss, adapter in made.items():
        settings = {"layers": "embedding", "batch_size": 4, "attack_steps": 1, "steps": 2, "loss": loss}
        assert adapter.fingerprint == adapt("shallow", data="objects", n=8, quiet=True, **settings).fingerprint
    assert made["text"].fingerprint != made["embedding"].fingerprint


class Trainings:
    """A method that takes ten seconds a step on a clock of its own, and fails where the learning rate is too large."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.made, self.diverges, self.dies = 0.0, list[float](), True, False
        self.adapter = Adapter.from_pretrained("micro/shallow")
        method = SimpleNamespace(get=lambda name: AdapterMethod(self.make, needs_images=True))
        monkeypatch.setattr(module, "METHODS", method)
        monkeypatch.setattr(module, "_measured", self.measured)
        monkeypatch.setattr(artifacts, "code_digest", lambda make: "")  # what is counted here is no change of the code
        monkeypatch.setattr(artifacts, "time", SimpleNamespace(monotonic=lambda: self.now))

    def make(
        self, model: Any, pixels: Any, *, lr: float, steps: int, seed: int, checkpoint: Path, quiet: bool
    ) -> Adapter:
        self.made.append(lr)
        self.now += 10 * steps
        if self.dies:
            checkpoint.write_text("half")
            raise KeyboardInterrupt
        if lr == 1000 and self.diverges:
            raise CheckError("the loss is nan")
        return self.adapter

    def measured(self, plan: SearchSpec, model: Any, adapter: Adapter, name: str, *given: Any) -> tuple[Any, Any]:
        if name == name_of(2000) and self.diverges:
            raise InputError("logits that are no numbers")
        return (50.0, 40.0, 60.0), (50.0, 40.0, 60.0)


def name_of(lr: float) -> str:
    (name,) = drawn_of(spec(space={"lr": [lr]}))
    return name


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    return Trainings(monkeypatch)


LR: dict[str, Any] = {"space": {"lr": [0.5, 1000, 0.25, 2000]}, "settings": {}}


def seconds(trials: list[Trial]) -> list[float | None]:
    return [trial.seconds for trial in trials]


def test_a_trial_that_fails_costs_the_others_nothing_and_is_tried_again(trainings: Trainings, tmp_path: Path) -> None:
    chosen, told = spec(**LR, rungs=[{"steps": 1, "n": 2, "keep": 4}, {"steps": 2, "n": 2}]), list[str]()
    trials = search(chosen, out=tmp_path, progress=told.append, quiet=True)
    assert [(trial.rung, trial.settings["lr"]) for trial in trials] == [(0, 0.5), (0, 0.25), (1, 0.5), (1, 0.25)]
    rows = json.loads((tmp_path / "trials.json").read_text())
    failed = {row["name"]: row["failed"] for row in rows if "failed" in row}
    assert failed == {name_of(1000): "the loss is nan", name_of(2000): "logits that are no numbers"}
    assert [row["name"] for row in rows if "failed" not in row] == [trial.name for trial in trials]
    drawn = (tmp_path / "trials.svg").read_text()
    assert "round 1 (2)" in drawn
    assert "round 2 (2)" in drawn
    assert (tmp_path / "trials.png").read_bytes().startswith(b"\x89PNG")
    assert told[-1].startswith("2 of 6 trials failed and are left out: ")
    assert all(name in told[-1] and reason in told[-1] for name, reason in failed.items())
    with pytest.warns(UserWarning, match="2 of 6 trials failed"):
        assert search(chosen, out=tmp_path, quiet=True) == trials
    trainings.made, trainings.diverges = [], False
    again = search(chosen, out=tmp_path, quiet=True)
    assert trainings.made == [1000, 1000, 2000]  # what is there is not trained again
    assert len(again) == 8
    assert "failed" not in (tmp_path / "trials.json").read_text()


def test_a_search_is_given_as_plain_values_too(trainings: Trainings, tmp_path: Path) -> None:
    values = {**SPEC, "space": {"lr": [0.5, 0.25]}, "settings": {}}
    assert search(values, out=tmp_path, quiet=True) == search(spec(**values), out=tmp_path, quiet=True)
    for wrong, message in (({"method": "shallow"}, "the search: .*data"), ({**values, "trails": 3}, "trails")):
        with pytest.raises(SettingsError, match=message):
            search(wrong, out=tmp_path, quiet=True)


def test_where_every_trial_fails_there_is_one_error(trainings: Trainings, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"every trial of round 1 failed.*trial-.*the loss is nan.*'lr': 1000"):
        search(spec(space={"lr": [1000]}, settings={}), out=tmp_path, quiet=True)
    (row,) = json.loads((tmp_path / "trials.json").read_text())
    assert row["failed"] == "the loss is nan"


def test_seconds_are_those_of_the_training_that_made_the_adapter(trainings: Trainings, tmp_path: Path) -> None:
    trainings.diverges = False

    def run(steps: int, progress: Callable[[str], None] = lambda text: None) -> list[Trial]:
        return search(spec(**LR, rungs=[{"steps": steps, "n": 2}]), out=tmp_path, progress=progress, quiet=True)

    def stop(text: str) -> None:
        raise KeyboardInterrupt

    assert seconds(run(12)) == [120.0] * 4
    assert seconds(run(1)) == [10.0] * 4
    with pytest.raises(KeyboardInterrupt):
        run(1, stop)
    assert seconds(run(1)) == [10.0] * 4
    trainings.dies = True
    with pytest.raises(KeyboardInterrupt):
        run(3)
    trainings.dies = False
    assert seconds(run(3)) == [None, 30.0, 30.0, 30.0]  # of the first there was only the rest
    rows = json.loads((tmp_path / "trials.json").read_text())
    assert [row["seconds"] for row in rows] == [None, 30.0, 30.0, 30.0]


@pytest.mark.slow
def test_a_training_that_diverges_is_named(tmp_path: Path) -> None:
    chosen = spec(space={"lr": ["3e-4", 1000, "1e-3"]}, rungs=[{"steps": 6, "n": 2}])
    with pytest.warns(UserWarning, match=r"1 of 3 trials failed.*'lr': 1000"):
        trials = search(chosen, out=tmp_path, quiet=True)
    assert [trial.settings["lr"] for trial in trials] == [3e-4, 1e-3]


def test_several_spaces_are_drawn_from_together() -> None:
    spaces = [{"layers": ["embedding", "block:0"], "lr": ["3e-4"]}, {"cutoff": [None], "ema": [0, 0.9, 0.99]}]
    drawn = drawn_of(spec(space=spaces))
    kinds = [tuple(settings) for settings in drawn.values()]
    assert kinds == [("layers", "lr")] * 2 + [("cutoff", "ema")] * 3
    assert [settings.get("lr") for settings in drawn.values()][:2] == [3e-4, 3e-4]
    assert set(drawn_of(spec(space=spaces, trials=4))) < set(drawn)


@pytest.mark.slow
def test_a_search_may_begin_with_grafts_and_draws_some_of_many(tmp_path: Path) -> None:
    graft = {"method": "graft", "guide": "micro/fare", "weights": "embedding"}
    chosen = spec(
        space={"start": [None, graft], "lr": ["3e-4", 1e-3, 1e-2], "data": [["objects", "shapes"]], "n": [4]},
        settings={**SPEC["settings"], "layers": "embedding"},
        trials=2,
        rungs=[{"steps": 1, "n": 2}],
    )
    trials = search(chosen, out=tmp_path, quiet=True)
    assert len(trials) == 2
    assert [trial.settings for trial in search(chosen, out=tmp_path, quiet=True)] == [t.settings for t in trials]
    begun = [t for t in search(replace(chosen, trials=6), out=tmp_path, quiet=True) if t.settings["start"] is not None]
    assert len(begun) == 3
    assert {Adapter.from_pretrained(trial.folder).settings.origin["images"] for trial in begun} == {8}
    assert all("start" in Adapter.from_pretrained(trial.folder).settings.origin for trial in begun)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {}}, "space: 0: dictionary should have at least 1 item"),
        ({"space": {"start": ["graft"]}}, "space: start: 0: input should be an object, got 'graft'"),
        ({"space": {"n": [0]}}, "space: n: 0: input should be greater"),
        ({"settings": {"data": "objects"}}, "data"),
        ({"space": []}, "space: value should have at least 1 item"),
        ({"space": [{"layers": ["embedding"]}, {"steps": [1]}]}, "steps is set by the search"),
        ({"space": {"layers": []}}, "layers has no values"),
        ({"space": {"steps": [1]}}, "steps is set by the search"),
        ({"rungs": []}, "rungs"),
        ({"weight": 2}, "weight must lie in"),
        ({"rounds": 3}, "rounds"),
        ({"eps": "many"}, "'many' is neither a number nor a fraction"),
        ({"attack": "pdg"}, "unknown attack 'pdg'; did you mean 'pgd'"),
        ({"options": {"stepz": 3}}, "stepz"),
        ({"space": {"layrs": ["embedding"]}}, "unknown setting 'layrs'; did you mean 'layers'"),
        ({"method": "graft"}, "graft is not trained"),
        ({"method": "shalow"}, "did you mean 'shallow'"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_is_trained(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        search(spec(**changes), out=tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command_prints_the_front(run: Callable[..., Result], tmp_path: Path) -> None:
    small = {**SPEC, "space": {"layers": ["embedding"]}, "rungs": [{"steps": 1, "n": 2}]}
    Path("small.yaml").write_text(yaml.safe_dump(small))
    result = run("search", "small.yaml", "--out", "found", "--quiet")
    assert result.exit_code == 0, result.output
    assert "weights changed" in result.stdout
    assert Path("found/trials.json").is_file()
