"""Memory at its peak: of one block, and as an estimate says it of a real run."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from radapt.evaluation import estimate_cost
from radapt.evaluation._peak import watched

ESTIMATED = """
import json, sys
from radapt.evaluation import estimate_cost
print(estimate_cost("micro/clip", **json.loads(sys.argv[1])).memory)
"""
MEASURED = """
import json, re, sys
import radapt
radapt.evaluate("micro/clip", **json.loads(sys.argv[1]), sanity=False, quiet=True)
# Not ru_maxrss, which a process takes over from the one that started it.
print(1024 * int(re.search(r"VmHWM:\\s*([0-9]+) kB", open("/proc/self/status").read())[1]))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="a peak is forgotten on Linux alone")
def test_the_peak_is_that_of_the_block() -> None:
    """Of pages mapped here: an array could come of memory that earlier tests freed and the heap still holds."""
    size = 300_000_000
    with watched(torch.device("cpu")) as large, mmap.mmap(-1, size) as pages:
        pages[:: mmap.PAGESIZE] = b"1" * len(range(0, size, mmap.PAGESIZE))
    with watched(torch.device("cpu")) as small:
        pass
    assert 200_000_000 < large.size - small.size < 400_000_000


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this is how Linux tells the peak of a process")
def test_the_memory_of_a_run_is_what_the_estimate_said(tmp_path: Path) -> None:
    plan = {"data": "shapes", "n": 48, "attack": "apgd", "options": {"steps": 3}, "batch_size": 48, "source": "self"}
    asked = json.dumps({**plan, "results": str(tmp_path / "r.sqlite")})

    def printed_by(script: str) -> int:
        words = [sys.executable, "-c", script, asked]
        return int(subprocess.run(words, check=True, capture_output=True, text=True, timeout=300).stdout)

    said, real = printed_by(ESTIMATED), printed_by(MEASURED)
    assert said == pytest.approx(real, rel=0.3)
    assert printed_by(ESTIMATED) > 0  # the checks are left
    assert printed_by(ESTIMATED.replace(").memory", ", sanity=False).memory")) == 0


def test_attacks_take_more_memory_than_answers(tmp_path: Path) -> None:
    cost = estimate_cost("micro/clip", data="shapes", n=32, source="self", results=tmp_path / "r.sqlite")
    clean, attacked = cost.units
    assert 0 < clean.memory <= attacked.memory == cost.memory
