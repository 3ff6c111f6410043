"""The log of a training, kept by TensorBoard or by Weights & Biases."""

from __future__ import annotations

import importlib
import os
import uuid
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, get_args

from radapt.errors import SettingsError, shown
from radapt.registry import nearest
from radapt.types import ReportTo

__all__ = ["Log", "check_log", "open_log"]

_RUN = "wandb-run-id.txt"


class Log(Protocol):
    """Takes the numbers of each step."""

    def add(self, numbers: Mapping[str, float], step: int) -> None:
        """The numbers of one step, by name."""

    def flush(self) -> None:
        """What was added is kept, whatever happens next."""


def check_log(report_to: object, folder: object) -> None:
    """Refuse what keeps no log, and a log without a folder.

    Raises:
        SettingsError: ``report_to`` is not one of ``ReportTo``, or is asked for without a folder.
    """
    if report_to not in (allowed := get_args(ReportTo)):
        raise SettingsError(f"unknown report_to {shown(report_to)}{nearest(str(report_to), allowed)}")
    if folder is None and report_to != allowed[0]:
        raise SettingsError(f"report_to {report_to} keeps its log in a folder, too; name it: log")


def open_log(
    folder: Path | None,
    report_to: ReportTo = "tensorboard",
    *,
    step: int = 0,
    settings: Mapping[str, object] | None = None,
    quiet: bool = False,
) -> AbstractContextManager[Log | None]:
    """The log of a training, which goes on at a step; nothing without a folder.

    Args:
        folder: the folder of this training's log.
        report_to: what keeps it. ``wandb`` is sent to Weights & Biases as ``WANDB_MODE`` and ``wandb login`` say: these
            numbers and the settings of the training; code, console, command line and machine are not.
        step: the first step that is to be logged; a training that is resumed goes on in the same log.
        settings: of the training, plain values; TensorBoard shows none.
        quiet: Weights & Biases prints nothing.

    Raises:
        SettingsError: the package that keeps it is missing, or Weights & Biases does not begin.
    """
    if folder is None:
        return nullcontext()
    if report_to == "wandb":
        return _WeightsAndBiases(folder, step, settings or {}, quiet)
    return _TensorBoard(folder, step)


class _TensorBoard:
    def __init__(self, folder: Path, step: int) -> None:
        try:
            tensorboard: Any = importlib.import_module("torch.utils.tensorboard")
        except ImportError as error:
            raise SettingsError('a log needs tensorboard: pip install "radapt[log]"') from error
        self._writer = tensorboard.SummaryWriter(str(folder), purge_step=step)

    def __enter__(self) -> _TensorBoard:
        return self

    def add(self, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        self._writer.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()


class _WeightsAndBiases:
    def __init__(self, folder: Path, step: int, settings: Mapping[str, object], quiet: bool) -> None:
        try:
            wandb: Any = importlib.import_module("wandb")
        except ImportError as error:
            raise SettingsError('report_to wandb needs wandb: pip install "radapt[wandb]"') from error
        folder.mkdir(parents=True, exist_ok=True)
        known = folder / _RUN
        if not step or not known.exists():
            known.write_text(uuid.uuid4().hex[:12], encoding="utf-8")
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "radapt"),
                name=os.environ.get("WANDB_NAME", folder.name),
                id=known.read_text(encoding="utf-8").strip(),
                dir=str(folder),
                config=dict(settings),
                resume="allow" if step else None,
                settings=wandb.Settings(
                    console="off",
                    disable_code=True,
                    disable_git=True,
                    host="",
                    x_disable_machine_info=True,
                    x_disable_meta=True,
                    x_disable_stats=True,
                    x_save_requirements=False,
                    silent=quiet,
                ),
            )
        except wandb.Error as error:
            reason = " ".join(str(error).split())
            raise SettingsError(
                f"wandb does not begin: {reason}; `wandb login`, or WANDB_MODE=offline to keep the log on this machine"
            ) from error

    def __enter__(self) -> _WeightsAndBiases:
        return self

    def add(self, numbers: Mapping[str, float], step: int) -> None:
        self._run.log(dict(numbers), step=step)

    def flush(self) -> None:
        """Its own process writes what it is given, and outlives this one."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run.finish(exit_code=0 if kind is None else 1)
