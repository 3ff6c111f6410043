"""The search for an adapter: many trials, the best of them longer, an interrupted one continued, nothing on test."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from radapt.adapters import Adapter
from radapt.errors import SettingsError
from radapt.experiments import SearchSpec, Trial, front, search
from radapt.experiments.search import _drawn, _kept
from radapt.results import Results
from radapt.schema import parse

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
    best = front(trials)
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


def test_several_spaces_are_drawn_from_together() -> None:
    spaces = [{"layers": ["embedding", "block:0"], "lr": ["3e-4"]}, {"cutoff": [None], "ema": [0, 0.9, 0.99]}]
    drawn = _drawn(spec(space=spaces))
    kinds = [tuple(settings) for settings in drawn.values()]
    assert kinds == [("layers", "lr")] * 2 + [("cutoff", "ema")] * 3
    assert [settings.get("lr") for settings in drawn.values()][:2] == [3e-4, 3e-4]
    assert set(_drawn(spec(space=spaces, trials=4))) < set(drawn)


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
