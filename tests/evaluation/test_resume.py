"""A run that dies at any moment is continued by the same command, with the figures of a run that did not."""

from __future__ import annotations

import copy
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import own_labels, tiny_clip

import radapt
from radapt.adapters import Adapter, training_free
from radapt.data import load_dataset
from radapt.errors import ResultsError
from radapt.evaluation import Candidate, Threat, evaluate
from radapt.results import WORST_CASE, Results, Sample, with_worst_cases

pytestmark = pytest.mark.filterwarnings("ignore:shapes has images of .48, 48.:UserWarning")
ADDS = 6
DYING = f"""
import os, signal, sys, torch
torch.set_num_threads(1)
import radapt
from pathlib import Path
from radapt.results import Results
from tests.evaluation.test_resume import plan

add, left = Results.add, [{ADDS}]
def dying(*given, **named):
    add(*given, **named)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
Results.add = dying
plan(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def plan(folder: Path, file: Path) -> None:
    """Two candidates, two and three figures, in three chunks each."""
    model, adapter = radapt.load(folder), Adapter.from_pretrained(folder / "adapter")
    with Results(file) as results:
        evaluate(
            [Candidate(method="CLIP", model=model), Candidate(method="R-Adapt", model=model, adapter=adapter)],
            data=[load_dataset("colours", n=10)],
            threats=[
                Threat(attack="pgd", eps=2 / 255, source="undefended", options={"steps": 3}),
                Threat(attack="apgd", eps=2 / 255, source="self", options={"steps": 3}),
            ],
            results=results,
            batch_size=4,
            chunk_size=4,
            quiet=True,
        )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tiny_clip()
    model.save_pretrained(tmp_path / "model")
    training_free(model).save_pretrained(tmp_path / "model" / "adapter")
    return tmp_path / "model"


def stored(file: Path) -> list[tuple[str, dict[str, object], list[Sample]]]:
    with Results(file, read_only=True) as results:
        return [(f.setting.key, dict(f.flags), results.samples(f.setting)) for f in results.all()]


@pytest.mark.slow
def test_a_killed_run_continues_with_equal_rows(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    command = [sys.executable, "-c", DYING, str(folder), str(tmp_path / "killed.sqlite")]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, check=False)
    assert done.returncode == -signal.SIGKILL
    survived = sum(len(samples) for _, _, samples in stored(tmp_path / "killed.sqlite"))
    assert survived == 2 * 10  # six chunks of 4, 4 and 2 samples

    plan(folder, tmp_path / "whole.sqlite")
    added: list[int] = []
    add = Results.add

    def watched(self: Results, setting: object, samples: Sequence[Sample], **more: object) -> None:
        added.append(len(samples))
        add(self, setting, samples, **more)

    monkeypatch.setattr(Results, "add", watched)
    plan(folder, tmp_path / "killed.sqlite")
    assert sum(added) == 50 - survived
    assert stored(tmp_path / "killed.sqlite") == stored(tmp_path / "whole.sqlite")
    plan(folder, tmp_path / "killed.sqlite")
    assert sum(added) == 50 - survived  # a finished plan computes nothing


def test_a_figure_is_complete_only_with_its_checks(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: object, **named: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr("radapt.evaluation._bench.check_white_box", interrupted)
    with pytest.raises(KeyboardInterrupt):
        plan(folder, tmp_path / "r.sqlite")
    monkeypatch.setattr("radapt.evaluation._bench.check_white_box", lambda *given, **named: ({"checked": "yes"}, {}))
    plan(folder, tmp_path / "r.sqlite")
    with Results(tmp_path / "r.sqlite", read_only=True) as results:
        flags = [figure.flags for figure in results.all() if figure.kind == "white-box"]
    assert len(flags) == 2
    assert all(each["checked"] == "yes" for each in flags)


def another(model: Any) -> Any:
    copied = copy.copy(model)
    copied.model, copied.name = copy.deepcopy(model.model), "another"
    return copied


def test_a_model_whose_weights_changed_is_evaluated_anew(tiny_vlm: Any, tmp_path: Path) -> None:
    data, threat = own_labels(tiny_vlm, 4), Threat(attack="pgd", eps=4 / 255, source="self", options={"steps": 1})

    def run(everything: bool = False) -> list[Any]:
        with Results(tmp_path / "r.sqlite") as results:
            lines = [Candidate(method="A", model=tiny_vlm)]
            evaluate(lines, data=[data], threats=[threat], results=results, sanity=False, quiet=True)
            return [(f.setting.depends["model"], f.percent) for f in results.all(superseded=everything)]

    first = run()
    assert len({name for name, _ in first}) == 1
    assert run() == first
    with torch.no_grad():
        tiny_vlm.model.visual_projection.weight.mul_(-1)
    other = run()
    assert len(other) == 2
    assert {name for name, _ in other}.isdisjoint(name for name, _ in first)
    assert other[0][1] < first[0][1] == 100
    assert len(run(everything=True)) == 4
    with torch.no_grad():
        tiny_vlm.model.visual_projection.weight.mul_(-1)
    assert run() == first  # what was asked for last, with the weights put back


def test_a_transfer_figure_hangs_on_the_weights_of_its_source_too(tiny_vlm: Any, tmp_path: Path) -> None:
    source = another(tiny_vlm)
    with torch.no_grad():
        source.model.visual_projection.weight[0].mul_(0.5)  # another model: the same one would be no transfer
    data, threat = own_labels(tiny_vlm, 4), Threat(attack="pgd", eps=4 / 255, source="undefended", options={"steps": 1})

    def run(**which: bool) -> list[Any]:
        with Results(tmp_path / "r.sqlite") as results:
            lines = [Candidate(method="A", model=tiny_vlm)]
            given: dict[str, Any] = {"undefended": source, "sanity": False, "quiet": True}
            evaluate(lines, data=[data], threats=[threat], results=results, **given)
            return [figure.kind for figure in results.all(**which)]

    assert run() == ["clean", "transfer"]
    with torch.no_grad():
        source.model.visual_projection.weight.mul_(-1)
    assert run() == ["clean", "transfer"]
    assert run(superseded=True) == ["clean", "transfer", "transfer"]


def test_a_damaged_row_is_measured_again_by_the_same_command(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    plan(folder, path)
    before = stored(path)
    for kind in ("none", "pgd"):
        with sqlite3.connect(path) as file:
            key = file.execute("SELECT key FROM settings WHERE setting LIKE ?", (f'%"attack": "{kind}"%',)).fetchone()
            assert key is not None
            file.execute("UPDATE samples SET score = 1 - score WHERE key = ? AND position = 1", key)
        with pytest.raises(ResultsError, match="damaged"), Results(path, read_only=True) as results:
            results.all()
        plan(folder, path)
        assert stored(path) == before


def test_a_result_is_never_of_two_versions_of_the_images(tiny_vlm: Any, tmp_path: Path) -> None:
    path, data = tmp_path / "r.sqlite", own_labels(tiny_vlm, 12)
    given: dict[str, Any] = {"attack": "pgd", "options": {"steps": 1}, "source": "self", "results": path, "quiet": True}
    given |= {"chunk_size": 4, "batch_size": 4}
    evaluate({"CLIP": tiny_vlm}, data=data, **given)
    other = replace(data, images=255 - data.images)
    part = evaluate({"CLIP": tiny_vlm}, data=other, shard="1/2", **given)
    assert {(each.n, each.setting.n, each.checked) for each in part} == {(8, 12, False)}
    with Results(path, read_only=True) as results:
        for each in results.all():
            assert [sample.position for sample in results.samples(each.setting)] == [0, 1, 2, 3, 8, 9, 10, 11]
            assert {sample.data for sample in results.samples(each.setting)} <= set(other.digests)
            assert all(example.position not in (4, 5, 6, 7) for example in results.examples(each.setting))
    whole = evaluate({"CLIP": tiny_vlm}, data=other, **given)
    fresh = evaluate({"CLIP": tiny_vlm}, data=other, **{**given, "results": tmp_path / "fresh.sqlite"})
    assert [(each.percent, each.n) for each in whole] == [(each.percent, each.n) for each in fresh]


def test_a_candidate_has_one_label_in_a_file(tiny_vlm: Any, tmp_path: Path) -> None:
    path, data = tmp_path / "r.sqlite", own_labels(tiny_vlm, 6)
    strong: dict[str, Any] = {"attack": "pgd", "options": {"steps": 20}, "eps": 8 / 255}
    given: dict[str, Any] = {"data": data, "source": "self", "results": path, "quiet": True, "sanity": False}
    evaluate({"tiny": tiny_vlm, "other": (tiny_vlm, training_free(tiny_vlm))}, **strong, **given)
    found = evaluate({"CLIP": tiny_vlm}, attack="fgsm", eps=8 / 255, **given)
    with Results(path, read_only=True) as results:
        every = with_worst_cases(results)
    assert {each.setting.method for each in every} == {"CLIP", "other"}
    worst = [each for each in every if each.setting.method == "CLIP" and each.setting.attack == WORST_CASE]
    pgd = next(each for each in every if each.setting.method == "CLIP" and each.setting.attack == "pgd")
    assert len(worst) == 1
    assert worst[0].percent <= pgd.percent
    assert worst[0].percent in [each.percent for each in found]


def test_a_candidate_that_was_called_otherwise_keeps_its_results(tiny_vlm: Any, tmp_path: Path) -> None:
    path, data = tmp_path / "r.sqlite", own_labels(tiny_vlm, 6)
    given: dict[str, Any] = {"data": data, "source": "self", "results": path, "quiet": True, "sanity": False}
    evaluate({"mine": tiny_vlm}, attack="pgd", **given)
    evaluate({"old": tiny_vlm}, attack="fgsm", **given)

    def old() -> list[Any]:
        with Results(path, read_only=True) as results:
            return [each for each in with_worst_cases(results) if each.setting.method == "old"]

    before = old()
    assert [each.setting.attack for each in before] == ["none", "pgd", "fgsm", WORST_CASE]
    with torch.no_grad():
        tiny_vlm.model.visual_projection.weight.mul_(-1)
    evaluate({"mine": tiny_vlm}, attack="pgd", **given)
    assert old() == before
