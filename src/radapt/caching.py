"""Tensors that are made once and kept: plain ones, whatever the pass that first asks for them is part of."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial, wraps
from typing import ParamSpec, TypeVar

import torch

__all__ = ["apart", "cached"]

P = ParamSpec("P")
T = TypeVar("T")


def apart(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a function returns when it is called in a thread of its own.

    Inference mode, the fake tensors of an exporter, the transforms of ``torch.func``, autocast and a default device
    hold in the thread that entered them. A tensor that is made there carries them into every later pass that uses it; a
    tensor that is made here does not.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function, *args, **kwargs).result()


def cached(maxsize: int) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Keep what a function of hashable arguments returns; it is called :func:`apart`.

    A compiler takes what it returns as a constant. Safe under threads: two that ask at once may both make it.

    Args:
        maxsize: number of results that are kept, the last ones used.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        keep: Callable[..., T] = lru_cache(maxsize)(partial(apart, function))

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return keep(*args, **kwargs)

        constant: Callable[P, T] = torch.compiler.assume_constant_result(call)
        return constant

    return decorate
