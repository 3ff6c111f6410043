from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from radapt.errors import ResultsError
from radapt.results import Example, Results, Sample, Setting, take_over, wilson
from radapt.results.intervals import mean_interval, score_interval

CLEAN = Setting(method="CLIP", model="m", dataset="shapes", n=10, version="1")


def sample(position: int, score: float = 1.0) -> Sample:
    return Sample(position=position, label=3, prediction=2, score=score, loss=0.5, forwards=2, backwards=1)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_equals_scipy_for_counts(counts: tuple[int, int]) -> None:
    successes, n = counts
    expected = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert wilson(successes, n) == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-9)


@given(st.integers(1, 5000), st.floats(0, 1))
def test_wilson_limits_solve_the_score_equation_and_hold_the_mean(n: int, share: float) -> None:
    low, high = (limit / 100 for limit in wilson(share * n, n))
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1
    for p in (low, high):
        if 0 < p < 1 and 0 < share < 1:
            assert (p - share) ** 2 == pytest.approx(1.959963984540054**2 * p * (1 - p) / n, rel=1e-6, abs=1e-12)


def test_a_file_is_read_as_it_is_at_one_time_while_another_process_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, later = tmp_path / "r.sqlite", replace(CLEAN, method="FARE", model="f")
    with Results(path) as writer:
        for setting in (CLEAN, later):
            writer.begin(setting)
            writer.add(setting, [sample(0)])
    stored, threads = Results._stored, list[threading.Thread]()

    def write() -> None:
        with Results(path) as writer:
            writer.add(later, [sample(1)])

    def meanwhile(self: Results, table: str, names: str, setting: Setting, intact: bool = False) -> Any:
        """Rows are added to the second setting before its samples are read, after all settings were."""
        if setting == later and not threads:
            threads.append(threading.Thread(target=write))
            threads[0].start()
            threads[0].join(0.5)
        return stored(self, table, names, setting, intact)

    with Results(path, read_only=True) as reader, monkeypatch.context() as patch:
        patch.setattr(Results, "_stored", meanwhile)
        before = [result.n for result in reader.all()]
        threads[0].join()
        assert before == [1, 1]
        assert [result.n for result in reader.all()] == [1, 2]


def test_wilson_of_nothing_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 100.0)


@pytest.mark.parametrize("successes", [-1, 11, math.nan])
def test_wilson_refuses_what_is_no_proportion(successes: float) -> None:
    with pytest.raises(ResultsError, match="between 0 and 10"):
        wilson(successes, 10)


def test_mean_interval_of_one_result_is_its_own() -> None:
    assert mean_interval([(40.0, 31.0, 52.0)]) == pytest.approx((40.0, 31.0, 52.0))


def test_mean_interval_squares_and_adds() -> None:
    mean, low, high = mean_interval([(50.0, 47.0, 56.0), (10.0, 6.0, 18.0)])
    assert (mean, low, high) == pytest.approx((30.0, 30.0 - 5.0 / 2, 30.0 + 10.0 / 2))


def test_results_that_go_together_add_up_without_squares() -> None:
    whole = mean_interval([(50.0, 47.0, 56.0), (10.0, 6.0, 18.0)], {(0, 1): 1.0})
    assert whole == pytest.approx((30.0, 30.0 - 7.0 / 2, 30.0 + 14.0 / 2))
    same = (40.0, 31.0, 52.0)
    assert mean_interval([same] * 3, {(0, 1): 1.0, (0, 2): 1.0, (1, 2): 1.0}) == pytest.approx(same)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8))
def test_mean_interval_stays_in_range_and_has_a_width(counts: list[int]) -> None:
    mean, low, high = mean_interval([(2.0 * count, *wilson(count, 50)) for count in counts])
    assert -1e-9 <= low <= mean <= high <= 100 + 1e-9
    assert high - low > 0.5


