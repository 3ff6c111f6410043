"""What the parts of `gpu.py` measure with: clocks of the device, its rate, the work of a pass, and rows of a table."""

from __future__ import annotations

import gc
import json
import statistics
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

T = TypeVar("T")
GIB = 2**30
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass
class Bench:
    """The device, whether all is tiny, and until when there is time; what is measured goes out row by row."""

    device: torch.device
    tiny: bool
    deadline: float
    failed: bool = False
    rates: dict[str, float] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds until time is up."""
        return self.deadline - time.monotonic()

    def emit(self, row: dict[str, Any]) -> None:
        """A line of JSON on the standard output."""
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()

    def attempt(self, what: dict[str, Any], run: Callable[[], dict[str, Any]], needs: float = 0.0) -> None:
        """Add what `run` finds to a row; an error is a row, too, and what would take longer than is left is skipped."""
        if self.left < needs:
            self.emit({**what, "skipped": f"{self.left:.0f} s left, {needs:.0f} s needed"})
            return
        start = time.monotonic()
        try:
            found = run()
        except Exception as error:
            self.failed = True
            text = f"{type(error).__name__}: {error}"[:2000]
            found = {"error": text, "traceback": traceback.format_exc()[-6000:]}
        self.emit({**what, **found, "took": round(time.monotonic() - start, 2)})
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def wait(self) -> None:
        """Until the device has done all it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def mark(self) -> Any:
        """A point in the device's time."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, first: Any, second: Any) -> float:
        """Seconds between two points that the device has passed."""
        return second - first if isinstance(first, float) else first.elapsed_time(second) / 1e3

    def timed(self, run: Callable[[], T]) -> tuple[T, float]:
        """What a function returns, and its wall clock, the device's work included."""
        self.wait()
        start = time.perf_counter()
        found = run()
        self.wait()
        return found, time.perf_counter() - start

    def median(self, run: Callable[[], object], rounds: int = 10, warm: int = 3) -> float:
        """Median seconds of the device for a function."""
        times = []
        for turn in range(warm + rounds):
            first = self.mark()
            run()
            second = self.mark()
            self.wait()
            if turn >= warm:
                times.append(self.between(first, second))
        return statistics.median(times)

    @contextmanager
    def memory(self) -> Iterator[dict[str, float]]:
        """Peak of the device's memory within a ``with`` block, in GiB; nothing on a CPU."""
        found: dict[str, float] = {}
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        yield found
        if self.device.type == "cuda":
            found["peak_gib"] = round(torch.cuda.max_memory_allocated(self.device) / GIB, 3)

    def rate(self, dtype: str) -> float:
        """TFLOP/s of a square matrix product of this type, measured once: what the card gives, not what its maker says.

        Torch's own default for float32: no TF32.
        """
        if dtype not in self.rates:
            size = 64 if self.tiny else 8192
            a, b = (torch.randn(size, size, device=self.device).to(DTYPES[dtype]) for _ in range(2))
            self.rates[dtype] = 2 * size**3 / self.median(lambda: a @ b) / 1e12
        return self.rates[dtype]

    def busy(self, run: Callable[[], object]) -> dict[str, Any]:
        """Seconds in which the device had work while a function ran, and what it spent them on; nothing on a CPU."""
        if self.device.type != "cuda":
            run()
            return {}
        self.wait()
        with profile(activities=[ProfilerActivity.CUDA]) as watched:
            run()
            self.wait()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            watched.export_chrome_trace(str(path))
            events = json.loads(path.read_text())["traceEvents"]
        spans = [each for each in events if each.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
        return busy_of([(each["ts"], each["ts"] + each["dur"], each["name"]) for each in spans])


def busy_of(spans: list[tuple[float, float, str]]) -> dict[str, Any]:
    """The length of the union of spans of microseconds, the names that fill it, and which attention is among them."""
    total, until, names = 0.0, float("-inf"), Counter[str]()
    for first, last, name in sorted(spans):
        total += max(0.0, last - max(first, until))
        until = max(until, last)
        names[name] += last - first
    whole = sum(names.values()) or 1.0
    attention = [name for name in names if any(word in name.lower() for word in ("flash", "fmha", "attention"))]
    return {
        "busy_seconds": total / 1e6,
        "kernels": len(spans),
        "longest": {name[:120]: round(100 * each / whole, 1) for name, each in names.most_common(8)},
        "attention": sorted({name[:120] for name in attention}),
    }


def work(run: Callable[[], object]) -> float:
    """Floating-point operations of a function's matrix products and attentions."""
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())
