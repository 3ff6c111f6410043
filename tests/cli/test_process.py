"""The command as a process of its own: what a shell sees."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import radapt
from radapt.attacks import names

COMMAND = "from radapt.cli.main import main; main()"
INTERRUPTED = f"""
import os, signal
from radapt.results import Results

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it

add = Results.add
def interrupted(*given, **named):
    add(*given, **named)
    os.kill(os.getpid(), signal.SIGINT)
Results.add = interrupted
{COMMAND}
"""


def shell(code: str, folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(radapt.__file__).parents[1]), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_version_and_an_error(tmp_path: Path) -> None:
    done = shell(COMMAND, tmp_path, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"radapt {radapt.__version__}\n", "")
    done = shell("import runpy; runpy.run_module('radapt', run_name='__main__')", tmp_path, "--version")
    assert done.stdout == f"radapt {radapt.__version__}\n"
    done = shell(COMMAND, tmp_path, "attacks", "pdg")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: unknown attack 'pdg'; did you mean 'pgd'? Allowed: {', '.join(names())}\n"


def test_help_does_not_wait_for_torch(tmp_path: Path) -> None:
    code = f"import sys\ntry:\n    {COMMAND}\nfinally:\n    print('torch' in sys.modules)"
    assert shell(code, tmp_path, "evaluate", "--help").stdout.splitlines()[-1] == "False"


@pytest.mark.slow
def test_ctrl_c_in_the_middle_and_again(tmp_path: Path, model: str) -> None:
    words = ("evaluate", model, "--attack", "pgd", "--option", "steps=2", "--n", 4, "-q", "--json", "rows.json")
    done = shell(INTERRUPTED, tmp_path, *words)
    assert done.returncode == 1
    assert done.stderr == "interrupted; what was computed is kept, run the same command to continue\n"
    assert signal.SIGINT  # the exit code is the program's own, not the signal's
    done = shell(COMMAND, tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert [row["n"] for row in json.loads((tmp_path / "rows.json").read_text())] == [4, 4, 4]
