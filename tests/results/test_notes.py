from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

import pytest
from tests.reports.conftest import measure, setting

from radapt.errors import ResultsError
from radapt.results import Results, Run


def run(**changes: object) -> Run:
    base = {"date": "2031-01-02T03:04:05+00:00", "command": "radapt demo", "machine": "m", "device": "cpu"}
    return Run(**(base | {"versions": {"radapt": "1"}} | changes))  # type: ignore[arg-type]


def test_runs_come_back_in_their_order(tmp_path: Path) -> None:
    with Results(tmp_path / "r.sqlite") as store:
        assert store.notes.runs() == []
        store.notes.add_run(run())
        store.notes.add_run(run(command="radapt evaluate 'a b'"))
    with Results(tmp_path / "r.sqlite", read_only=True) as store:
        assert [each.command for each in store.notes.runs()] == ["radapt demo", "radapt evaluate 'a b'"]
        assert store.notes.runs()[0] == run()


def test_settings_of_adapters_are_added(tmp_path: Path) -> None:
    with Results(tmp_path / "r.sqlite") as store:
        store.notes.add_adapters({"f": {"alpha": 0.4}})
        store.notes.add_adapters({"g": {"alpha": 0.8, "block": 2.0}})
        assert store.notes.adapters() == {"f": {"alpha": 0.4}, "g": {"alpha": 0.8, "block": 2.0}}


def test_a_merged_file_knows_the_runs_of_both(tmp_path: Path) -> None:
    with Results(tmp_path / "a.sqlite") as one, Results(tmp_path / "b.sqlite") as other:
        one.notes.add_run(run(date="2031-02-01T00:00:00+00:00"))
        other.notes.add_run(run())
        other.notes.add_adapters({"f": {"alpha": 0.4}})
        measure(other, setting("m", n=3), 2, n=3)
        one.merge(other)
        one.merge(other)
        assert [each.date[:7] for each in one.notes.runs()] == ["2031-01", "2031-02"]
        assert one.notes.adapters() == {"f": {"alpha": 0.4}}


def test_a_file_that_notes_nothing_is_read(tmp_path: Path) -> None:
    with Results(tmp_path / "r.sqlite") as store:
        measure(store, setting("m", n=3), 2, n=3)
    with Results(tmp_path / "r.sqlite", read_only=True) as store:
        assert (store.notes.runs(), store.notes.adapters()) == ([], {})


@pytest.mark.parametrize("text", ["{", "{}", '["x"]', '[{"date": 1}]', "[" * 100_000], ids=range(5))
def test_damaged_notes_are_an_error(tmp_path: Path, text: str) -> None:
    with Results(tmp_path / "r.sqlite") as store:
        store.notes.add_run(run())
    with sqlite3.connect(tmp_path / "r.sqlite") as database:
        database.execute("UPDATE meta SET value = ? WHERE key = 'runs'", (text,))
    database.close()
    with Results(tmp_path / "r.sqlite", read_only=True) as store, pytest.raises(ResultsError):
        store.notes.runs()


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["/somewhere/bin/radapt", "evaluate", "A B=micro/clip"], "radapt evaluate 'A B=micro/clip'"),
        (["/somewhere/radapt/__main__.py", "demo"], "python -m radapt demo"),
        (["/somewhere/mine.py", "-x"], "python mine.py -x"),
        (["-c"], ""),
        ([""], ""),
        (["/somewhere/ipykernel_launcher.py", "-f", "x.json"], ""),
    ],
)
def test_the_command_is_what_one_would_type(monkeypatch: pytest.MonkeyPatch, words: list[str], command: str) -> None:
    monkeypatch.setattr(sys, "argv", words)
    assert Run.now(device="cpu").command == command


def test_a_run_names_machine_device_and_versions() -> None:
    made = Run.now(device="cuda (a card)")
    assert made.device == "cuda (a card)"
    assert made.machine.count(",") >= 2
    assert {"python", "torch"} <= set(made.versions)
    assert made.date.endswith("+00:00")
