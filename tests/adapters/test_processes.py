"""An adapter that several processes train together."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.adapters.process import main

from radapt.adapters import Adapter
from radapt.models import full
from radapt.training import Schedule

PROCESS = Path(__file__).with_name("process.py")
LAUNCH = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0")


def tensors(adapter: Adapter) -> dict[str, torch.Tensor]:
    anchor = {} if adapter.anchor is None else {"anchor": adapter.anchor}
    return anchor | {name: full(delta) for name, delta in adapter.deltas.items()}


@pytest.mark.slow
def test_two_processes_do_what_one_does_that_accumulates_two_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    words = [sys.executable, *LAUNCH, str(PROCESS), str(two)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    for module in ("data_driven", "shallow"):
        monkeypatch.setattr(sys.modules[f"radapt.adapters.{module}"], "Schedule", partial(Schedule, accumulate=2))
    alone = main(one)
    for method, adapter in alone.items():
        first, second = (Adapter.from_pretrained(two / f"{method} {rank}") for rank in (0, 1))
        saved = Adapter.from_pretrained(two / method)
        assert first.fingerprint == second.fingerprint == saved.fingerprint
        assert saved.settings.origin["workers"] == 2
        assert "workers" not in adapter.settings.origin
        for name, tensor in tensors(adapter).items():
            torch.testing.assert_close(tensors(saved)[name], tensor, atol=1e-4, rtol=1e-3)
        assert not list(two.glob("*.checkpoint*"))
