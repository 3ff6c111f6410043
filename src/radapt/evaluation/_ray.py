"""Workers of Ray that measure an evaluation together; this process alone writes."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from radapt.errors import CheckError, RadaptError
from radapt.text import one_line

from ._ledger import Chunk, Ledger
from ._plan import Request
from ._units import Unit
from ._worker import Told

__all__ = ["RETRIES", "Crew"]

RETRIES = 3
"""How often a chunk whose worker died is tried again."""
_PATIENCE = 30.0
"""Seconds after which it is told that no worker has a place."""


class _Job(NamedTuple):
    """A chunk of some units that share their attacked images, or, without one, the checks of a unit."""

    units: tuple[Unit, ...]
    chunk: Chunk | None
    deaths: int = 0


class _Waiting(NamedTuple):
    """A job, and the chunks of clean results, by the key of their setting, that it waits for."""

    job: _Job
    needs: set[tuple[str, Chunk]]


class Crew:
    """Workers that measure an evaluation together.

    Args:
        ray: the package.
        request: gives workers what is evaluated.
        workers: handles of the actors.
    """

    def __init__(self, ray: Any, request: Callable[[], Request], workers: Sequence[Any]) -> None:
        self._ray, self._request, self._told = ray, request, set[tuple[type[Warning], str]]()
        self._coming = {worker.do.remote(request, "clear"): worker for worker in workers}
        self._idle = deque[Any]()

    def clear(self) -> None:
        """Let the workers drop their models: this process may want the memory before they are asked again."""
        asked = [worker.do.remote(self._request, "clear") for worker in self._idle]
        if asked:
            self._ray.wait(asked, num_returns=len(asked), timeout=_PATIENCE)  # one that died has dropped them, too

    def units(self) -> list[Unit]:
        """What the evaluation consists of, as a worker plans it: no model is loaded here.

        Raises:
            RadaptError: as of :func:`radapt.evaluate`.
        """
        while not self._idle:
            if done := self._ray.wait(list(self._coming), timeout=_PATIENCE)[0]:
                self._arrived(done[0])
                continue
            free = {name: amount for name, amount in self._ray.available_resources().items() if ":" not in name}
            text = f"no worker has a place on the cluster yet, of which {free} is free; waiting, which Ctrl-C ends"
            self._warn([(RuntimeWarning, text)])
        units: list[Unit] = self._got(self._idle[0].do.remote(self._request, "units"))
        return units

    def _arrived(self, reference: Any) -> None:
        """A worker has a place on the cluster.

        Raises:
            CheckError: it could not begin, and nobody else is left.
        """
        worker = self._coming.pop(reference)
        try:
            self._got(reference)
        except self._ray.exceptions.ActorDiedError as error:
            if not self._coming and not self._idle:
                raise CheckError(f"no worker could begin: {one_line(error)[:500]}") from error
        else:
            self._idle.append(worker)

    def run(self, units: Sequence[Unit], ledger: Ledger, advance: Callable[[Unit, int, float | None], None]) -> None:
        """Measure what is left, each chunk on whichever worker is free, after the clean samples that it needs.

        Raises:
            RadaptError: as of a worker.
            CheckError: workers died again and again on some chunks; all others are measured.
        """
        try:
            self._measure(units, ledger, advance)
        finally:  # however it ends, nothing is lost that is measured
            for unit in units:
                ledger.given_up(unit)

    def _measure(
        self, units: Sequence[Unit], ledger: Ledger, advance: Callable[[Unit, int, float | None], None]
    ) -> None:
        ready, waiting = self._jobs(units, ledger)
        for unit in units:
            advance(unit, len(unit.digests) - ledger.left(unit), None)
        ready.extendleft(_Job((unit,), None) for unit in units if ledger.due(unit))
        idle, running, lost = self._idle, dict[Any, tuple[Any, _Job]](), list[str]()
        errors = self._ray.exceptions
        while running or (ready and (idle or self._coming)):
            while ready and idle:
                worker, job = idle.popleft(), ready.popleft()
                running[self._sent(worker, job, ledger)] = worker, job
            (done,), _ = self._ray.wait([*running, *self._coming], num_returns=1)
            if done in self._coming:
                self._arrived(done)
                continue
            worker, job = running.pop(done)
            try:
                found = self._got(done)
            except errors.RayTaskError:
                raise  # a fault, not a death
            except errors.ActorDiedError as error:  # and will not come back: another one takes the job
                if job.deaths < RETRIES:
                    ready.appendleft(job._replace(deaths=job.deaths + 1))
                else:
                    lost.append(self._lost(job, error, ledger))
                continue
            except errors.RayError as error:
                lost.append(self._lost(job, error, ledger))
                idle.append(worker)
                continue
            idle.append(worker)
            if job.chunk is None:
                ledger.checked(job.units[0], found)
                advance(job.units[0], 0, found.seconds)
                continue
            for unit, measured in zip(job.units, found, strict=True):
                ledger.store(unit, job.chunk, measured)
                advance(unit, len(job.chunk), measured.seconds)
                if ledger.due(unit):  # first of all: what it completes is committed with it
                    ready.appendleft(_Job((unit,), None))
            ready += self._released(waiting, job)
        if lost or ready or waiting:
            rest = len(ready) + len(waiting)
            untried = f", and {rest} more were not tried" if rest else ""
            raise CheckError(
                f"workers died again and again on {len(lost)} chunks or checks{untried}; all else is measured. "
                f"{lost[0] if lost else 'No worker is left'}. Run the same command again, with fewer images per pass "
                "(batch_size) if memory ran out"
            )

    @staticmethod
    def _lost(job: _Job, error: Exception, ledger: Ledger) -> str:
        """Keep what is measured of a job that could not be done, and say which it is."""
        if job.chunk is None:
            ledger.given_up(job.units[0])
        return f"{job.units[0]} ({one_line(error)[:200]})"

    @staticmethod
    def _jobs(units: Sequence[Unit], ledger: Ledger) -> tuple[deque[_Job], list[_Waiting]]:
        """Chunks that can be measured now, and those that wait for clean samples."""
        missing = {
            (unit.setting.key, chunk) for unit in units if unit.clean is None for chunk in ledger.todo[unit.number]
        }
        groups: dict[tuple[object, Chunk], list[Unit]] = {}
        for unit in units:
            for chunk in ledger.todo[unit.number]:
                groups.setdefault((unit.shared or unit.number, chunk), []).append(unit)
        ready, waiting = deque[_Job](), list[_Waiting]()
        for (_, chunk), own in groups.items():
            job = _Job(tuple(own), chunk)
            needs = {(unit.clean.key, chunk) for unit in own if unit.clean is not None} & missing
            if needs:
                waiting.append(_Waiting(job, needs))
            else:
                ready.append(job)
        return ready, waiting

    @staticmethod
    def _released(waiting: list[_Waiting], done: _Job) -> Iterator[_Job]:
        """The jobs that waited for this one alone."""
        if done.chunk is None or done.units[0].clean is not None:
            return
        for each in waiting:
            each.needs.discard((done.units[0].setting.key, done.chunk))
        yield from (each.job for each in waiting if not each.needs)
        waiting[:] = [each for each in waiting if each.needs]

    def _sent(self, worker: Any, job: _Job, ledger: Ledger) -> Any:
        """Give a job to a worker."""
        asked = [(unit.number, unit.identity) for unit in job.units]
        if job.chunk is None:
            return worker.do.remote(self._request, "check", asked[0], ledger.scores(job.units[0]))
        clean = [ledger.clean(unit, job.chunk) for unit in job.units]
        return worker.do.remote(self._request, "measure", asked, job.chunk, clean)

    def _got(self, reference: Any) -> Any:
        """What a worker gives back; what it warned of, is warned of here, each once.

        Raises:
            Exception: what it raised, as it would have been raised here.
        """
        try:
            told: Told = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise (cause if isinstance(cause, RadaptError) else error) from None
        self._warn(told.warned)
        return told.found

    def _warn(self, given: Sequence[tuple[type[Warning], str]]) -> None:
        for kind, text in given:
            if (kind, text) not in self._told:
                self._told.add((kind, text))
                warnings.warn(text, kind, stacklevel=4)
