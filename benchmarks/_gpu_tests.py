"""The tests that need an accelerator, in a process of their own. See `gpu.py` for what a row holds."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from _gpu_measure import Bench

ROOT = Path(__file__).parents[1]
WORKERS = 6


def run(bench: Bench) -> None:
    """One row of counts, and one for each test."""
    bench.attempt({"kind": "tests"}, lambda: _run(bench))


def _run(bench: Bench) -> dict[str, Any]:
    words = ["-m", "pytest", "-m", "gpu", "-q", "-o", "filterwarnings=default", "-p", "no:cacheprovider", "--color=no"]
    if bench.tiny:
        words += ["-k", "every_adapter_method and training"]
    elif importlib.util.find_spec("xdist"):
        words += ["-n", str(WORKERS), "--dist", "load"]
    environment = {**os.environ, "RADAPT_TEST_DEVICE": str(bench.device)}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]).rstrip(":")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words += [f"--junitxml={report}", "tests/gpu"]
        late = False
        with (Path(folder) / "output").open("w+") as output:
            process = subprocess.Popen(
                [sys.executable, *words], cwd=ROOT, env=environment, stdout=output, stderr=output
            )
            try:
                process.wait(max(1.0, bench.left - 10))
            except subprocess.TimeoutExpired:
                late = True
                _stop(process)
            output.seek(0)
            text = output.read()
        cases = list(ET.parse(report).getroot().iter("testcase")) if report.exists() else []
    counts = dict.fromkeys(("passed", "failed", "skipped"), 0)
    for case in cases:
        row = _row(case)
        counts[row["outcome"]] += 1
        bench.emit({"kind": "test", **row})
    bench.failed |= late or process.returncode != 0
    return {**counts, "exit_code": process.returncode, "ran_out_of_time": late, "output": text[-8000:]}


def _stop(process: subprocess.Popen[Any]) -> None:
    """End pytest as a user would, so that it still writes what it knows."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(12)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _row(case: ET.Element) -> dict[str, Any]:
    """A test by name, with its message where it did not pass, and what it noted of itself."""
    row: dict[str, Any] = {"test": case.get("name"), "file": case.get("classname"), "outcome": "passed"}
    row["seconds"] = float(case.get("time", 0))
    for tag, outcome in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
        for found in case.iter(tag):
            row |= {
                "outcome": outcome,
                "message": (found.get("message") or "")[:1000],
                "text": (found.text or "")[-3000:],
            }
    noted = {each.get("name"): each.get("value") for each in case.iter("property")}
    return {**row, "noted": noted} if noted else row
