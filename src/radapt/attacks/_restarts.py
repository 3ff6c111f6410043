"""The restarts of every sample in their order, whatever order they end in, and what they have found."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from radapt.types import Flags, PerSample, Pixels

from ._search import Search

__all__ = ["Job", "RestartQueue"]


@final
@dataclass(eq=False)
class Job:
    """One restart of a sample, and what it has found when it ends.

    Args:
        sample, restart: which one it is.
        passes: those of its images through the model, one that came too late included.
        ended: its search is over.
        finished: it took all its steps.
        fooled: whether it has fooled the objective.
        failed: it met a loss or a gradient that is not finite.
        given_up: it was ended, as it had no prospect of success.
        audited: it had none, and went on all the same.
        best: its best point, 3 x height x width.
        value: the search's value of that, a single number.
        iterations: steps taken.
        vanished: passes whose gradient was zero.
    """

    sample: int
    restart: int
    passes: int = 0
    ended: bool = False
    finished: bool = False
    fooled: bool = False
    failed: bool = False
    given_up: bool = False
    audited: bool = False
    best: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float32, device="cpu"))
    value: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float32, device="cpu"))
    iterations: int = 0
    vanished: int = 0


class _Course:
    """How far a sample has come: restarts begun, those counted, the last that counts, and what waits to be counted."""

    def __init__(self, restarts: int) -> None:
        self.begun = self.counted = 0
        self.last = restarts - 1
        self.ended: dict[int, Job] = {}


@final
class RestartQueue:
    """Hands out jobs and puts together what they find.

    A sample's next restart follows when the one before has ended without success; when no such job waits, later
    restarts may begin ahead of their turn. Restarts count in their order up to the first that ends the sample's
    search, and what the rest found is forgotten. So a sample's result does not depend on how many of its restarts ran
    at once; its passes are those of all of them.

    Flags and counts lie on the host, one per sample; ``best`` and ``value`` with the images. ``vanished`` is of
    ``graded`` passes, those of the restarts that count.

    Args:
        search: says how many restarts there are, and whether a success ends them.
        pixels: clean images, the best points so far.
    """

    def __init__(self, search: Search, pixels: Pixels) -> None:
        self._restarts, self._stops = search.restarts, search._stops_when_fooled
        n = len(pixels)
        self.best, self.value = pixels.clone(), pixels.new_zeros(n)
        self.fooled, self.failed, self.unfinished = torch.zeros(3, n, dtype=torch.bool, device="cpu").unbind()
        self.given_up, self.audited, self.misjudged = torch.zeros(3, n, dtype=torch.bool, device="cpu").unbind()
        counts = torch.zeros(5, n, dtype=torch.long, device="cpu").unbind()
        self.iterations, self.forwards, self.backwards, self.vanished, self.graded = counts
        self._open: dict[int, _Course] = {}
        self._waiting: deque[Job] = deque()
        self.done = 0

    def begin(self, value: PerSample, fooled: Flags) -> None:
        """Enter the search's value of the clean images, and which of them fool as they are."""
        self.value, self.fooled = value.clone(), fooled.cpu()
        self.done = int((self.fooled | self.failed).sum())

    def open(self, samples: Iterable[int]) -> None:
        """Search on some samples."""
        for sample in samples:
            self._open[sample] = _Course(self._restarts)
            self._waiting.append(self._next(sample))

    def count(self, samples: Sequence[int], *, forwards: int, backwards: int = 0) -> None:
        """Enter passes through the model: so many of an image of each of these samples."""
        rows = torch.tensor(samples, dtype=torch.long, device="cpu")
        ones = torch.ones_like(rows)
        self.forwards.index_add_(0, rows, ones, alpha=forwards)
        self.backwards.index_add_(0, rows, ones, alpha=backwards)

    def take(self, *, ahead: bool) -> Job | None:
        """The next job, with ``ahead`` also one ahead of its turn; None if there is none."""
        if self._waiting:
            return self._waiting.popleft()
        if not ahead:
            return None
        left = [sample for sample, course in self._open.items() if course.begun <= course.last]
        return self._next(min(left, key=lambda sample: self._open[sample].begun)) if left else None

    def put_back(self, jobs: Sequence[Job]) -> None:
        """Jobs that must begin again."""
        self._waiting.extendleft(Job(job.sample, job.restart) for job in reversed(jobs) if self.is_needed(job))

    def is_needed(self, job: Job) -> bool:
        """Whether it still matters what a job finds: not when an earlier restart has ended its sample's search."""
        course = self._open.get(job.sample)
        return course is not None and job.restart <= course.last

    def end(self, job: Job) -> None:
        """Enter a job that has ended."""
        if not self.is_needed(job):
            return
        course = self._open[job.sample]
        course.ended[job.restart] = job
        if job.failed or (job.fooled and self._stops):
            course.last = job.restart
        while course.counted <= course.last and course.counted in course.ended:
            self._count(course.ended.pop(course.counted))
            course.counted += 1
        if course.counted > course.last:
            del self._open[job.sample]
            self.done += 1
        elif course.counted == course.begun:
            self._waiting.append(self._next(job.sample))

    def close(self, running: Iterable[Job]) -> None:
        """Time is up: samples whose search is not over keep what they have, that of running jobs included."""
        self.unfinished[list(self._open)] = True
        for job in sorted(running, key=lambda job: job.restart):
            self.end(job)
        self.done += len(self._open)
        self._open.clear()
        self._waiting.clear()

    def _next(self, sample: int) -> Job:
        course = self._open[sample]
        course.begun += 1
        return Job(sample, course.begun - 1)

    def _count(self, job: Job) -> None:
        row = job.sample
        better = job.value > self.value[row]
        if job.fooled != bool(self.fooled[row]):
            better = torch.full_like(better, job.fooled)
        self.best[row] = torch.where(better, job.best, self.best[row])
        self.value[row] = torch.where(better, job.value, self.value[row])
        for name in ("fooled", "failed", "given_up", "audited"):
            getattr(self, name)[row] |= getattr(job, name)
        self.misjudged[row] |= job.audited and job.fooled
        for name in ("iterations", "vanished"):
            getattr(self, name)[row] += getattr(job, name)
        self.graded[row] += job.iterations + (not job.finished)
