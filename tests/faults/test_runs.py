"""Faults in the middle of an evaluation: nothing is lost but what was under way, and the figures are the same."""

from __future__ import annotations

import os
import random
import re
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.faults import befallen
from tests.faults.disturbed import TOTAL, Ended, Rows, figures, rows, run, start

from radapt.results import Results

pytestmark = pytest.mark.slow

RUNS = int(os.environ.get("RADAPT_FAULT_RUNS", "1"))
"""How often each fault that is drawn at random is tried, each time with another seed; more of them for a full run."""
KILLS = 3


class Whole(NamedTuple):
    """A run that nothing befell."""

    file: Path
    rows: Rows
    figures: list[object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    file = tmp_path_factory.mktemp("whole") / "r.sqlite"
    ended = run(file)
    assert ended.code == 0, ended.told
    found = Whole(file, rows(file), figures(file))
    assert samples(found.rows) == TOTAL
    assert len(found.rows) > TOTAL  # images are kept, too
    return found


def samples(found: Rows) -> int:
    """How many samples are among some rows; the others are images that are kept."""
    return sum(position >= 0 for _, position in found)


def stored(file: Path) -> int:
    """How many samples a results file holds by now, as the file itself says."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
        return int(database.execute("SELECT COUNT(*) FROM samples").fetchone()[0])
    return 0


def refused(ended: Ended, *parts: str) -> None:
    """It ended with one line that says what happened."""
    assert ended.code in (1, 2), ended.told
    (line,) = (line for line in ended.told.splitlines() if "Warning" not in line and not line.startswith("  "))
    assert line.startswith("error: ")
    assert "fault of radapt" not in line
    for part in parts:
        assert re.search(part, line), line


def finished(file: Path, whole: Whole, before: Rows, *more: str) -> None:
    """The same command measures what is left, none of the rows again, and ends with the undisturbed figures."""
    assert before.items() <= rows(file).items()
    log = file.with_name("measured")
    ended = run(file, *more, faults=[(befallen.counted, [str(log)])])
    assert ended.code == 0, ended.told
    again = sum(int(line) for line in log.read_text().splitlines()) if log.exists() else 0
    assert again == TOTAL - samples(before)
    assert rows(file) == whole.rows
    assert figures(file) == whole.figures


@pytest.mark.parametrize("seed", range(RUNS))
def test_a_run_that_is_killed_again_and_again(seed: int, whole: Whole, tmp_path: Path) -> None:
    file, numbers, kept = tmp_path / "r.sqlite", random.Random(seed), Rows()
    for kill in range(KILLS):
        going = start(file)
        # The first one dies at any time of its beginning; the others once they have added to what there was.
        wanted = numbers.randint(1, (TOTAL - len(kept)) // (KILLS - kill + 1) + 1) if kill else 0
        while stored(file) < samples(kept) + wanted:
            assert going.process.is_alive(), going.ended()
            time.sleep(0.005)
        time.sleep(numbers.uniform(0, 0.3 if kill else 1.5))
        going.process.kill()
        going.process.join()
        now = rows(file)
        assert kept.items() <= now.items()
        assert samples(now) == stored(file)
        kept = now
    assert kept
    assert kept.items() <= whole.rows.items()
    finished(file, whole, kept)


@pytest.mark.parametrize("commit", random.Random(9).sample(range(1, 20), min(RUNS, 19)))
def test_a_disk_that_is_full(commit: int, whole: Whole, tmp_path: Path) -> None:
    file = tmp_path / "r.sqlite"
    full = run(file, faults=[(befallen.after_commit, [commit, befallen.no_room, str(tmp_path)])])
    refused(full, "no space left|File too large", "kept", "same command")
    kept = rows(file)
    assert kept
    finished(file, whole, kept)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a file system")
def test_a_file_system_that_is_full(whole: Whole, tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=72k", "tmpfs", place], check=False).returncode:
        pytest.skip("this root may not mount a file system")
    try:
        file = place / "r.sqlite"
        refused(run(file), "no space left", "kept", "same command")
        kept = rows(file)
        assert kept
        subprocess.run(["mount", "-o", "remount,size=8m", place], check=True)
        finished(file, whole, kept)
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that may lose its permissions."""
    place = tmp_path / "folder"
    place.mkdir()
    yield place
    place.chmod(0o755)


def test_a_folder_that_cannot_be_written(folder: Path, whole: Whole) -> None:
    file = folder / "r.sqlite"
    befallen.closed(str(folder))
    told = Path(f"{folder}.told")  # what it says lies elsewhere
    (folder.parent / "link.sqlite").symlink_to(file)
    linked = folder.parent / "link.sqlite"
    refused(run(linked, faults=[(befallen.unprivileged, [])]), "--results", "cannot be written: Permission denied")
    assert not list(folder.iterdir())
    assert not told.exists()
    folder.chmod(0o755)
    faults = [(befallen.unprivileged, []), (befallen.after_commit, [5, befallen.closed, str(folder)])]
    refused(run(linked, faults=faults), "cannot write .*link.sqlite", "yours to write")
    folder.chmod(0o755)
    kept = rows(file)
    assert kept
    finished(linked, whole, kept)
    assert linked.is_symlink()


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_file_that_goes_in_the_middle(how: str, whole: Whole, tmp_path: Path) -> None:
    file, other = tmp_path / "r.sqlite", tmp_path / "other.sqlite"
    Results(other).close()
    given = [str(file)] if how == "removed" else [str(file), str(other)]
    ended = run(file, faults=[(befallen.after_commit, [7, getattr(befallen, how), *given])])
    refused(ended, "deleted, moved or replaced", r"in .*r\.rescued-0\.sqlite")
    rescued = tmp_path / "r.rescued-0.sqlite"
    kept = rows(rescued)
    assert samples(kept) >= 7
    rescued.replace(file)
    finished(file, whole, kept)


def test_a_file_that_is_cut_in_the_middle_is_never_read_as_another(whole: Whole, tmp_path: Path) -> None:
    file = tmp_path / "r.sqlite"
    ended = run(file, faults=[(befallen.after_commit, [9, befallen.cut, str(file)])])
    refused(ended, "damaged", "restore a copy|another file")
    left = rows(file)
    assert left.items() <= whole.rows.items()


def cut(file: Path, whole: Whole) -> str:
    shutil.copyfile(whole.file, file)
    befallen.cut(str(file))
    return "damaged"


def other_version(file: Path, whole: Whole) -> str:
    shutil.copyfile(whole.file, file)
    with closing(sqlite3.connect(file)) as database:
        database.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
        database.commit()
    return "schema version 99"


def other_database(file: Path, whole: Whole) -> str:
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE mine (value TEXT)")
        database.commit()
    return "not a results file"


def no_database(file: Path, whole: Whole) -> str:
    file.write_bytes(random.Random(0).randbytes(20_000))
    return "not a results file"


@pytest.mark.parametrize("made", [cut, other_version, other_database, no_database])
def test_a_file_that_cannot_be_gone_on_with_stays_as_it_is(made: Any, whole: Whole, tmp_path: Path) -> None:
    file = tmp_path / "r.sqlite"
    part = made(file, whole)
    before = file.read_bytes()
    refused(run(file), part, "another (file|path)|copy")
    assert file.read_bytes() == before


def test_a_link_to_nothing_is_written_through(whole: Whole, tmp_path: Path) -> None:
    link, target = tmp_path / "link.sqlite", tmp_path / "folder" / "target.sqlite"
    target.parent.mkdir()
    link.symlink_to(target)
    assert run(link).code == 0
    assert link.is_symlink()
    assert rows(target) == whole.rows


def test_a_damaged_cache_and_two_runs_that_fill_one(whole: Whole, tmp_path: Path) -> None:
    cache = [(befallen.environment, ["RADAPT_CACHE", str(tmp_path / "cache")])]
    going = [start(tmp_path / f"{name}.sqlite", faults=cache) for name in "ab"]
    assert [each.ended().code for each in going] == [0, 0]
    assert rows(tmp_path / "a.sqlite") == rows(tmp_path / "b.sqlite") == whole.rows
    for at, file in enumerate((tmp_path / "cache").rglob("*.npz")):
        befallen.cut(str(file)) if at % 2 else file.write_bytes(b"no images")
    ended = run(tmp_path / "c.sqlite", faults=cache)
    assert ended.code == 0
    assert "the cached images in" in ended.told
    assert rows(tmp_path / "c.sqlite") == whole.rows


def test_a_clock_that_jumps_changes_nothing(whole: Whole, tmp_path: Path) -> None:
    file = tmp_path / "r.sqlite"
    screen = [(befallen.environment, ["TTY_COMPATIBLE", "1"]), (befallen.jumping_clock, [0])]
    ended = run(file, faults=screen, quiet=False)
    assert ended.code == 0, ended.told
    assert "-1 day" not in ended.told
    assert re.search(r"\d:\d\d:\d\d", ended.told)  # the bar was drawn
    assert rows(file) == whole.rows
    with Results(file, read_only=True) as results:
        assert all(0 <= each.seconds < 3600 for each in results.all())


@pytest.mark.parametrize("kind", ["python", "cuda", "cpu"])
def test_memory_that_ends(kind: str, whole: Whole, tmp_path: Path) -> None:
    file = tmp_path / "r.sqlite"
    ended = run(file, faults=[(befallen.at_pass, [30, kind, False])])
    refused(ended, "not enough memory", "smaller --batch-size", "kept")
    kept = rows(file)
    assert 0 < samples(kept) < TOTAL
    finished(file, whole, kept, "--batch-size", "2")


def test_memory_that_ends_once_makes_the_batch_smaller(whole: Whole, tmp_path: Path) -> None:
    file = tmp_path / "r.sqlite"
    ended = run(file, faults=[(befallen.at_pass, [40, "cuda", True])])
    assert ended.code == 0
    assert "out of memory at batch size" in ended.told
    assert figures(file) == whole.figures
