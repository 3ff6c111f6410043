"""What each step of a batch says of its searches, on the way from the device to the host."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, final

import torch
from torch import Tensor

from ._restarts import Job

__all__ = ["Verdict", "Verdicts"]


class Verdict(NamedTuple):
    """What a step said of one search: whether it fooled, failed or has no prospect, and its counts until then."""

    fooled: bool
    broken: bool
    hopeless: bool
    steps: int
    zeros: int


@final
class Verdicts:
    """A queue of what steps said. On a GPU their numbers are copied while the next step runs."""

    def __init__(self) -> None:
        self._sent: deque[tuple[list[Job], Tensor, torch.cuda.Event | None]] = deque()

    def send(self, jobs: list[Job], fooled: Tensor, broken: Tensor, hopeless: Tensor, *counts: Tensor) -> None:
        """Enter what a step said, one row per job."""
        columns = torch.stack([each.long() for each in (fooled, broken, hopeless, *counts)], 1)
        arrived = None
        if columns.device.type == "cuda":
            host = torch.empty(columns.shape, dtype=columns.dtype, device="cpu", pin_memory=True)
            columns = host.copy_(columns, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self._sent.append((list(jobs), columns, arrived))

    @property
    def may_wait(self) -> bool:
        """Whether the host need not read the last step's yet."""
        return bool(self._sent) and self._sent[-1][2] is not None

    def read(self, *, but: int = 0) -> Iterator[tuple[Job, Verdict]]:
        """What steps said, in their order, but for the last ones; the host waits for the device where it must."""
        while len(self._sent) > but:
            jobs, columns, arrived = self._sent.popleft()
            if arrived is not None:
                arrived.synchronize()
            for job, (fooled, broken, hopeless, steps, zeros) in zip(jobs, columns.tolist(), strict=True):
                yield job, Verdict(bool(fooled), bool(broken), bool(hopeless), steps, zeros)

    def clear(self) -> None:
        """Forget what was not read."""
        self._sent.clear()
