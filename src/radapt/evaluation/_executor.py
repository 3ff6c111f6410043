"""Executors: this process, or workers of Ray, on one machine or many."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, get_args

from radapt.errors import ExecutorError, SettingsError, shown
from radapt.io import expanded
from radapt.numbers import number, whole
from radapt.registry import nearest
from radapt.types import Executor

from ._plan import Request
from ._ray import RETRIES, Crew
from ._worker import Worker

__all__ = ["check_executor", "crew", "one_cluster"]

_STARTS = 2
"""Attempts at starting Ray on this machine."""
_STARTED: ContextVar[bool] = ContextVar("started", default=False)
_SHARED: ContextVar[_Hired | None] = ContextVar("shared", default=None)
_ENVIRONMENT = ("RADAPT_DATA", "RADAPT_CACHE", "HF_HUB_OFFLINE", "HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT")
"""What workers read models and data with, as this process does."""


class _Hired:
    """A Ray and its workers, until it is closed.

    Attributes:
        stack: ends the connection.
        cluster: by which connection to which they were started; where somebody has ended it since, they ended with it.
        workers: handles of the actors.
        terms: what they were started with; others are needed for anything else.
    """

    def __init__(self) -> None:
        self.stack, self.workers, self.terms = ExitStack(), list[Any](), tuple[Any, ...]()
        self.cluster = ""

    def on(self, cluster: str) -> None:
        """Forget the workers of another connection."""
        if cluster != self.cluster:
            self.workers.clear()
            self.cluster = cluster

    def dismiss(self) -> None:
        """End the workers."""
        if self.workers:
            ray: Any = importlib.import_module("ray")
            self.on(_cluster(ray))
            while self.workers:
                ray.kill(self.workers.pop())

    @contextmanager
    def open(self) -> Iterator[_Hired]:
        """Everything ends with the block."""
        with self.stack:
            try:
                yield self
            finally:
                self.dismiss()


def check_executor(
    executor: Executor,
    workers: int | None,
    resources: Mapping[str, float] | None,
    loading: Mapping[str, Any] | None = None,
) -> None:
    """That an executor can be had as it is asked for, before anything is made for it.

    Args:
        executor, workers, resources: as of :func:`radapt.evaluate`.
        loading: how models are loaded, as :func:`radapt.load` takes it.

    Raises:
        SettingsError: there is no such executor, Ray is not installed, a number is none, or a device is one that
            workers do not have.
    """
    if executor not in get_args(Executor):
        raise SettingsError(f"unknown executor {shown(executor)}{nearest(str(executor), get_args(Executor))}")
    if executor == "local" and (workers is not None or resources):
        raise SettingsError("workers and resources are those of executor='ray'; leave them out, or take it")
    if workers is not None:
        whole("workers", workers)
    for name, amount in (resources or {}).items():
        number(f"the amount of {name}", amount, 0, above=True)
    if executor == "ray" and importlib.util.find_spec("ray") is None:
        raise SettingsError('the executor ray needs Ray: pip install "radapt[ray]"')
    device, spread = (str((loading or {}).get(name) or "") for name in ("device", "device_map"))
    if executor == "ray" and ":" in device:
        raise SettingsError(
            f"Ray gives each worker devices of its own, so that {shown(device)} is not there; say "
            f"device={device.partition(':')[0]!r}, and how many workers, or which resources each takes"
        )
    if executor == "ray" and spread and not (resources or {}).get("GPU"):
        raise SettingsError(
            f"device_map={spread!r} spreads a model over the GPUs that a worker has: say how many, with "
            "resources={'GPU': 2}, say"
        )


@contextmanager
def one_cluster() -> Iterator[None]:
    """All evaluations in this block share one Ray and its workers, which the first that needs them starts."""
    with _Hired().open() as hired:
        token = _SHARED.set(hired)
        try:
            yield
        finally:
            _SHARED.reset(token)


def _cluster(ray: Any) -> str:
    """What tells this connection to a cluster from others; empty without one."""
    if not ray.is_initialized():
        return ""
    context = ray.get_runtime_context()
    return f"{context.get_node_id()}/{context.get_job_id()}"


@contextmanager
def _connected() -> Iterator[bool]:
    """Ray: the cluster that this process is connected to, or that ``RAY_ADDRESS`` names, or one of its own.

    Yields:
        Whether it was started here, so that its workers have it for themselves.
    """
    ray: Any = importlib.import_module("ray")
    if ray.is_initialized():
        yield _STARTED.get()
        return
    for left in reversed(range(_STARTS)):
        try:
            ray.init(log_to_driver=False, include_dashboard=False, logging_level="ERROR", configure_logging=False)
            break
        except Exception as error:  # a start that takes too long is a bare Exception
            ray.shutdown()
            if not left or os.environ.get("RAY_ADDRESS"):
                raise ExecutorError(_not_started(error)) from error
    token = _STARTED.set(True)
    try:
        yield True
    finally:
        _STARTED.reset(token)
        ray.shutdown()


def _not_started(error: Exception) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    if address := os.environ.get("RAY_ADDRESS"):
        return f"the cluster at RAY_ADDRESS={address} cannot be reached: {reason}; start it, or unset RAY_ADDRESS"
    return (
        f"Ray has not started: {reason} Where the machine is busy, try again later (what was measured is kept), or "
        "leave the executor out: this process measures then"
    )


@contextmanager
def crew(request: Request, workers: int | None, resources: Mapping[str, float] | None) -> Iterator[Crew]:
    """Workers on the cluster that this process is connected to, or that ``RAY_ADDRESS`` names, or on one of its own.

    Args:
        request: what is evaluated.
        workers: how many; None: as many as the cluster has room for now. Those that find no place yet join later.
        resources: what each takes (``CPU``, ``GPU``, or names of your own); None: one GPU where models are put on one,
            else one CPU. It computes with as many threads as it has CPUs.

    Raises:
        SettingsError: the cluster lacks the resources.
        ExecutorError: Ray does not start, or cannot be reached.
    """
    with ExitStack() as alone:
        hired = _SHARED.get() or alone.enter_context(_Hired().open())
        started = hired.stack.enter_context(_connected())
        ray: Any = importlib.import_module("ray")
        hired.on(_cluster(ray))
        takes = dict(resources or ({"GPU": 1} if str(request.loading.get("device", "cpu")) != "cpu" else {"CPU": 1}))
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        if "RADAPT_DATA" in environment:  # workers have a folder of their own
            environment["RADAPT_DATA"] = str(expanded(environment["RADAPT_DATA"]).absolute())
        terms = (takes, environment, workers, Path.cwd())
        try:
            if not hired.workers or hired.terms != terms:
                hired.dismiss()
                hired.workers += _workers(ray, takes, environment, workers, started)
                hired.terms = terms
            found = Crew(ray, partial(ray.get, ray.put(request)), hired.workers)  # put once: it may hold large objects
            yield found
            if _SHARED.get() is hired:  # else they end now
                found.clear()
        except BaseException:  # they may still be at it
            hired.dismiss()
            raise


def _workers(
    ray: Any, takes: Mapping[str, float], environment: Mapping[str, str], workers: int | None, started: bool
) -> list[Any]:
    """New actors on the cluster.

    Raises:
        SettingsError: the cluster lacks the resources.
    """
    there = ray.cluster_resources()
    room = _room(there, takes)
    if room < (1 if workers is None else workers):
        asked, has = ({name: each.get(name, 0) for name in takes} for each in (takes, there))
        raise SettingsError(f"{workers or 1} workers that take {asked} each do not fit: the cluster has {has}")
    others = {name: amount for name, amount in takes.items() if name not in ("CPU", "GPU")}
    actor = ray.remote(Worker).options(
        num_cpus=takes.get("CPU", 0),
        num_gpus=takes.get("GPU", 0),
        resources=others or None,
        max_restarts=-1,
        max_task_retries=RETRIES,
        runtime_env={"env_vars": dict(environment)} if environment else None,
    )
    threads = max(1, int(takes.get("CPU", 1)))
    if workers is None:  # others may be at work there
        workers = room if started else max(1, _room(ray.available_resources(), takes))
    return [actor.remote(threads, str(Path.cwd())) for _ in range(workers)]


def _room(there: Mapping[str, float], takes: Mapping[str, float]) -> int:
    """How many workers there is room for."""
    return min(int(there.get(name, 0) / amount + 1e-6) for name, amount in takes.items())
