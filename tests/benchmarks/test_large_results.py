"""The benchmark of large results runs: every figure is there, and every row was written, found again and shown."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest


def test_all_figures_of_a_small_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    found = importlib.import_module("large_results").measure(2, 3, 200, tmp_path)
    assert found["rows"] == 2 * 3 * 3 * 200
    times = ("append", "append_last", "resume", "read", "worst_cases", "table", "report")
    assert all(float(found[name]) > 0 for name in times)
    assert (tmp_path / "report" / "report.html").is_file()
