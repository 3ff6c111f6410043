"""The command for a machine with a GPU, tried on the CPU: everything but its figures."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks/gpu.py"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONWARNINGS": "default", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), "--dry-run", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of the folder of benchmarks."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return importlib.import_module


@pytest.mark.slow
def test_every_part_runs_and_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    done = run("--out", str(out), "--minutes", "14")
    kept = json.loads(out.read_text())
    rows = [row for part in kept["parts"].values() for row in part["rows"]]
    assert [row["traceback"] for row in rows if "error" in row] == []
    assert [row for row in rows if row.get("outcome") == "failed"] == []
    assert done.returncode == 0, done.stdout + done.stderr
    assert {part.get("error") for part in kept["parts"].values()} == {None}
    kinds = {name: {row["kind"] for row in part["rows"]} for name, part in kept["parts"].items()}
    assert kinds["tests"] == {"tests", "test"}
    assert kinds["throughput"] == {"rate", "model", "equal", "host", "attack", "passes"}
    assert kinds["captioning"] == {"model", "captions", "answers"}
    attacks = [row for row in kept["parts"]["throughput"]["rows"] if row["kind"] == "attack"]
    assert {row["robust_accuracy"] for row in attacks if row["stands"]} == {100.0}
    assert {row["outside_the_ball"] for row in attacks} == {0}
    assert {"radapt", "versions", "commit", "card", "python"} <= set(kept["environment"])
    assert "s left] captioning" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("part", ["throughput", "captioning"])
def test_a_part_that_fails_is_in_the_file_and_in_the_status(part: str, tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    done = run("--out", str(out), "--only", part, "--device", "cuda:77")
    found = json.loads(out.read_text())["parts"][part]
    assert done.returncode == 1
    assert "error" in found
    assert "Error" in found["stderr"]


@pytest.mark.slow
def test_a_part_whose_time_is_up_is_stopped(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    done = run("--out", str(out), "--only", "throughput,captioning", "--minutes", "0.02")
    parts = json.loads(out.read_text())["parts"]
    assert set(parts) == {"throughput", "captioning"}
    assert all(part["seconds"] < 60 for part in parts.values())
    assert done.returncode in (0, 1)


@pytest.mark.slow
def test_a_run_that_is_ended_keeps_what_it_had_and_leaves_no_process(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(SCRIPT), "--dry-run", "--only", "throughput", "--out", str(out)]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "kind rate" in process.stdout.readline()
        listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, check=True)
        [child] = map(int, listed.stdout.split())
        process.terminate()
        assert process.wait(60) == 1
    assert json.loads(out.read_text())["parts"]["throughput"]["rows"][0]["kind"] == "rate"
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split(")")[1][:3]:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the process of the part goes on")


def test_an_unknown_part_is_named() -> None:
    done = run("--only", "tests,thruput")
    assert done.returncode == 2
    assert "no part 'thruput'; there are tests, throughput, captioning" in done.stderr


def test_time_in_which_the_device_works_is_the_union_of_its_spans(script: Any) -> None:
    measure = script("_gpu_measure")
    spans = [(0.0, 10.0, "flash_fwd"), (5.0, 12.0, "gemm"), (20.0, 30.0, "gemm"), (21.0, 22.0, "fmha_bwd")]
    found = measure.busy_of(spans)
    assert found["busy_seconds"] == pytest.approx(22e-6)
    assert found["kernels"] == 4
    assert found["longest"]["gemm"] == pytest.approx(60.7)
    assert found["attention"] == ["flash_fwd", "fmha_bwd"]
    assert measure.busy_of([])["busy_seconds"] == 0


def test_the_work_of_a_pass_is_that_of_its_products(script: Any) -> None:
    import torch

    weight, x = torch.randn(8, 6), torch.randn(5, 6, requires_grad=True)
    assert script("_gpu_measure").work(lambda: x @ weight.T) == 2 * 5 * 6 * 8
    assert script("_gpu_measure").work(lambda: (x @ weight.T).sum().backward()) == 2 * 2 * 5 * 6 * 8


@pytest.mark.slow
def test_an_error_is_a_row_and_the_others_go_on(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    measure = script("_gpu_measure")
    bench = measure.Bench(torch.device("cpu"), True, float("inf"))

    def fails() -> dict[str, Any]:
        raise ValueError("no such thing")

    bench.attempt({"kind": "a"}, fails)
    bench.attempt({"kind": "b"}, lambda: {"figure": 1})
    bench.deadline = 0.0
    bench.attempt({"kind": "c"}, fails, needs=5)
    first, second, third = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["error"] == "ValueError: no such thing"
    assert "in fails" in first["traceback"]
    assert second["figure"] == 1
    assert "5 s needed" in third["skipped"]
    assert bench.failed


def test_what_is_kept_has_no_folders_of_the_machine(script: Any, tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    report = script("gpu").Report(out, {"card": "a card", "text": ["at 4/255 of ViT-B/32 and micro/clip"]})
    report.content["parts"]["tests"] = {"rows": [{"output": f"in {SCRIPT}:3 of {sys.executable}\n{ROOT}/src/a.py"}]}
    report.write()
    kept = out.read_text()
    assert str(ROOT) not in kept
    assert str(Path(sys.executable).parent) not in kept
    assert "in gpu.py:3 of" in kept
    assert "at 4/255 of ViT-B/32 and micro/clip" in kept


def test_the_kept_figures_name_no_folder_of_the_machine() -> None:
    kept = SCRIPT.with_suffix(".json").read_text()
    assert [folder for folder in ("/work/", "/opt/", "/tmp/", "/usr/", "/root/", "/home/") if folder in kept] == []
