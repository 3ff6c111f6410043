"""What keeps the log of a training; the log of TensorBoard itself is read in ``test_fit``."""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from radapt.errors import SettingsError
from radapt.training import Schedule, check_log, fit, open_log

SCHEDULE = Schedule(steps=8, lr=0.1)


def problem() -> tuple[dict[str, Tensor], Any]:
    parameters = {"w": torch.zeros(3, requires_grad=True)}
    return parameters, lambda step: (parameters["w"] - step).square().sum()


@pytest.mark.parametrize(
    ("report_to", "module", "extra"), [("tensorboard", "torch.utils.tensorboard", "log"), ("wandb", "wandb", "wandb")]
)
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report_to: Any, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    parameters, loss = problem()
    with pytest.raises(SettingsError, match=rf'pip install "radapt\[{extra}\]"'):
        fit(parameters, loss, SCHEDULE, label="test", log=tmp_path / "log", report_to=report_to, quiet=True)
    fit(parameters, loss, SCHEDULE, label="test", report_to=report_to, quiet=True)  # without a folder there is no log
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("report_to", "folder", "message"),
    [("wandbb", "log", "did you mean 'wandb'"), (None, "log", "Allowed: tensorboard, wandb"), ("wandb", None, "log")],
)
def test_what_keeps_no_log_is_refused(report_to: Any, folder: str | None, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        check_log(report_to, folder)
    check_log("tensorboard", None)
    check_log("wandb", "log")


def records(folder: Path) -> list[Any]:
    """What Weights & Biases would send of a run that was made offline, when its own process has written all of it."""
    deadline = time.monotonic() + 60
    while not (found := list(parsed(folder))) or found[-1].WhichOneof("record_type") != "exit":
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def parsed(folder: Path) -> Iterator[Any]:
    """The records of its file, which is a log of LevelDB."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    content, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7:  # too little for the head of a piece
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", content[at : at + 7])
        record += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            found = wandb_internal_pb2.Record()
            found.ParseFromString(record)
            record = b""
            yield found


def history(folder: Path) -> list[dict[str, float]]:
    """The numbers of each step."""
    steps = [each.history.item for each in records(folder) if each.WhichOneof("record_type") == "history"]
    return [{item.nested_key[0]: json.loads(item.value_json) for item in step} for step in steps]


@pytest.fixture
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "own"))


@pytest.mark.slow
@pytest.mark.usefixtures("_offline")
def test_weights_and_biases_gets_every_step_once_and_nothing_else(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.safetensors"
    parameters, loss = problem()

    def dies(step: int) -> Tensor:
        if step == 5:
            raise KeyboardInterrupt
        return loss(step)

    settings: dict[str, Any] = {"label": "test", "checkpoint": file, "every": 4, "quiet": True, "report_to": "wandb"}
    with pytest.raises(KeyboardInterrupt):
        fit(parameters, dies, SCHEDULE, log=tmp_path / "log", settings={"data": "shapes"}, **settings)
    first = history(tmp_path / "log")
    assert [step["_step"] for step in first] == [0, 1, 2, 3, 4]
    own = next(each.run for each in records(tmp_path / "log") if each.WhichOneof("record_type") == "run")
    config = {item.key: json.loads(item.value_json) for item in own.config.update}
    assert (config["label"], config["data"], config["steps"], own.project) == ("test", "shapes", 8, "radapt")
    kinds = {each.WhichOneof("record_type") for each in records(tmp_path / "log")}
    assert kinds <= {"header", "run", "telemetry", "summary", "history", "exit"}  # no files, console or machine
    assert own.host == ""
    assert capfd.readouterr() == ("", "")

    (tmp_path / "log/wandb").rename(tmp_path / "earlier")
    fresh, loss = problem()
    losses = fit(fresh, loss, SCHEDULE, log=tmp_path / "log", settings={"data": "shapes"}, **settings)
    second = history(tmp_path / "log")
    assert [step["_step"] for step in second] == [4, 5, 6, 7]
    assert [step["loss"] for step in [*first[:4], *second]] == pytest.approx(losses)
    assert {"loss", "gradient_norm", "learning_rate"} <= set(second[0])
    again = next(each.run for each in records(tmp_path / "log") if each.WhichOneof("record_type") == "run")
    assert again.run_id == own.run_id  # so that they become one run when they are sent


@pytest.mark.slow
def test_a_run_that_does_not_begin_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    def refuses(**settings: object) -> None:
        raise wandb.errors.UsageError("No API key configured.")

    monkeypatch.setattr(wandb, "init", refuses)
    with pytest.raises(SettingsError, match=r"No API key configured\.; `wandb login`, or WANDB_MODE=offline"):
        open_log(tmp_path / "log", "wandb")