def test_scores_above_one_get_students_interval() -> None:
    scores = [0.4, 1.9, 1.2, 2.5]
    mean = sum(scores) / 4
    deviation = math.sqrt(sum((score - mean) ** 2 for score in scores) / 3)
    low, high = score_interval(sum(scores), sum(score**2 for score in scores), 4, proportion=False)
    half = 100 * 3.182446305284263 * deviation / 2
    assert (low, high) == pytest.approx((100 * mean - half, 100 * mean + half))


def test_results_are_computed_from_the_samples(tmp_path: Path) -> None:
    with Results(tmp_path / "r.sqlite") as store:
        store.begin(CLEAN)
        store.add(CLEAN, [sample(k, float(k < 7)) for k in range(10)], seconds=1.5)
        store.flag(CLEAN, {"loss": "fell"})
        (result,) = store.all()
    assert (result.n, result.percent, result.seconds, result.forwards, result.backwards) == (10, 70.0, 1.5, 20, 10)
    assert (result.low, result.high) == pytest.approx(wilson(7, 10))
    assert result.kind == "clean"
    assert result.flags == {"loss": "fell"}
    assert json.loads(json.dumps(result.row()))["flags"] == "loss: fell"


def test_several_questions_about_one_image_count_as_far_as_they_differ(tmp_path: Path) -> None:
    own = [replace(sample(at, float(at < 12)), data=f"image{at // 6}.{at}") for at in range(24)]
    with Results(tmp_path / "r.sqlite") as store:
        longer = replace(CLEAN, n=24)
        store.begin(longer)
        store.add(longer, own)
        (result,) = store.all()
    assert (result.n, result.percent) == (24, 50.0)
    assert (result.low, result.high) == pytest.approx(wilson(2, 4))


def test_captioning_scores_above_one_are_reported(tmp_path: Path) -> None:
    with Results(tmp_path / "r.sqlite") as store:
        store.begin(CLEAN)
        store.add(CLEAN, [sample(0, 0.5), sample(1, 1.7)])
        (result,) = store.all()
    assert result.percent == pytest.approx(110)
    assert result.low < 110 < result.high


def test_a_second_run_continues_and_extends_the_first(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    with Results(path) as store:
        assert store.begin(CLEAN) == set()
        store.add(CLEAN, [sample(0), sample(1, 0.0)], seconds=1.0)
    longer = Setting(method="renamed", model="m", dataset="shapes", n=20, version="1")
    with Results(path) as store:
        assert store.begin(longer) == {0, 1}
        store.add(longer, [sample(2), sample(1, 1.0)], seconds=2.0)
        (result,) = store.all()
        assert [found.position for found in store.samples(longer)] == [0, 1, 2]
    assert (result.setting, result.n, result.percent, result.seconds) == (longer, 3, 100.0, 3.0)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"adapter": "a"},
        {"dataset": "digits"},
        {"split": "val"},
        {"attack": "pgd"},
        {"norm": "l2"},
        {"eps": 0.5},
        {"source": "self"},
        {"options": {"steps": 5}},
        {"seed": 1},
        {"version": "2"},
        {"task": "vqa"},
    ],
)
def test_every_setting_that_changes_a_result_changes_the_key(change: dict[str, object]) -> None:
    base: dict[str, object] = {"method": "CLIP", "model": "m", "dataset": "shapes", "n": 10, "version": "1"}
    assert Setting(**(base | change)).key != CLEAN.key  # type: ignore[arg-type]


def test_examples_come_back_in_order(tmp_path: Path) -> None:
    examples = [
        Example(position=k, clean=b"c%d" % k, adversarial=b"a", truth="t", before="b", after="x") for k in (1, 0)
    ]
    with Results(tmp_path / "r.sqlite") as store:
        store.begin(CLEAN)
        store.add(CLEAN, [], examples=examples)
        assert store.examples(CLEAN) == examples[::-1]


SEEN = Example(
    position=0, clean=b"c", adversarial=b"a", truth="t", before="b", after="x",
    attention_before=b"looks here", attention_after=b"looks there",
)  # fmt: skip


