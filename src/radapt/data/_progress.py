"""A progress bar for datasets that take seconds to read."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from radapt.text import one_line

__all__ = ["counted", "reading", "told"]

_T = TypeVar("_T")
_AFTER = 2.0
"""Seconds until a bar is shown: what is faster needs none."""
_TOLD: ContextVar[bool] = ContextVar("told", default=False)


@contextmanager
def reading(quiet: bool) -> Iterator[None]:
    """What is read in this block shows its progress, on a terminal, unless it shall be quiet."""
    token = _TOLD.set(not quiet)
    try:
        yield
    finally:
        _TOLD.reset(token)


def told() -> bool:
    """Whether progress is shown: somebody wants it, and standard error is a terminal."""
    return _TOLD.get() and Console(stderr=True).is_terminal


def counted(things: Iterable[_T], total: int | None, label: str, *, size: int = 1) -> Iterator[_T]:
    """The things, one by one, with a bar and the time that is left once they take more than two seconds.

    Args:
        things: what is read.
        total: how many samples there are in all, where that is known.
        label: what the bar says.
        size: samples in each of the things.
    """
    started, shown = time.monotonic(), told()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with ExitStack() as stack:
        bars: Progress | None = None
        for at, thing in enumerate(things):
            yield thing
            if shown and bars is None and time.monotonic() - started > _AFTER:
                bars = stack.enter_context(Progress(*columns, console=Console(stderr=True), transient=True))
                bars.add_task(escape(one_line(label)), total=total)
            if bars is not None:
                done = (at + 1) * size
                bars.update(bars.task_ids[0], completed=done if total is None else min(done, total))
