"""The simulation of many workers: the real planner and ledger, and the time that the plan allows."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    module = importlib.import_module("scaling")
    monkeypatch.setattr(module, "SAMPLES", 300)
    return module


@pytest.mark.parametrize("workers", [1, 4, 100])
def test_the_simulated_time_is_that_of_the_plan(scaling: Any, workers: int) -> None:
    units = scaling.study()[:6]  # a clean result, and five that wait for it, in three chunks each
    row = scaling.simulated(workers, units)
    assert row["chunks"] == 18
    # One after the other; or the clean chunks first, then the others; or as long as the two steps of one chunk.
    least = {1: 180, 4: 50, 100: 20}[workers]
    assert least <= 3600 * row["hours"] + 2 <= least + 2 + scaling.SECONDS
    assert 0 < row["efficiency"] <= 1
    assert row["overhead_percent"] > 0