def test_where_a_model_looks_is_kept_merged_and_never_shown_damaged(tmp_path: Path) -> None:
    with Results(tmp_path / "r.sqlite") as store:
        store.begin(CLEAN)
        store.add(CLEAN, [sample(0)], examples=[SEEN])
        with Results(tmp_path / "other.sqlite") as other:
            other.merge(store)
            assert other.examples(CLEAN) == [SEEN]
        store._file.connection.execute("UPDATE examples SET attention_after = x'00'")
        with pytest.raises(ResultsError, match="1 examples of CLIP"):
            store.examples(CLEAN)
        store._file.connection.execute("DELETE FROM examples")
        with pytest.raises(ResultsError, match="example images of CLIP on shapes are not as they were written"):
            store.examples(CLEAN)


def test_samples_of_an_unregistered_setting_are_refused_and_nothing_is_half_written(tmp_path: Path) -> None:
    with Results(tmp_path / "r.sqlite") as store:
        with pytest.raises(ResultsError, match="call begin"):
            store.add(CLEAN, [sample(0)])
        store.begin(CLEAN)
        with pytest.raises(ResultsError, match="NOT NULL"):
            store.add(CLEAN, [sample(0), sample(1, math.nan)])
        assert store.samples(CLEAN) == []
        store.add(CLEAN, [sample(0)])
        assert len(store.samples(CLEAN)) == 1


