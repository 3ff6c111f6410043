from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.finetuning.process import main

PROCESS = Path(__file__).with_name("process.py")
LAUNCH = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0")
SETTINGS: dict[str, Any] = {"steps": 6, "batch_size": 2, "attack_steps": 2, "lr": 1e-4, "ema": 0.5}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tecoa", "lore"])
def test_two_processes_do_what_one_does_that_accumulates_two_batches(tmp_path: Path, method: str) -> None:
    settings = {**SETTINGS, "method": method}
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    words = (*LAUNCH, str(PROCESS), str(two), json.dumps(settings))
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    done = subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("6/6") + done.stderr.count("6/6") == 1  # one process shows its progress
    assert len(list((two / "log").iterdir())) == 1  # and one writes the log
    main(one, {**settings, "accumulate": 2, "quiet": True})
    alone = json.loads((one / "facts 0.json").read_text())
    facts = [json.loads((two / f"facts {rank}.json").read_text()) for rank in (0, 1)]
    assert [each["processes"] for each in (alone, *facts)] == [1, 2, 2]
    assert facts[0]["history"] == facts[1]["history"]
    assert facts[0]["history"] == pytest.approx(alone["history"], rel=1e-4)
    weights = load_file(one / "0")
    others = [load_file(two / f"{rank}") for rank in (0, 1)]
    for name, weight in weights.items():
        assert torch.equal(others[0][name], others[1][name]), name
        assert torch.allclose(others[0][name], weight, atol=1e-5), name
    assert not any((two / name).exists() for name in ("run.safetensors", "run.partial"))
