"""A result is the same bit for bit whatever the order of its chunks, and whoever measures them."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import tiny_clip

import radapt
from radapt.adapters import training_free
from radapt.errors import ResultsError, SettingsError
from radapt.evaluation import evaluate
from radapt.results import Results, Sample

N, CHUNK = 20, 2
COMMAND = (
    "import sys, torch; torch.set_num_threads(1); from tests.evaluation.test_chunks import plan;"
    "plan(*sys.argv[1:3], shard=sys.argv[3])"
)


def plan(folder: str | Path, file: str | Path, **settings: Any) -> list[radapt.Result]:
    """A model and a defence, clean, by transfer and white-box, in ten chunks each."""
    chosen: dict[str, Any] = {"n": N, "chunk_size": CHUNK, "batch_size": 3, "sanity": False, **settings}
    model = radapt.load(str(folder))
    candidates = {"CLIP": model, "R-Adapt": (model, Path(folder) / "adapter")}
    return evaluate(
        candidates,
        data=["colours"],
        attack="apgd",
        eps="2/255",
        options={"steps": 3},
        results=file,
        quiet=True,
        **chosen,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    model = tiny_clip()
    model.save_pretrained(path)
    training_free(model).save_pretrained(path / "adapter")
    return path


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("whole") / "results.sqlite"
    plan(folder, file)
    return file


def content(file: Path) -> list[Any]:
    """All that a file holds but how long it took and in what order it was asked for."""
    with sqlite3.connect(file) as db:
        tables = [
            db.execute(f"SELECT * FROM {table} ORDER BY key, position").fetchall() for table in ("samples", "examples")
        ]
        settings = db.execute("SELECT key, question, n, setting, flags, samples, examples FROM settings ORDER BY key")
        return [*tables, settings.fetchall()]


def merged(parts: Sequence[Path], file: Path) -> Path:
    with Results(file) as results:
        for part in parts:
            with Results(part, read_only=True) as other:
                results.merge(other)
    return file


@pytest.mark.slow
def test_there_are_ten_chunks_and_the_setting_says_so(whole: Path) -> None:
    samples, examples, settings = content(whole)
    assert len(settings) == 5
    assert len(samples) == 5 * N
    assert examples
    assert {json.loads(row[3])["chunk_size"] for row in settings} == {CHUNK}


@pytest.mark.slow
@pytest.mark.parametrize("order", ["3/3 1/3 2/3", "7/10 1/10 10/10 2/10 9/10 3/10 8/10 4/10 6/10 5/10"])
def test_chunks_in_any_order_give_equal_files(folder: Path, whole: Path, tmp_path: Path, order: str) -> None:
    for shard in order.split():
        plan(folder, tmp_path / "one.sqlite", shard=shard)
    assert content(tmp_path / "one.sqlite") == content(whole)


@pytest.mark.slow
def test_three_processes_give_equal_files(folder: Path, whole: Path, tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    parts = [tmp_path / f"{number}.sqlite" for number in (1, 2, 3)]
    running = [
        subprocess.Popen([sys.executable, "-c", COMMAND, folder, part, f"{number}/3"], env=environment)
        for number, part in enumerate(parts, 1)
    ]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert content(merged(parts[::-1], tmp_path / "all.sqlite")) == content(whole)


@pytest.mark.slow
def test_an_interrupted_run_gives_an_equal_file(
    folder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, left = Results.add, [17]

    def interrupted(self: Results, setting: Any, samples: Sequence[Sample], **more: Any) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        add(self, setting, samples, **more)

    monkeypatch.setattr(Results, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        plan(folder, tmp_path / "r.sqlite")
    monkeypatch.setattr(Results, "add", add)
    assert content(tmp_path / "r.sqlite") != content(whole)
    plan(folder, tmp_path / "r.sqlite")
    assert content(tmp_path / "r.sqlite") == content(whole)


@pytest.mark.slow
def test_more_samples_and_then_fewer_keep_whole_chunks(folder: Path, whole: Path, tmp_path: Path) -> None:
    for n in (5, N, 7, N):
        plan(folder, tmp_path / "r.sqlite", n=n)
    assert content(tmp_path / "r.sqlite") == content(whole)


@pytest.mark.slow
def test_another_order_of_candidates_gives_the_same_transferred_images(
    folder: Path, whole: Path, tmp_path: Path
) -> None:
    model = radapt.load(str(folder))
    candidates = {"R-Adapt": (model, folder / "adapter"), "CLIP": model}
    settings: dict[str, Any] = {"n": N, "chunk_size": CHUNK, "batch_size": 3, "sanity": False, "quiet": True}
    for label in candidates:
        one = {label: candidates[label]}
        file = tmp_path / f"{label}.sqlite"
        evaluate(one, data="colours", attack="apgd", eps="2/255", options={"steps": 3}, results=file, **settings)
    assert content(merged([tmp_path / f"{label}.sqlite" for label in candidates], tmp_path / "r.sqlite")) == content(
        whole
    )


@pytest.mark.slow
def test_a_part_says_on_how_many_samples_it_is_and_the_whole_is_checked_afterwards(
    folder: Path, tmp_path: Path
) -> None:
    part = plan(folder, tmp_path / "r.sqlite", shard="2/4", sanity=True)
    # Chunks 2, 6 and 10 of ten.
    assert {result.n for result in part} == {6}
    assert not any(result.checked for result in part)
    for shard in ("1/4", "3/4", "4/4"):
        plan(folder, tmp_path / "r.sqlite", shard=shard)
    last = plan(folder, tmp_path / "r.sqlite", sanity=True)
    assert {result.n for result in last} == {N}
    assert all(result.checked for result in last)


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "", "a/b", "1/0", "1/3/5", "-1/3", " 1/3"])
def test_a_shard_that_makes_no_sense_is_refused(folder: Path, tmp_path: Path, shard: str) -> None:
    with pytest.raises(SettingsError, match="a shard is i/k"):
        plan(folder, tmp_path / "r.sqlite", shard=shard)


@pytest.mark.parametrize("size", [0, -1, True, 10**30])
def test_a_chunk_size_that_makes_no_sense_is_refused(folder: Path, tmp_path: Path, size: Any) -> None:
    with pytest.raises(SettingsError, match="chunk_size must be a whole number"):
        plan(folder, tmp_path / "r.sqlite", chunk_size=size)


def test_a_file_is_not_merged_into_itself(whole: Path, tmp_path: Path) -> None:
    with Results(tmp_path / "r.sqlite") as results, pytest.raises(ResultsError, match="into itself"):
        results.merge(results)


@pytest.mark.slow
def test_flags_of_both_files_are_kept(folder: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "1.sqlite", tmp_path / "2.sqlite"
    for number, file in enumerate((first, second), 1):
        setting = plan(folder, file, shard=f"{number}/2", n=4)[0].setting
        with Results(file) as results:
            results.flag(setting, {f"sign {number}": "seen", "both": str(number)})
    for number, files in enumerate(([first, second], [second, first], [first, second, first])):
        with Results(merged(files, tmp_path / f"r{number}.sqlite"), read_only=True) as results:
            flags = next(result.flags for result in results.all() if result.setting.key == setting.key)
        assert dict(flags) == {"sign 1": "seen", "sign 2": "seen", "both": "1; 2"}
