"""What another results file holds is copied, not measured again."""

from __future__ import annotations

import copy
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import own_labels, tiny_clip
from torch import Tensor

from radapt.adapters import training_free
from radapt.errors import ResultsError, SettingsError
from radapt.evaluation import estimate_cost, evaluate
from radapt.evaluation._bench import Bench
from radapt.models import VLM
from radapt.results import WORST_CASE, Result, Results, Sample


@pytest.fixture
def clip() -> VLM:
    return tiny_clip()


def rounded(pixels: Tensor) -> Tensor:
    """A defence without a gradient, which the checks flag."""
    return (8 * pixels).round() / 8


def run(clip: VLM, path: Path, n: int, reuse: Any = (), defence: Any = None, **settings: Any) -> list[Result]:
    given = {"attack": "pgd", "options": {"steps": 2}, "batch_size": 4, "quiet": True, "sanity": False, **settings}
    defended = {"CLIP": clip, "R-Adapt": (clip, defence or training_free(clip, alpha=0.3))}
    return evaluate(defended, data=own_labels(clip, n), results=path, reuse=reuse, **given)


def rows(path: Path) -> dict[tuple[str, str, str], list[Sample]]:
    with Results(path, read_only=True) as results:
        found = [each.setting for each in results.all(checks=True)]
        return {(each.method, each.attack, each.source): results.samples(each) for each in found}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of samples that chunks were measured with."""
    counts, measure = list[int](), Bench.measure

    def watched(self: Any, *given: Any, **named: Any) -> Any:
        found = measure(self, *given, **named)
        counts.append(len(found.samples))
        return found

    monkeypatch.setattr(Bench, "measure", watched)
    return counts


def test_what_another_file_holds_is_copied(clip: VLM, tmp_path: Path, measured: list[int]) -> None:
    first = run(clip, tmp_path / "a.sqlite", 6)
    assert measured == [6] * len(first)
    again = run(clip, tmp_path / "b.sqlite", 6, str(tmp_path / "a.sqlite"))
    assert measured == [6] * len(first)
    assert rows(tmp_path / "a.sqlite") == rows(tmp_path / "b.sqlite")
    assert [(each.setting, each.percent, each.flags, each.seconds) for each in again] == [
        (each.setting, each.percent, each.flags, each.seconds) for each in first
    ]
    with Results(tmp_path / "a.sqlite") as one, Results(tmp_path / "b.sqlite") as other:
        assert other.notes.adapters() == one.notes.adapters()
        assert len(other.notes.runs()) == 1
        images = [[results.examples(each.setting) for each in first] for results in (one, other)]
    assert images[0] == images[1]
    assert any(images[0])


def test_a_result_of_more_samples_serves_for_fewer_and_not_the_other_way_round(
    clip: VLM, tmp_path: Path, measured: list[int]
) -> None:
    many = run(clip, tmp_path / "many.sqlite", 8)
    before = len(measured)
    few = run(clip, tmp_path / "few.sqlite", 3, [tmp_path / "many.sqlite"])
    assert len(measured) == before
    assert {each.n for each in few} == {3}
    every = rows(tmp_path / "many.sqlite")
    assert rows(tmp_path / "few.sqlite") == {name: samples[:3] for name, samples in every.items()}
    assert few[0].seconds == pytest.approx(3 / 8 * many[0].seconds)
    grown = run(clip, tmp_path / "grown.sqlite", 8, [tmp_path / "few.sqlite"])
    assert measured[before:] == [8] * len(many)
    assert [each.percent for each in grown] == [each.percent for each in many]


def test_flags_and_what_the_checks_found_come_along(clip: VLM, tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in ("a.sqlite", "b.sqlite", "c.sqlite"))
    weak: dict[str, Any] = {"defence": rounded, "source": "self", "eps": 16 / 255, "sanity": True}
    first = run(clip, a, 6, **weak)
    assert any(each.flags for each in first)
    assert all(each.checked for each in first)
    again = run(clip, b, 6, [a], **weak)
    assert [(each.percent, each.flags, each.checked) for each in again] == [
        (each.percent, each.flags, each.checked) for each in first
    ]
    # What was measured without the checks gets them.
    run(clip, c, 6, **{**weak, "sanity": False})
    late = run(clip, tmp_path / "d.sqlite", 6, [c], **weak)
    assert [(each.percent, each.flags, each.checked) for each in late] == [
        (each.percent, each.flags, each.checked) for each in first
    ]


def test_other_weights_another_seed_or_other_images_are_measured(
    clip: VLM, tmp_path: Path, measured: list[int]
) -> None:
    a = tmp_path / "a.sqlite"
    run(clip, a, 4)
    for number, changes in enumerate(({"seed": 1}, {"eps": 1 / 255}, {"chunk_size": 2})):
        before = len(measured)
        run(clip, tmp_path / f"{number}.sqlite", 4, [a], **changes)
        assert len(measured) > before, changes
    changed = copy.deepcopy(clip)
    with torch.no_grad():
        next(changed.model.vision_model.parameters()).add_(0.01)
    shapes = own_labels(clip, 4)
    for number, (model, data) in enumerate([(changed, shapes), (clip, own_labels(clip, 4, "colours"))]):
        before = len(measured)
        file = tmp_path / f"clean-{number}.sqlite"
        evaluate({"CLIP": model}, data=data, attack=None, results=file, reuse=[a], quiet=True)
        assert len(measured) == before + 1


def test_what_this_file_holds_comes_first_and_a_damaged_row_is_measured(
    clip: VLM, tmp_path: Path, measured: list[int]
) -> None:
    a, b = tmp_path / "a.sqlite", tmp_path / "b.sqlite"
    whole = run(clip, a, 4)
    good = rows(a)
    with sqlite3.connect(a) as file:
        file.execute("UPDATE samples SET score = 1 - score WHERE position = 2")
    file.close()
    before = len(measured)
    run(clip, b, 4, [a])
    assert measured[before:] == [4] * len(whole)
    assert rows(b) == good
    run(clip, b, 4, [a])
    assert len(measured) == before + len(whole)


def test_what_is_damaged_in_the_other_file_is_measured(clip: VLM, tmp_path: Path, measured: list[int]) -> None:
    weak: dict[str, Any] = {"defence": rounded, "source": "self", "eps": 16 / 255, "sanity": True}
    a = tmp_path / "a.sqlite"
    first = run(clip, a, 6, **weak)
    flagged = [each for each in first if each.flags and each.setting.attack != WORST_CASE]
    assert flagged
    with sqlite3.connect(a) as file:
        file.execute("UPDATE settings SET flags = '{}'")
        file.execute("UPDATE examples SET truth = 'another' WHERE position = 0")
    file.close()
    before = len(measured)
    found = run(clip, tmp_path / "b.sqlite", 6, [a], **weak)
    assert len(measured) == before + len(flagged)
    assert [(each.percent, each.flags, each.checked) for each in found] == [
        (each.percent, each.flags, each.checked) for each in first
    ]


def test_parts_in_several_files_are_put_together(clip: VLM, tmp_path: Path, measured: list[int]) -> None:
    parts = [tmp_path / "1.sqlite", tmp_path / "2.sqlite"]
    for number, path in enumerate(parts):
        run(clip, path, 8, shard=f"{number + 1}/2", chunk_size=4)
    before, settings = len(measured), {"attack": "pgd", "options": {"steps": 2}, "sanity": False, "chunk_size": 4}
    cost = estimate_cost({"CLIP": clip}, data=own_labels(clip, 8), results="no.sqlite", reuse=parts, **settings)
    assert sum(unit.samples for unit in cost.units) == 0
    whole = run(clip, tmp_path / "whole.sqlite", 8, parts, chunk_size=4)
    assert len(measured) == before
    assert {each.n for each in whole} == {8}
    assert not any(each.checked for each in whole)
    # What is there is completed by what others hold, too.
    run(clip, tmp_path / "grown.sqlite", 4, chunk_size=4)
    before = len(measured)
    run(clip, tmp_path / "grown.sqlite", 8, parts, chunk_size=4)
    assert len(measured) == before
    assert rows(tmp_path / "grown.sqlite") == rows(tmp_path / "whole.sqlite")


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_path_is_refused(clip: VLM, tmp_path: Path) -> None:
    run(clip, tmp_path / "a.sqlite", 2)
    with Results(tmp_path / "a.sqlite", read_only=True) as other:
        for wrong in (None, other, [other]):
            with pytest.raises(SettingsError, match="reuse takes the paths of results files"):
                run(clip, tmp_path / "b.sqlite", 2, wrong)


def test_a_file_that_is_not_there_or_is_the_same_one(clip: VLM, tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="no results file at"):  # before the unknown model
        evaluate("mikro/clip", data="shapes", results=tmp_path / "b.sqlite", reuse=[tmp_path / "missing.sqlite"])
    assert not (tmp_path / "b.sqlite").exists()
    run(clip, tmp_path / "a.sqlite", 4)
    run(clip, tmp_path / "a.sqlite", 4, [tmp_path / "a.sqlite"])


def test_an_estimate_counts_it_as_done(clip: VLM, tmp_path: Path) -> None:
    a = tmp_path / "a.sqlite"
    run(clip, a, 4)
    settings: dict[str, Any] = {"data": own_labels(clip, 4), "attack": "pgd", "options": {"steps": 2}, "sanity": False}
    results = tmp_path / "b.sqlite"
    assert sum(unit.samples for unit in estimate_cost({"CLIP": clip}, results=results, **settings).units) == 8
    assert sum(unit.samples for unit in estimate_cost({"CLIP": clip}, results=results, reuse=a, **settings).units) == 0
    assert not results.exists()
