"""A network that goes in the middle of a download: the name is in the message, and no half file passes for a whole."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.faults.disturbed import rows
from tests.faults.hub import Hub, hub

import radapt

pytestmark = pytest.mark.slow

WEIGHTS = Path(radapt.__file__).parent / "micro" / "weights"
ADAPTER = "r-adapt-plus-static"


def evaluated(served: Hub, what: str, results: Path) -> subprocess.CompletedProcess[str]:
    """The command, with a hub and a cache of its own."""
    words = ["evaluate", f"A={what}", "--attack", "none", "--n", "4", "--no-sanity", "--quiet"]
    path = os.pathsep.join([str(Path(radapt.__file__).parents[1]), *sys.path])
    own = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": served.address}
    own |= {"HF_HOME": str(results.parent / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "radapt", *words, "--results", str(results)],
        env={**os.environ, **own}, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("what", "plain", "cut"),
    [
        ("owner/clip", "micro/clip", "model.safetensors"),
        ("micro/clip+owner/adapter", f"micro/clip+micro/{ADAPTER}", "radapt_anchor.safetensors"),
    ],
)
def test_a_download_that_ends_in_the_middle(what: str, plain: str, cut: str, tmp_path: Path) -> None:
    (adapter,) = (each for each in WEIGHTS.parent.rglob(ADAPTER) if each.is_dir())
    folders = {"owner/clip": WEIGHTS / "clip", "owner/adapter": adapter}
    file = tmp_path / "r.sqlite"
    with hub(folders, cut) as served:
        done = evaluated(served, what, file)
    assert served.gone
    assert done.returncode == 1, done.stderr
    line = done.stderr.splitlines()[-1]
    assert re.search(r"^error: .*(broke off|did not give it).*(closed connection|Server disconnected|\S{20})", line)
    assert what.rpartition("+")[2] in line
    assert not rows(file)
    assert not list((tmp_path / "home").rglob(cut))
    with hub(folders) as served:
        done = evaluated(served, what, file)
    assert done.returncode == 0, done.stderr
    with hub({}) as served:
        assert evaluated(served, plain, tmp_path / "plain.sqlite").returncode == 0
    found, expected = rows(file), rows(tmp_path / "plain.sqlite")
    assert list(found.values()) == list(expected.values()) != []
