"""What an evaluation will cost: passes as the real run takes them, what is done already, and the command's table."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import own_labels, tiny_clip
from typer.testing import CliRunner

from radapt.attacks import ClassificationObjective
from radapt.attacks.apgd import APGD
from radapt.cli.main import app
from radapt.errors import SettingsError
from radapt.evaluation import Candidate, Cost, UnitCost, estimate_cost, evaluate
from radapt.evaluation._cost import _firm
from radapt.results import Results
from radapt.text import duration, gigabytes

ROOT = Path(__file__).parents[2]
PLAN: dict[str, Any] = {"undefended": "micro/clip", "sanity": False}


def passes(path: Path) -> dict[tuple[str, str], tuple[float, float]]:
    """Forward and backward passes per sample of each attack, as they were counted, by method and source."""
    found = {}
    with Results(path, read_only=True) as results:
        for each in results.all():
            samples = results.samples(each.setting)
            counts = [
                sum((getattr(s, name) or 0) for s in samples) / len(samples) for name in ("forwards", "backwards")
            ]
            found[each.setting.method, each.setting.source] = counts[0], counts[1]
    return found


def test_passes_are_those_of_the_run_where_the_probe_sees_all_samples(tmp_path: Path) -> None:
    model = tiny_clip(factor=6.0)
    candidate, path = Candidate(method="tiny", model=model), tmp_path / "r.sqlite"
    plan: dict[str, Any] = {"data": own_labels(model, 12), "attack": "pgd", "options": {"steps": 7}, "source": "self"}
    cost = estimate_cost(candidate, **plan, results=path)
    assert not path.exists()
    evaluate(candidate, **plan, results=path, sanity=False, quiet=True)
    clean, attacked = cost.units
    assert (clean.forwards, clean.backwards) == (1, 0)
    measured = passes(path)["tiny", "self"]
    assert (attacked.forwards - 1, attacked.backwards) == pytest.approx(measured)  # and one pass for the score
    assert attacked.seconds > 0
    fewer = estimate_cost(candidate, **{**plan, "data": own_labels(model, 4)}, results=path)
    assert [unit.samples for unit in fewer.units] == [0, 0]
    again = estimate_cost(candidate, **plan, results=path)
    assert [unit.samples for unit in again.units] == [0, 0]
    assert again.seconds == 0


def test_images_that_are_shared_are_paid_once_and_searches_that_nothing_ends_in_full(tmp_path: Path) -> None:
    plan = {
        **PLAN,
        "data": "shapes",
        "n": 4,
        "attack": "pgd",
        "options": {"steps": 9},
        "source": ["undefended", "self"],
    }
    lines = ["micro/clip", "micro/fare", "micro/tecoa"]
    cost = estimate_cost(lines, **plan, results=tmp_path / "r.sqlite")
    evaluate(lines, **plan, results=tmp_path / "r.sqlite", quiet=True)
    (source,) = {each for _, each in passes(tmp_path / "r.sqlite")} - {"", "self"}
    transfer = [unit for unit in cost.units if unit.unit.setting.source == source]
    assert [unit.backwards for unit in transfer] == [9, 0]  # made for the first, shown to the second
    with Results(tmp_path / "r.sqlite", read_only=True) as results:
        tried = [s.backwards for r in results.all() if r.kind == "transfer" for s in results.samples(r.setting)]
    assert {each for each in tried if each} == {9}


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_what_nothing_fools_is_counted_with_all_steps(classes: int) -> None:
    objective = ClassificationObjective(_firm(classes), torch.zeros(1, dtype=torch.int64), classes, stop=True)
    outcome = APGD(eps=64 / 255, steps=7)(objective, torch.full((1, 3, 8, 8), 0.5), seed=0)
    assert not outcome.fooled.any()
    assert outcome.loss_rose.all()  # with no gradient at all, no search is given up early
    assert outcome.backwards.tolist() == [7]


@pytest.mark.slow
def test_searches_that_are_given_up_are_counted_as_far_as_they_go(tmp_path: Path) -> None:
    short = {"version": "fast", "steps": 30, "n_target_classes": 3, "n_queries": 300}
    plan = {**PLAN, "data": "shapes", "n": 8, "attack": "autoattack", "options": short, "source": "self"}
    cost = estimate_cost("micro/fare", **plan, results=tmp_path / "r.sqlite")
    evaluate("micro/fare", **plan, results=tmp_path / "r.sqlite", quiet=True)
    forwards, backwards = passes(tmp_path / "r.sqlite")["micro/fare", "self"]
    assert cost.units[-1].forwards == pytest.approx(forwards, rel=0.3)
    assert cost.units[-1].backwards == pytest.approx(backwards, rel=0.3)


def test_more_workers_are_faster_as_far_as_there_are_chunks(tmp_path: Path) -> None:
    cost = estimate_cost("micro/clip", data="shapes", n=8, chunk_size=4, attack="pgd", results=tmp_path / "r.sqlite")
    (clean, attacked) = cost.units
    assert cost.seconds == pytest.approx(sum(unit.seconds + unit.check_seconds for unit in (clean, attacked)))
    made = Cost(units=(remade(attacked, 80.0), remade(attacked, 20.0)), probe_seconds=0)
    assert [made.seconds_with(count) for count in (1, 2, 4, 100)] == [100, 50, 40, 40]


def remade(unit: UnitCost, seconds: float) -> UnitCost:
    return UnitCost(unit=unit.unit, samples=8, forwards=1, backwards=1, seconds=seconds)


def test_the_command_tells_and_measures_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    words = [
        "evaluate",
        "micro/fare",
        "--data",
        "shapes",
        "--n",
        "4",
        "--attack",
        "pgd",
        "--results",
        path,
        "--dry-run",
    ]
    result = CliRunner().invoke(app, [str(word) for word in (*words, "--workers", "4", "--json", tmp_path / "c.json")])
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert "shapes · micro/fare · clean" in text
    assert "of 4 such workers" in text
    assert re.search(r"[0-9.]+ GB each", text)
    assert not path.exists()
    rows = json.loads((tmp_path / "c.json").read_text())
    assert [(row["method"], row["attack"], row["source"], row["n"], row["samples"]) for row in rows] == [
        ("micro/fare", "none", "", 4, 4),
        ("micro/fare", "pgd", "self", 4, 4),
    ]
    assert rows[1]["seconds"] > 0
    documented = re.search(r"^## Costs\n(.*?)^## ", (ROOT / "docs/json.md").read_text(), re.MULTILINE | re.DOTALL)
    assert documented is not None
    cells = re.findall(r"^\| (`.*?) \|", documented.group(1), re.MULTILINE)
    assert set(rows[0]) == {key for cell in cells for key in re.findall(r"`(\w+)`", cell)}
    refused = CliRunner().invoke(app, [str(word) for word in (*words, "--executor", "ray")])
    assert refused.exit_code == 2
    assert "--dry-run" in refused.output


@pytest.mark.usefixtures("unchecked")
def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nothing to evaluate"):
        estimate_cost("micro/clip", results=tmp_path / "r.sqlite")
    for settings, message in (({"batch_size": 0}, "batch_size"), ({"shard": "1/2"}, "shard has no part in a cost")):
        with pytest.raises(SettingsError, match=message):
            estimate_cost("micro/clip", data="shapes", results=tmp_path / "r.sqlite", **settings)
    with pytest.raises(SettingsError, match="unknown attack 'pgdd'"):
        estimate_cost("micro/clip", data="shapes", attack="pgdd", results=tmp_path / "r.sqlite")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.44, "9.4 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3599.6, "1 h"),
        (3660, "1 h 1 min"),
        (86399, "1 d"),
        (90000, "1 d 1 h"),
        (1e7, "115 d 18 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_sizes() -> None:
    assert gigabytes(1_234_000_000) == "1.2 GB"
    assert gigabytes(1_234_000_000, 2) == "1.23 GB"


def test_checks_that_are_left_cost_time(tmp_path: Path) -> None:
    model = tiny_clip()
    given: dict[str, Any] = {"data": own_labels(model, 4), "attack": "pgd", "options": {"steps": 2}, "source": "self"}
    given |= {"eps": 1e-6, "results": tmp_path / "r.sqlite"}
    evaluate({"CLIP": model}, **given, sanity=False, quiet=True)
    assert estimate_cost({"CLIP": model}, **given, sanity=False).seconds == 0
    cost = estimate_cost({"CLIP": model}, **given)
    assert [(unit.samples, unit.seconds) for unit in cost.units] == [(0, 0), (0, 0)]
    assert cost.units[1].check_seconds > 0
    evaluate({"CLIP": model}, **given, quiet=True)
    assert estimate_cost({"CLIP": model}, **given).seconds == 0
