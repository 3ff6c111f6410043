"""Ray: workers that hold the models and measure chunks, on one machine or many; this process alone writes."""

from __future__ import annotations

import importlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import torch

from radapt.errors import CheckError, RadaptError, SettingsError
from radapt.io import expanded
from radapt.numbers import number
from radapt.results import Sample
from radapt.text import one_line

from ._bench import Bench
from ._candidates import Models
from ._ledger import Chunk, Ledger
from ._plan import Request
from ._units import Checked, Measured, Unit

__all__ = ["Crew", "crew"]

_RETRIES = 3
"""How often a chunk whose worker died is tried again."""
_ENVIRONMENT = ("RADAPT_DATA", "RADAPT_CACHE", "HF_HUB_OFFLINE", "HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT")
"""What workers read models and data with, as this process does."""


_Asked = tuple[int, str]
"""Number and identity of a unit: its samples' hashes are many, and do not go with every message."""


class _Job(NamedTuple):
    """A chunk of some units that share their attacked images, or, without one, the checks of a unit."""

    units: tuple[Unit, ...]
    chunk: Chunk | None
    deaths: int = 0


class _Waiting(NamedTuple):
    """A job, and the chunks of clean results, by the key of their setting, that it waits for."""

    job: _Job
    needs: set[tuple[str, Chunk]]


class _Worker:
    """One process of Ray, with models and data of its own."""

    def __init__(self, request: Request, threads: int) -> None:
        torch.set_num_threads(threads)
        self._request = request

    @cached_property
    def _bench(self) -> Bench:
        return Bench(self._request, Models(self._request.loading))

    def units(self) -> list[Unit]:
        return self._bench.units()

    def measure(self, asked: Sequence[_Asked], chunk: Chunk, clean: Sequence[Sequence[Sample]]) -> list[Measured]:
        units = [self._own(each) for each in asked]
        found = [self._bench.measure(unit, chunk, each) for unit, each in zip(units, clean, strict=True)]
        self._bench.forget()  # all units that share these images were here
        return found

    def check(self, asked: _Asked, scores: Mapping[int, float]) -> Checked:
        return self._bench.check(self._own(asked), scores)

    def _own(self, asked: _Asked) -> Unit:
        """The unit that is asked for, as it is planned here.

        Raises:
            CheckError: models or data here are not those that the evaluation was planned with.
        """
        number, identity = asked
        units = self._bench.units()
        if number >= len(units) or units[number].identity != identity:
            what = units[number] if number < len(units) else f"result {number + 1}"
            raise CheckError(
                f"{what}: the models or the data here are not those that the evaluation was planned with; give every "
                "process the same files and versions"
            )
        return units[number]


class Crew:
    """Workers that measure an evaluation together.

    Args:
        ray: the package.
        workers: handles of the actors.
    """

    def __init__(self, ray: Any, workers: Sequence[Any]) -> None:
        self._ray, self._workers = ray, workers

    def units(self) -> list[Unit]:
        """What the evaluation consists of, as a worker plans it: no model is loaded here.

        Raises:
            RadaptError: as of :func:`radapt.evaluate`.
        """
        units: list[Unit] = self._got(self._workers[0].units.remote())
        return units

    def run(self, units: Sequence[Unit], ledger: Ledger, advance: Callable[[Unit, int], None]) -> None:
        """Measure what is left, each chunk on whichever worker is free, after the clean samples that it needs.

        Raises:
            RadaptError: as of a worker.
            CheckError: workers died again and again on some chunks; all others are measured.
        """
        ready, waiting = self._jobs(units, ledger)
        for unit in units:
            advance(unit, len(unit.digests) - ledger.left(unit))
        ready.extendleft(_Job((unit,), None) for unit in units if ledger.due(unit))
        idle, running, lost = deque(self._workers), dict[Any, tuple[Any, _Job]](), list[str]()
        errors = self._ray.exceptions
        while running or (ready and idle):
            while ready and idle:
                worker, job = idle.popleft(), ready.popleft()
                running[self._sent(worker, job, ledger)] = worker, job
            (done,), _ = self._ray.wait(list(running), num_returns=1)
            worker, job = running.pop(done)
            try:
                found = self._got(done)
            except errors.RayTaskError:
                raise  # a fault, not a death
            except errors.ActorDiedError as error:  # and will not come back: another one takes the job
                if job.deaths < _RETRIES:
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
                continue
            for unit, measured in zip(job.units, found, strict=True):
                ledger.store(unit, job.chunk, measured)
                advance(unit, len(job.chunk))
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

    @staticmethod
    def _sent(worker: Any, job: _Job, ledger: Ledger) -> Any:
        """Give a job to a worker."""
        asked = [(unit.number, unit.identity) for unit in job.units]
        if job.chunk is None:
            return worker.check.remote(asked[0], ledger.scores(job.units[0]))
        return worker.measure.remote(asked, job.chunk, [ledger.clean(unit, job.chunk) for unit in job.units])

    def _got(self, reference: Any) -> Any:
        """What a worker gives back.

        Raises:
            Exception: what it raised, as it would have been raised here.
        """
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise (cause if isinstance(cause, RadaptError) else error) from None


@contextmanager
def crew(request: Request, workers: int | None, resources: Mapping[str, float] | None) -> Iterator[Crew]:
    """Workers on the cluster that this process is connected to, or that ``RAY_ADDRESS`` names, or on one of its own.

    Args:
        request: what is evaluated.
        workers: how many; None: as many as the cluster has room for.
        resources: what each takes (``CPU``, ``GPU``, or names of your own); None: one GPU where models are put on one,
            else one CPU. It computes with as many threads as it has CPUs.

    Raises:
        SettingsError: Ray is not installed, an amount is none, or the cluster lacks the resources.
    """
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as error:
        raise SettingsError('the executor ray needs Ray: pip install "radapt[ray]"') from error
    for name, amount in (resources or {}).items():
        number(f"the amount of {name}", amount, 0, above=True)
    takes = dict(resources or ({"GPU": 1} if str(request.loading.get("device", "cpu")) != "cpu" else {"CPU": 1}))
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, include_dashboard=False, logging_level="ERROR", configure_logging=False)
    actors = list[Any]()
    try:
        there = ray.cluster_resources()
        room = min(int(there.get(name, 0) / amount + 1e-6) for name, amount in takes.items())
        if room < (1 if workers is None else workers):
            asked, has = ({name: each.get(name, 0) for name in takes} for each in (takes, there))
            raise SettingsError(f"{workers or 1} workers that take {asked} each do not fit: the cluster has {has}")
        others = {name: amount for name, amount in takes.items() if name not in ("CPU", "GPU")}
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        if "RADAPT_DATA" in environment:  # workers have a folder of their own
            environment["RADAPT_DATA"] = str(expanded(environment["RADAPT_DATA"]).absolute())
        actor = ray.remote(_Worker).options(
            num_cpus=takes.get("CPU", 0),
            num_gpus=takes.get("GPU", 0),
            resources=others or None,
            max_restarts=-1,
            max_task_retries=_RETRIES,
            runtime_env={"env_vars": environment} if environment else None,
        )
        threads = max(1, int(takes.get("CPU", 1)))
        actors += [actor.remote(request, threads) for _ in range(room if workers is None else workers)]
        yield Crew(ray, actors)
    finally:
        for each in actors:
            ray.kill(each)
        if started:
            ray.shutdown()
