"""A network that goes in the middle of a download: the name is in the message, and no half file passes for a whole."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.data.hub_files import archives, own
from tests.faults.disturbed import rows
from tests.faults.hub import Hub, hub

import radapt

pytestmark = pytest.mark.slow

WEIGHTS = Path(radapt.__file__).parent / "micro" / "weights"
ADAPTER = "r-adapt-plus-static"
ARCHIVES = {"files": "{split}/*.tar", "columns": {"label": "cls"}, "classes_file": "classnames.txt"}


def evaluated(served: Hub, what: str, results: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """The command, with a hub and a cache of its own."""
    words = ["evaluate", f"A={what}", "--attack", "none", "--no-sanity", "--quiet", *more]
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
        done = evaluated(served, what, file, "--n", "4")
    assert served.gone
    assert done.returncode == 1, done.stderr
    line = done.stderr.splitlines()[-1]
    assert re.search(r"^error: .*(broke off|did not give it).*(closed connection|Server disconnected|\S{20})", line)
    assert what.rpartition("+")[2] in line
    assert not rows(file)
    assert not list((tmp_path / "home").rglob(cut))
    with hub(folders) as served:
        done = evaluated(served, what, file, "--n", "4")
    assert done.returncode == 0, done.stderr
    with hub({}) as served:
        assert evaluated(served, plain, tmp_path / "plain.sqlite", "--n", "4").returncode == 0
    found, expected = rows(file), rows(tmp_path / "plain.sqlite")
    assert list(found.values()) == list(expected.values()) != []


def test_a_dataset_that_ends_in_the_middle(tmp_path: Path) -> None:
    data = archives(tmp_path / "photos", [at % 3 for at in range(12)], shard=4)
    card = own(tmp_path, "owner/photos", ARCHIVES)
    file = tmp_path / "r.sqlite"
    words = ("micro/clip", file, "--data", card, "--n", "10")
    with hub({"owner/photos": data}, "1.tar") as served:
        done = evaluated(served, *words)
    assert served.gone
    assert done.returncode == 2, done.stderr
    assert re.search(r"^error: dataset 'own': cannot read 'owner/photos', split 'test', sample 4: ", done.stderr, re.M)
    assert "put a copy" in done.stderr
    assert not rows(file)
    with hub({"owner/photos": data}) as served:
        done = evaluated(served, *words)
        assert done.returncode == 0, done.stderr
        local = own(tmp_path, data, ARCHIVES)
        assert evaluated(served, "micro/clip", tmp_path / "local.sqlite", "--data", local, "--n", "10").returncode == 0
    found, expected = rows(file), rows(tmp_path / "local.sqlite")
    assert list(found.values()) == list(expected.values())
    assert len(found) == 10
