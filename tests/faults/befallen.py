"""Faults that a process brings upon itself: real limits, real files, and errors where libraries raise them."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

__all__ = [
    "after_commit",
    "at_pass",
    "closed",
    "counted",
    "cut",
    "environment",
    "jumping_clock",
    "no_room",
    "removed",
    "replaced",
    "unprivileged",
]


def after_commit(number: int, what: Callable[..., None], *given: Any) -> None:
    """Do something once so many chunks are in the results file."""
    from radapt.results import Results

    add, left = Results.add, [number]

    def adding(*these: Any, **named: Any) -> None:
        add(*these, **named)
        left[0] -= 1
        if not left[0]:
            what(*given)

    Results.add = adding  # type: ignore[method-assign]


def counted(log: str) -> None:
    """Write down how many samples are measured, chunk by chunk."""
    from radapt.results import Results

    add = Results.add

    def adding(self: Results, setting: Any, samples: Any, **named: Any) -> None:
        with Path(log).open("a") as stream:
            stream.write(f"{len(samples)}\n")
        add(self, setting, samples, **named)

    Results.add = adding  # type: ignore[method-assign]


def at_pass(number: int, kind: str, once: bool) -> None:
    """Let the memory end in one pass of the model, or from it on, as Python, CUDA or the CPU's allocator say it."""
    from radapt.models import DualEncoder

    encode, left = DualEncoder.encode_image, [number]

    def encoding(self: Any, pixels: Any) -> Any:
        left[0] -= 1
        if left[0] == 0 or (left[0] < 0 and not once):
            _without_memory(kind)
        return encode(self, pixels)

    DualEncoder.encode_image = encoding  # type: ignore[method-assign]


def _without_memory(kind: str) -> None:
    if kind == "python":
        raise MemoryError
    if kind == "cuda":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))
    torch.empty(1 << 34)


def no_room(folder: str) -> None:
    """No file may grow beyond the largest one of a folder: every disk is full for this process."""
    largest = max((file.stat().st_size for file in Path(folder).iterdir()), default=0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def unprivileged() -> None:
    """Let permissions hold for root, too: without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
    system = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    assert system.capget(header, sets) == 0, os.strerror(ctypes.get_errno())
    for at in range(3):
        sets[at] &= ~0b110
    assert system.capset(header, sets) == 0, os.strerror(ctypes.get_errno())


def closed(folder: str) -> None:
    Path(folder).chmod(0o555)


def removed(file: str) -> None:
    Path(file).unlink()


def replaced(file: str, other: str) -> None:
    Path(other).replace(file)


def cut(file: str) -> None:
    """Lose the second half of a file."""
    os.truncate(file, os.path.getsize(file) // 2)  # noqa: PTH202


def environment(name: str, value: str) -> None:
    os.environ[name] = value


def jumping_clock(seed: int) -> None:
    """The clock of the wall jumps by up to ten days, forwards and back, whenever it is read."""
    clock, numbers = time.time, random.Random(seed)
    time.time = lambda: clock() + numbers.uniform(-1, 1) * 864_000
