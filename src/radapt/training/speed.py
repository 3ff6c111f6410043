"""How many steps of a training fit into a given time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from radapt.numbers import number

from .distributed import workers
from .fit import fit
from .schedule import Dual, Schedule

__all__ = ["steps_within"]

_SECONDS = 2.0
_FIRST = 4


def steps_within(
    minutes: float,
    parameters: Mapping[str, Tensor],
    loss: Callable[[int], Tensor],
    schedule: Schedule,
    *,
    dual: Dual | None = None,
    cycle: int = 1,
) -> int:
    """How many steps of :func:`fit` fit into so many minutes, by the time that some steps take here.

    The parameters are what they were afterwards. Checkpoints and loading are not counted.

    Args:
        minutes: the time.
        parameters, loss, schedule, dual: as for :func:`fit`; the number of steps of the schedule does not matter.
        cycle: the number of steps after which their work is the same again; whole cycles are measured.

    Raises:
        SettingsError: the time is no number above 0.
        CheckError: the loss or its gradient is not finite.
    """
    number("minutes", minutes, 0, 10**5, above=True)
    tensors = [*parameters.values(), *({} if dual is None else dual.parameters).values()]
    before = [tensor.detach().clone() for tensor in tensors]
    first = _FIRST * cycle
    steps, seconds = first, 0.0
    try:
        # The first steps wait for the device to begin, and do not count.
        while steps <= 2 * first or seconds < min(_SECONDS, 6 * minutes):
            tried = replace(schedule, steps=steps, lr=1e-6)
            start = time.perf_counter()
            fit(parameters, loss, tried, dual=dual, label="how fast it is", every=steps, look=steps, quiet=True)
            seconds, counted = _shared(time.perf_counter() - start), steps
            steps *= 2
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
    return max(1, int(60 * minutes * counted / seconds))


def _shared(seconds: float) -> float:
    """The mean time over the processes of a training, so that all of them count alike."""
    group = workers()
    mean = torch.tensor([seconds], dtype=torch.float64, device=group.device or "cpu")
    group.average([mean])
    return float(mean)
