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


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(Path(radapt.__file__).parents[1]), *sys.path])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


def shell(code: str, folder: Path, *words: object, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, cwd=folder, env=environment(**more), capture_output=True, check=False)
    out, told = (each.decode(errors="surrogateescape") for each in (done.stdout, done.stderr))
    return subprocess.CompletedProcess(command, done.returncode, out, told)


@pytest.mark.slow
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
    assert [row["n"] for row in json.loads((tmp_path / "rows.json").read_text())] == [4, 4]  # clean and white-box


MODULE = "import runpy; runpy.run_module('radapt', run_name='__main__')"


@pytest.mark.slow
@pytest.mark.parametrize("code", [COMMAND, pytest.param(MODULE, marks=pytest.mark.slow)], ids=["script", "module"])
def test_a_fault_of_the_library_is_one_line_and_shows_its_traceback_on_request(tmp_path: Path, code: str) -> None:
    broken = f"import radapt.attacks\nradapt.attacks.REGISTRY = None\n{code}"
    done = shell(broken, tmp_path, "attacks")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: unexpected AttributeError: 'NoneType' object has no attribute 'names'")
    assert "RADAPT_DEBUG=1" in line
    done = shell(broken, tmp_path, "attacks", RADAPT_DEBUG="1")
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.splitlines()[-1] == line


@pytest.mark.slow
def test_a_reader_that_closes_the_output_is_no_traceback(tmp_path: Path) -> None:
    code = f"import sys\nsys.stdin.readline()\n{COMMAND}"
    with subprocess.Popen(
        [sys.executable, "-c", code, "attacks"],
        cwd=tmp_path, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write(b"go\n")
        process.stdin.flush()
        told = process.stderr.read().decode()
        assert process.wait() == 1
    assert told.splitlines() == [
        "error: what reads the output has closed it; what was computed is kept, run the same command to continue"
    ]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-c", COMMAND, "attacks"]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment(), stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("error: [Errno 28] No space left on device")


def test_bytes_that_are_no_text_are_shown_as_escapes(tmp_path: Path) -> None:
    done = shell(COMMAND, tmp_path, "report", "a\udcff[/]\x1b[31m")
    assert done.returncode == 1
    assert done.stderr.startswith(r"error: no results file at a\udcff[/]\x1b[31m;")


LOCALES = [
    {"PYTHONIOENCODING": "cp1252"},
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]


@pytest.mark.slow
@pytest.mark.parametrize("locale", LOCALES, ids=lambda each: " ".join(f"{k}={v}" for k, v in each.items()))
def test_what_a_terminal_cannot_show_is_replaced_and_files_are_in_utf_8(
    tmp_path: Path, model: str, locale: dict[str, str]
) -> None:
    words = ("--attack", "pgd", "--option", "steps=1", "--n", 2, "--no-sanity", "--source", "self")
    done = shell(COMMAND, tmp_path, "evaluate", f"鱼 [/]\u2014é={model}", *words, "--json", "rows.json", **locale)
    assert done.returncode == 0, done.stderr
    assert "[/]" in done.stdout
    rows = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))
    if "PYTHONUTF8" not in locale:  # there, the word itself comes as bytes that are no text
        assert {row["method"] for row in rows} == {"鱼 [/]\u2014é"}
    done = shell(COMMAND, tmp_path, "report", "results.sqlite", "--out", "report", **locale)
    assert done.returncode == 0, done.stderr
    for name in ("table.md", "table.csv", "table.tex", "report.html", "results.json"):
        (tmp_path / "report" / name).read_text(encoding="utf-8")
    for listing in ("datasets", "models", "reproduce") if locale == LOCALES[1] else ():
        assert shell(COMMAND, tmp_path, listing, **locale).returncode == 0
