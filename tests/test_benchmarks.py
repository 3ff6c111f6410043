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
