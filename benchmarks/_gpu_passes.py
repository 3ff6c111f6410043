"""A forward pass with its gradient, run in several ways: as it is, compiled, and as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from _gpu_measure import GIB, Bench
from _gpu_models import Subject
from torch import Tensor


def passes(bench: Bench, subject: Subject, way: str) -> dict[str, Any]:
    """Median time of a forward pass with its gradient, as it is run or as a compiler or a CUDA graph runs it."""
    images = subject.images
    leaf = images.clone().requires_grad_(True)

    def gradient() -> Tensor:
        logits = subject.vlm.logits(leaf, subject.steady)
        return torch.autograd.grad(logits.square().sum(), leaf)[0]

    expected = gradient().clone()
    setup = 0.0
    with _changed(bench, subject, way):
        if way == "CUDA graph":
            if bench.device.type != "cuda":
                return {"skipped": "a CPU has no CUDA graphs"}
            replay, setup = bench.timed(lambda: _captured(gradient))
            found = replay()
            seconds = bench.median(replay)
        else:
            found, setup = bench.timed(gradient)
            seconds = bench.median(gradient, *((2, 0) if bench.tiny else ()))
    close = F.cosine_similarity(found.flatten().float(), expected.flatten().float(), 0)
    done = len(images) * (subject.forward + subject.backward)
    rate = 100 * done / seconds / 1e12 / bench.rate(subject.dtype)
    row: dict[str, Any] = {"batch": len(images), "first_seconds": round(setup, 2), "seconds": round(seconds, 5)}
    if bench.device.type == "cuda":
        row["allocated_gib"] = round(torch.cuda.memory_allocated() / GIB, 3)
    return {**row, "rate_percent": round(rate, 1), "cosine_with_eager": round(float(close), 6)}


@contextmanager
def _changed(bench: Bench, subject: Subject, way: str) -> Iterator[None]:
    """The blocks of a tower compiled for a while: they share one graph, so that it is made once."""
    if not way.endswith("blocks"):
        yield
        return
    blocks: list[Any] = list(subject.vlm.tower.blocks)
    settings: dict[str, Any] = {"mode": "max-autotune-no-cudagraphs"} if way == "autotuned blocks" else {}
    torch.compiler.reset()
    for block in blocks:
        block.compile(**({"backend": "aot_eager"} if bench.tiny else settings))
    try:
        yield
    finally:
        for block in blocks:
            block._compiled_call_impl = None


def _captured(gradient: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """A CUDA graph of a pass; what it returns is written over by the next replay."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            gradient()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = gradient()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay
