"""The most memory that is held while something runs: of an accelerator, or of this process."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = ["Peak", "watched"]

_STATUS, _FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Peak:
    """Bytes, known when the block of :func:`watched` has ended; 0 where the system does not tell."""

    size: int = 0


@contextmanager
def watched(device: torch.device) -> Iterator[Peak]:
    """Watch a block: the most that tensors on an accelerator, or else this process with all it holds, take in it.

    Linux can forget the peak of what ran before. Other systems tell the largest since the process began.
    """
    found, accelerator = Peak(), device.type != "cpu"
    counts = torch.get_device_module(device) if accelerator else None
    if counts is not None and hasattr(counts, "reset_peak_memory_stats"):
        counts.reset_peak_memory_stats(device)
    elif not accelerator:
        with suppress(OSError):
            _FORGET.write_text("5")
    yield found
    if counts is None:
        found.size = _of_process()
    elif hasattr(counts, "max_memory_allocated"):
        found.size = int(counts.max_memory_allocated(device))


def _of_process() -> int:
    with suppress(OSError):
        if match := re.search(r"^VmHWM:\s*(\d+) kB$", _STATUS.read_text(), re.MULTILINE):
            return 1024 * int(match[1])
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