KILLED = """
import os, signal, sys
from radapt.results import Results, Sample, Setting
setting = Setting(method="CLIP", model="m", dataset="shapes", n=10, version="1")
store = Results(sys.argv[1])
store.begin(setting)
store.add(setting, [Sample(position=k, label=0, prediction=0, score=1.0) for k in range(4)], seconds=1.0)
db = store._file.connection
db.execute("PRAGMA cache_size = 1")  # so that some of it is in the file
db.execute("BEGIN IMMEDIATE")  # the batch in flight
for position in range(9, 999):
    db.execute(
        "INSERT INTO samples VALUES (?, ?, 0, 0, 1.0, '{}', '', NULL, 0, 0, 0, 0.0, '', '', 0)", (setting.key, position)
    )
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_loses_only_the_batch_in_flight_and_its_lock(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    ended = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False, timeout=120)
    assert ended.returncode == -signal.SIGKILL
    with Results(path, read_only=True) as store:
        assert store.all()[0].n == 4
    with Results(path) as store:
        assert store.begin(CLEAN) == {0, 1, 2, 3}


def test_a_second_writer_is_refused_and_a_reader_is_not(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    with Results(path) as store:
        store.begin(CLEAN)
        store.add(CLEAN, [sample(0)])
        with pytest.raises(ResultsError, match="in use by another run"):
            Results(path)
        with Results(path, read_only=True) as reader:
            assert reader.all()[0].n == 1
            store.add(CLEAN, [sample(1)])
            assert reader.all()[0].n == 2
    Results(path).close()


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    code = "import sys; from radapt.results import Results; Results(sys.argv[1])"
    with Results(path):
        ended = subprocess.run(
            [sys.executable, "-c", code, str(path)], check=False, capture_output=True, text=True, timeout=120
        )
    assert "ResultsError" in ended.stderr
    assert "in use by another run" in ended.stderr


def test_a_closed_file_is_one_plain_file(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    with Results(path) as store:
        store.begin(CLEAN)
        store.add(CLEAN, [sample(0)])
    assert path.read_bytes()[18:20] == b"\x01\x01"  # not WAL: readable where nothing can be written beside it
    assert not list(tmp_path.glob("r.sqlite-*"))


def test_locks_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    path = tmp_path / "r.sqlite"
    with Results(path):
        with pytest.raises(ResultsError, match="in use by another run"):
            Results(path)
        assert path.with_name("r.sqlite.lock").exists(), "removed by who did not hold it"
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]


def test_never_two_writers_while_locks_come_and_go(tmp_path: Path) -> None:
    path, inside, most, entered = tmp_path / "r.sqlite", list[int](), list[int](), list[int]()
    Results(path).close()

    def writer() -> None:
        for _ in range(60):
            try:
                with Results(path):
                    inside.append(1)
                    most.append(len(inside))
                    time.sleep(0.001)
                    inside.pop()
                    entered.append(1)
            except ResultsError as error:
                assert "in use by another run" in str(error)  # noqa: PT017

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: writer(), range(4)))
    assert max(most) == 1
    assert entered


def test_a_lock_whose_file_was_removed_meanwhile_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, acquire, removed = tmp_path / "r.sqlite", FileLock.acquire, list[Path]()

    def late(self: FileLock, timeout: float | None = None) -> object:
        held = acquire(self, timeout=timeout)
        if not removed:
            removed.append(Path(self.lock_file))
            removed[0].unlink()  # as the run does that held it before
            removed[0].with_name("another").touch()  # takes the place on the disk
        return held

    monkeypatch.setattr(FileLock, "acquire", late)
    with Results(path):
        monkeypatch.undo()
        assert removed == [path.with_name("r.sqlite.lock")]
        assert removed[0].exists(), "the lock is on a file that nobody else finds"


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    Results(tmp_path / "r.sqlite").close()
    with (
        Results(tmp_path / "r.sqlite", read_only=True) as store,
        pytest.raises(ResultsError, match="opened for reading"),
    ):
        store.begin(CLEAN)


def test_another_schema_version_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    Results(path).close()
    database = sqlite3.connect(path)
    database.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
    database.commit()
    database.close()
    for read_only in (True, False):
        with pytest.raises(ResultsError, match="schema version 99, this version reads 5"):
            Results(path, read_only=read_only)


def test_another_database_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE mine (x)")
    database.commit()
    database.close()
    before = path.read_bytes()
    for read_only in (True, False):
        with pytest.raises(ResultsError, match="not a results file"):
            Results(path, read_only=read_only)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"hello, this is a text file and no database at all\n" * 40, b""])
def test_what_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "r.sqlite"
    path.write_bytes(content)
    with pytest.raises(ResultsError, match="not a results file"):
        Results(path, read_only=True)
    assert path.read_bytes() == content


def test_a_truncated_file_is_reported_not_read(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    with Results(path) as store:
        store.begin(CLEAN)
        store.add(CLEAN, [sample(k) for k in range(2000)])
    whole = path.read_bytes()
    for size in (60, 4096, len(whole) // 2, len(whole) - 4096):
        path.write_bytes(whole[:size])
        with pytest.raises(ResultsError, match=r"damaged|cannot"), Results(path, read_only=True) as store:
            store.all()


def test_a_store_shows_its_path_and_its_size_even_when_closed(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    with Results(path) as store:
        assert repr(store) == f"<Results {path}: 0 settings, 0 samples>"
        store.begin(CLEAN)
        store.add(CLEAN, [sample(k) for k in range(3)])
        assert repr(store) == f"<Results {path}: 1 settings, 3 samples>"
    assert repr(store) == f"<Results {path}: closed>"


@pytest.mark.parametrize(("source", "kind"), [("", "clean"), ("undefended", "transfer"), ("self", "white-box")])
def test_the_source_of_the_attack_decides_the_kind(source: str, kind: str) -> None:
    assert replace(CLEAN, source=source).kind == kind


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="radapt evaluate"):
        Results(tmp_path / "none.sqlite", read_only=True)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResultsError, match="cannot write"):
        Results(tmp_path / "file" / "r.sqlite")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ResultsError, match="cannot write"):
        Results(tmp_path / "folder")


def test_odd_names_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "a folder #1?" / "résultats 100%.sqlite"
    with Results(path) as store:
        store.begin(CLEAN)
        store.add(CLEAN, [sample(0)])
    assert path.exists()
    with Results(path, read_only=True) as store:
        assert store.all()[0].n == 1


def filled(path: Path) -> None:
    """Two settings, one of them asked for with fewer samples than there are."""
    with Results(path) as store:
        for setting in (CLEAN, replace(CLEAN, source="self", attack="pgd", n=7)):
            store.begin(setting)
            rows = [replace(sample(k, float(k % 3 > 0)), answer=f"says {k}", data=f"d{k}") for k in range(10)]
            example = Example(position=1, clean=b"c" * 50, adversarial=b"a" * 50, truth="t", before="b", after="x")
            store.add(setting, rows, seconds=1.0, examples=[example])
            store.flag(setting, {"loss": "fell"}, checked=10)


def everything(path: Path) -> list[object]:
    with Results(path, read_only=True) as store:
        results = store.all()
        return [*results, *(store.samples(r.setting) for r in results), *(store.examples(r.setting) for r in results)]


@pytest.mark.slow
def test_no_flipped_bit_shows_another_figure(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    filled(path)
    whole, content = path.read_bytes(), everything(path)
    numbers = random.Random(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        at = numbers.randrange(100, len(whole))
        damaged[at] ^= 1 << numbers.randrange(8)
        path.write_bytes(damaged)
        try:
            assert everything(path) == content
        except ResultsError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE samples SET score = 1 WHERE position = 3",
        "UPDATE samples SET answer = 'other' WHERE position = 3",
        "UPDATE samples SET position = 20 WHERE position = 3",
        "UPDATE samples SET loss = NULL WHERE position = 3",
        "UPDATE samples SET data = 'x' WHERE position = 3",
        "DELETE FROM samples WHERE position = 3",
    ],
)
def test_damaged_samples_are_never_shown_and_are_measured_again(change: str, tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    filled(path)
    content = everything(path)
    database = sqlite3.connect(path)
    database.execute(change)
    database.commit()
    database.close()
    with pytest.raises(ResultsError, match=r"is damaged: .*run the same command again"):
        everything(path)
    with Results(path) as store:
        done = store.begin(CLEAN)
        assert 3 not in done
        store.add(CLEAN, [replace(sample(k, float(k % 3 > 0)), answer=f"says {k}", data=f"d{k}") for k in {3, 20}])
    again = replace(CLEAN, source="self", attack="pgd", n=7)
    with Results(path) as store:
        assert 3 not in store.begin(again)
        store.add(again, [replace(sample(3, 0.0), answer="says 3", data="d3")])
        if "= 20" not in change:
            assert [r.percent for r in store.all()] == [r.percent for r in content[:2]]  # type: ignore[attr-defined]


@pytest.mark.parametrize("change", ["n = 5", "setting = replace(setting, 'CLIP', 'FARE')", "flags = '{}'", "asked = 9"])
def test_a_damaged_setting_is_refused(change: str, tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    filled(path)
    database = sqlite3.connect(path)
    database.execute(f"UPDATE settings SET {change} WHERE position = 0")
    database.commit()
    database.close()
    with pytest.raises(ResultsError, match="is damaged: a setting"):
        everything(path)
    with Results(path) as store:
        assert store.begin(CLEAN) == set()  # what flags it had is not known: it is measured again
        assert CLEAN.key not in {each.setting.key for each in store.all()}
        store.add(CLEAN, [sample(0)])
        assert [each.n for each in store.all() if each.setting.key == CLEAN.key] == [1]


@pytest.mark.parametrize("how", ["deleted", "replaced", "moved", "folder"])
def test_a_file_that_vanishes_loses_nothing(how: str, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "r.sqlite"
    store = Results(path)
    store.begin(CLEAN)
    store.add(CLEAN, [sample(k) for k in range(5)])
    if how == "deleted":
        path.unlink()
    elif how == "replaced":
        filled(tmp_path / "other.sqlite")
        (tmp_path / "other.sqlite").replace(path)
    elif how == "moved":
        path.rename(tmp_path / "elsewhere.sqlite")
    else:
        shutil.rmtree(path.parent)
    with pytest.raises(ResultsError, match="was deleted, moved or replaced while it was being written") as caught:
        store.add(CLEAN, [sample(5)])
    kept = Path(re.findall(r"everything that it held is in (\S+)\. Put", str(caught.value))[0])
    with Results(kept, read_only=True) as rescued:
        assert rescued.all()[0].n == 5
    with pytest.raises(ResultsError, match=f"it held is in {kept}"):
        store.close()
    kept.unlink()


def test_a_file_that_vanishes_after_the_last_row_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    store = Results(path)
    store.begin(CLEAN)
    store.add(CLEAN, [sample(0)])
    path.unlink()
    with pytest.raises(ResultsError, match=r"is in .*rescued-0\.sqlite"):
        store.close()


@pytest.mark.parametrize("link", ["symbolic", "hard", "folder"])
def test_one_file_under_two_names_has_one_writer(link: str, tmp_path: Path) -> None:
    path, other = tmp_path / "a" / "r.sqlite", tmp_path / "b.sqlite"
    Results(path).close()
    if link == "symbolic":
        other.symlink_to(path)
    elif link == "hard":
        other.hardlink_to(path)
    else:
        (tmp_path / "c").symlink_to(tmp_path / "a")
        other = tmp_path / "c" / "r.sqlite"
    with Results(path) as store:
        store.begin(CLEAN)
        with pytest.raises(ResultsError, match="in use by another run"):
            Results(other)
    with Results(other) as store:
        assert store.begin(CLEAN) == set()


def test_a_copy_of_the_file_of_a_killed_run_has_all_its_rows(tmp_path: Path) -> None:
    path, copied = tmp_path / "r.sqlite", tmp_path / "copied.sqlite"
    store = Results(path)
    store.begin(CLEAN)
    store.add(CLEAN, [sample(k) for k in range(6)])
    shutil.copyfile(path, copied)  # the file alone, with the run still open
    with Results(copied, read_only=True) as other:
        assert other.all()[0].n == 6
    store.close()


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, message in ((tmp_path / "fifo", "no ordinary file"), (Path("/dev/null"), "no ordinary file")):
        for read_only in (True, False):
            with pytest.raises(ResultsError, match=message):
                Results(path, read_only=read_only)
    with pytest.raises(ResultsError, match="it is a folder"):
        Results(tmp_path)
    with pytest.raises(ResultsError, match="path of the results file is empty"):
        Results("")
    with pytest.raises(ResultsError, match=r"cannot write|null"):
        Results("a\0b")


def test_the_home_folder_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    filled(Path("~/r.sqlite"))
    assert (tmp_path / "r.sqlite").is_file()


def test_the_last_question_is_the_one_that_is_answered(tmp_path: Path) -> None:
    before, after = (replace(CLEAN, depends={"model": name}) for name in ("good", "broken"))
    with Results(tmp_path / "r.sqlite") as store:
        for setting, score in ((before, 1.0), (after, 0.0)):
            store.begin(setting)
            store.add(setting, [sample(k, score) for k in range(10)])
        assert [result.percent for result in store.all()] == [0.0]
        store.begin(before)  # asked again, and nothing was to be done
        assert [result.percent for result in store.all()] == [100.0]
        assert [result.percent for result in store.all(superseded=True)] == [100.0, 0.0]
        store.begin(replace(before, n=3))
        assert [(result.n, result.percent) for result in store.all()] == [(3, 100.0)]


def test_checks_hold_for_the_samples_that_they_saw(tmp_path: Path) -> None:
    with Results(tmp_path / "r.sqlite") as store:
        store.begin(CLEAN)
        store.add(CLEAN, [sample(k) for k in range(6)])
        assert not store.all()[0].checked
        store.flag(CLEAN, {}, checked=6)
        assert store.all()[0].checked
        store.add(CLEAN, [sample(6)])
        assert not store.all()[0].checked
        store.begin(replace(CLEAN, n=6))
        assert store.all()[0].checked
        store.begin(replace(CLEAN, n=5))
        assert not store.all()[0].checked  # what they say is of six: more may be odd, or less


def test_scores_by_other_metrics_come_back_as_results_of_their_own(tmp_path: Path) -> None:
    given = [replace(sample(position), also={"cider": 0.25 + position, "bleu": 0.5}) for position in range(2)]
    with Results(tmp_path / "r.sqlite") as results:
        results.begin(CLEAN)
        results.add(CLEAN, given)
        assert results.samples(CLEAN) == given
        assert [each.setting.metric for each in results.all()] == [CLEAN.metric, "cider", "bleu"]


def test_merging_takes_the_checks_of_just_what_is_shown(tmp_path: Path) -> None:
    for n in (6, 3):
        with Results(tmp_path / f"{n}.sqlite") as store:
            store.begin(replace(CLEAN, n=n))
            store.add(CLEAN, [sample(k) for k in range(n)])
            store.flag(CLEAN, {"large ball": f"of {n}"}, checked=n)
    for first, last in ((6, 3), (3, 6)):
        with Results(tmp_path / f"{first}{last}.sqlite") as merged:
            for n in (first, last):
                with Results(tmp_path / f"{n}.sqlite", read_only=True) as other:
                    merged.merge(other)
            (found,) = merged.all()
        assert (found.n, found.flags, found.checked) == (last, {"large ball": f"of {last}"}, True)


def test_merging_keeps_what_was_asked_for_last_and_what_was_checked(tmp_path: Path) -> None:
    old, new = (replace(CLEAN, depends={"model": name}) for name in ("old", "new"))
    a, b, c = (tmp_path / f"{name}.sqlite" for name in "abc")
    with Results(a) as first:
        for setting, score in ((new, 1.0), (old, 0.0), (new, 1.0)):
            first.begin(setting)
            first.add(setting, [sample(0, score)], seconds=2.0)
            first.flag(setting, {}, checked=1)
        assert [each.percent for each in first.all()] == [100.0]
        with Results(b) as second:
            second.merge(first)
            assert [(each.percent, each.checked) for each in second.all()] == [(100.0, True)]
            again = second.all()
            second.merge(first)
            assert second.all() == again  # nor does it take twice the time
    with Results(c) as part, Results(a, read_only=True) as first:
        part.begin(new)
        part.add(new, [sample(1)])
        part.flag(new, {}, checked=1)
        part.merge(first)
        assert [(each.n, each.checked) for each in part.all()] == [(2, False)]


def test_renaming_heals_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    other = replace(CLEAN, dataset="colours")
    with Results(path) as store:
        for setting in (CLEAN, other):
            store.begin(setting)
            store.add(setting, [sample(0)])
    with sqlite3.connect(path) as file:
        file.execute("UPDATE settings SET checked = 1 WHERE key = ?", (other.key,))
    file.close()
    with Results(path) as store:
        store.rename([replace(CLEAN, method="new")])
        with pytest.raises(ResultsError, match="a setting are not as they were written"):
            store.all()
        assert store.intact(CLEAN)
        assert not store.intact(other)


def test_an_attack_on_what_was_replaced_since_says_nothing_until_it_is_made_again(tmp_path: Path) -> None:
    depends = {"model": "w", "content": "c", "task": "1"}
    fgsm, pgd = (replace(CLEAN, attack=name, norm="linf", eps=0.1, source="self") for name in ("fgsm", "pgd"))

    def shown(**which: bool) -> list[str]:
        return [f"{each.setting.attack} {each.percent:g}" for each in store.all(**which)]

    for name in (*depends, "left out"):
        with Results(tmp_path / f"{name}.sqlite") as store:

            def ask(settings: list[Setting], version: str, score: float, name: str = name) -> None:
                for setting in settings:
                    own = replace(setting, depends={**depends, name: version})
                    store.begin(own)
                    store.add(own, [sample(0, score)])

            ask([CLEAN, fgsm, pgd], "1", 0.5)
            other = replace(CLEAN, method="another", model="n", depends=depends)
            store.begin(other)
            store.add(other, [sample(0)])
            ask([CLEAN, pgd], "2", 0.25)
            assert shown() == ["none 100", "none 25", "pgd 25"]
            assert len(shown(superseded=True)) == 6
            ask([CLEAN, fgsm], "2", 0.125)
            assert shown() == ["none 100", "none 12.5", "pgd 25", "fgsm 12.5"]
            ask([CLEAN], "1", 0.5)
            assert shown() == ["none 50", "fgsm 50", "pgd 50", "none 100"]


def test_two_clean_results_that_are_asked_for_apart_both_count(tmp_path: Path) -> None:
    with Results(tmp_path / "r.sqlite") as store:
        for options, weights in (({}, "w"), ({"dtype": "float16"}, "half")):
            for source in ("", "self"):
                own = replace(CLEAN, source=source, attack="pgd" if source else "none", options=options)
                own = replace(own, depends={"model": weights})
                store.begin(own)
                store.add(own, [sample(0)])
        assert len(store.all()) == 4


def test_a_renamed_result_answers_the_question_of_its_new_name(tmp_path: Path) -> None:
    old, new = (replace(CLEAN, depends={"model": weights}) for weights in ("old", "new"))
    with Results(tmp_path / "r.sqlite") as store:
        store.begin(old)
        store.add(old, [sample(0, 0.0)])
        store.rename([replace(old, method="before")])
        store.begin(new)
        store.add(new, [sample(0, 1.0)])
        store.rename([new])
        assert [(each.setting.method, each.percent) for each in store.all()] == [("before", 0.0), ("CLIP", 100.0)]
        content = store._file.read("SELECT question FROM settings ORDER BY position")
        assert content == [(replace(old, method="before").question,), (new.question,)]


def test_merging_never_makes_a_result_of_two_versions_of_the_images(tmp_path: Path) -> None:
    def images(which: str, positions: range) -> list[Sample]:
        return [replace(sample(at, float(which == "new")), data=f"{which} {at}") for at in positions]

    seen = Example(position=8, clean=b"c", adversarial=b"a", truth="t", before="b", after="x")
    with Results(tmp_path / "a.sqlite") as first, Results(tmp_path / "b.sqlite") as second:
        first.begin(CLEAN)
        first.add(CLEAN, images("old", range(10)), examples=[seen])
        first.flag(CLEAN, {}, checked=10)
        second.begin(CLEAN)
        second.add(CLEAN, images("new", range(1, 6)))
        first.merge(second)
        assert first.samples(CLEAN) == images("new", range(1, 6))
        assert first.examples(CLEAN) == []
        (result,) = first.all()
        assert (result.n, result.percent, result.checked) == (5, 100.0, False)
        # Where the images are the same, what each holds alone stays.
        with Results(tmp_path / "c.sqlite") as third:
            third.begin(CLEAN)
            third.add(CLEAN, images("new", range(5, 8)))
            first.merge(third)
        assert first.samples(CLEAN) == images("new", range(1, 8))


@pytest.mark.parametrize(
    ("how", "when"), [("merge", "all"), ("merge", "samples"), ("take over", "samples"), ("take over", "flags")]
)
def test_a_result_that_is_completed_meanwhile_arrives_with_its_flags_or_unchecked(
    how: str, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, threads = tmp_path / "r.sqlite", list[threading.Thread]()
    with Results(path) as writer:
        writer.begin(CLEAN)
        writer.add(CLEAN, [sample(k) for k in range(6)])

    def complete() -> None:
        with Results(path) as writer:
            writer.flag(CLEAN, {"large ball": "stands"}, checked=10)
            writer.add(CLEAN, [sample(k) for k in range(6, 10)])

    with Results(path, read_only=True) as other, Results(tmp_path / "own.sqlite") as own:
        read = getattr(Results, when)

        def meanwhile(self: Results, *given: Any, **named: Any) -> Any:
            """The other file is completed after one of the things that are read of it, before the next."""
            found = read(self, *given, **named)
            if self is other and not threads:
                threads.append(threading.Thread(target=complete))
                threads[0].start()
                threads[0].join(0.5)
            return found

        with monkeypatch.context() as patch:
            patch.setattr(Results, when, meanwhile)
            if how == "merge":
                own.merge(other)
            else:
                take_over(own, CLEAN, [""] * 10, other)
        threads[0].join()
        (result,) = own.all()
        assert result.flags or not result.checked
        own.merge(other)
        (result,) = own.all()
        assert (result.n, result.checked, result.flags) == (10, True, {"large ball": "stands"})
