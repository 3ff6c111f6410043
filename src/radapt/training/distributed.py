"""The processes that share a training: those that ``accelerate launch`` started, or this one alone."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from radapt.errors import SettingsError

__all__ = ["Workers", "workers"]


@dataclass(frozen=True)
class Workers:
    """The processes of a training, as one of them sees them.

    Args:
        count: how many there are.
        rank: the number of this one, from 0.
        device: its own device; None where the process is alone, and may choose.
    """

    count: int = 1
    rank: int = 0
    device: torch.device | None = None

    @property
    def main(self) -> bool:
        """Whether this is the process that shows, saves and logs."""
        return self.rank == 0

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors, in place, by their means over the processes."""
        if self.count == 1:
            return
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor /= self.count

    def wait(self) -> None:
        """Go on when all processes have come here."""
        if self.count > 1:
            dist.barrier()


def workers() -> Workers:
    """The processes of this training; the first call connects them.

    Raises:
        SettingsError: there are several, but Accelerate is missing.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Workers()
    try:
        accelerate: Any = importlib.import_module("accelerate")
    except ImportError as error:
        raise SettingsError('training in several processes needs accelerate: pip install "radapt[large]"') from error
    # Without being told, Accelerate takes each of several processes on a CPU for the only one.
    state = accelerate.PartialState(cpu=not torch.accelerator.is_available())
    device = torch.device("cpu") if state.device.type == "cpu" else state.device
    return Workers(state.num_processes, state.process_index, device)
