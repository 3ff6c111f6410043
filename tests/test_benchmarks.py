"""The page of benchmarks shows what is kept, and what is kept is not weaker than other libraries."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks/attacks_vs_peers.py"


@pytest.mark.slow
def test_the_page_holds_the_table_of_the_kept_figures() -> None:
    command = [sys.executable, str(SCRIPT), "--table"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    kept = json.loads(SCRIPT.with_suffix(".json").read_text())
    assert len(printed.splitlines()) > len({row["library"] for row in kept})
    assert printed.strip() in (ROOT / "docs/benchmarks.md").read_text()


def test_no_kept_figure_is_weaker_than_a_peer_allows() -> None:
    kept = json.loads(SCRIPT.with_suffix(".json").read_text())
    compared = [row for row in kept if row["library"] == "radapt"]
    assert compared
    assert [row for row in compared if row["above"] > max(1, 0.002 * row["n"])] == []


def tables(heading: str) -> list[list[list[str]]]:
    """Cells of the tables under a heading of the page, without their heads."""
    section = (ROOT / "docs/benchmarks.md").read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    blocks = [block.splitlines()[2:] for block in section.split("\n\n") if block.startswith("| ")]
    return [[[cell.strip() for cell in row.strip("|").split("|")] for row in block] for block in blocks]


def test_the_times_of_large_results_are_those_that_are_kept() -> None:
    kept = json.loads((ROOT / "benchmarks/large_results.json").read_text())
    names = ("append", "append_last", "resume", "read", "worst_cases", "table", "report")
    (shown,) = tables("Large results")
    assert [row[-1] for row in shown] == [f"{kept[name]:.{3 if name == 'append_last' else 1}f}" for name in names]


def test_the_times_of_more_workers_are_those_that_are_kept() -> None:
    kept = json.loads((ROOT / "benchmarks/scaling.json").read_text())
    measured, simulated = tables("Samples, methods and workers")
    for shown, row in zip(measured, (row for row in kept if row["kind"] == "measured"), strict=True):
        assert shown[:2] == [str(row["samples"]), str(row["candidates"])]
        assert str(row["workers"]) in shown[2]
        assert [float(cell) for cell in shown[3:]] == [round(row[name], 1) for name in ("seconds", "of_them_measuring")]
    for shown, row in zip(simulated, (row for row in kept if row["kind"] == "simulated"), strict=True):
        assert shown[0] == str(row["workers"])
        assert float(shown[1]) == round(row["hours"], 2)
        assert float(shown[2].removesuffix(" %")) == pytest.approx(100 * row["efficiency"], abs=0.05)
        assert float(shown[3].removesuffix(" ms")) == pytest.approx(row["milliseconds_per_chunk"], abs=0.051)
        assert float(shown[4].removesuffix(" %")) == round(row["overhead_percent"], 2)


def test_the_times_in_the_browser_are_those_that_are_kept() -> None:
    kept = json.loads((ROOT / "benchmarks/browser.json").read_text())
    (shown,) = tables("In the browser")
    for row, name in zip(shown, ("slider", "first_step", "report"), strict=True):
        goal, median, worst = (int(cell.removesuffix(" ms").replace(",", "")) for cell in row[1:4])
        assert (goal, median, worst) == (kept[f"{name}_goal"], kept[name], kept[f"{name}_worst"])
        assert median <= goal
