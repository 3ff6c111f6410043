"""Tensors that are made once and kept: plain ones, whatever the pass that first asks for them is part of."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial, wraps
from typing import ParamSpec, TypeVar

import torch

__all__ = ["apart", "cached"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


def apart(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """What a function returns when it is called in a thread of its own.

    Inference mode, the fake tensors of an exporter, the transforms of ``torch.func``, autocast and a default device
    hold in the thread that entered them. A tensor that is made there carries them into every later pass that uses it; a
    tensor that is made here does not.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function, *args, **kwargs).result()


def cached(maxsize: int) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Keep what a function of hashable arguments returns; it is called :func:`apart`.

    A compiler keeps nothing: it makes the function a part of what it compiles. Safe under threads: two that ask at once
    may both make it.

    Args:
        maxsize: number of results that are kept, the last ones used.
    """

    def decorate(function: Callable[_P, _T]) -> Callable[_P, _T]:
        keep: Callable[..., _T] = lru_cache(maxsize)(partial(apart, function))

        @wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            return function(*args, **kwargs) if torch.compiler.is_dynamo_compiling() else keep(*args, **kwargs)

        return call

    return decorate
