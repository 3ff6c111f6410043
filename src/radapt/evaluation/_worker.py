"""What a worker of Ray does: measure chunks and make checks, with models and data of its own."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, NamedTuple

import torch

from radapt.errors import CheckError
from radapt.results import Sample

from ._bench import Bench
from ._candidates import Models
from ._ledger import Chunk
from ._plan import Request
from ._units import Checked, Measured, Unit

__all__ = ["Asked", "Told", "Worker"]

Asked = tuple[int, str]
"""Number and identity of a unit: its samples' hashes are many, and do not go with every message."""


class Told(NamedTuple):
    """What a worker found, and what it warned of meanwhile."""

    found: Any
    warned: list[tuple[type[Warning], str]]


class Worker:
    """One process.

    Args:
        threads: that it computes with.
        folder: that paths are relative to, where it is there.
    """

    _request: Callable[[], Request]

    def __init__(self, threads: int, folder: str) -> None:
        torch.set_num_threads(threads)
        with suppress(OSError):
            os.chdir(folder)

    def do(self, request: Callable[[], Request], what: str, *given: Any) -> Told:
        """Call one of the methods below by name.

        Args:
            request: gives what is evaluated; it comes with every call, for the worker may be a new one in the place of
                one that died.
            what: name of the method.
            given: what it takes.
        """
        self._request = request
        with warnings.catch_warnings(record=True) as caught:
            found = getattr(self, what)(*given)
        kinds = (each.category if each.category.__module__ == "builtins" else UserWarning for each in caught)
        return Told(found, [(kind, str(each.message)) for kind, each in zip(kinds, caught, strict=True)])

    def clear(self) -> None:
        """Drop what an evaluation left, models first of all; whoever answers has a place on the cluster."""
        vars(self).pop("_bench", None)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def units(self) -> list[Unit]:
        """All units of the evaluation."""
        return self._bench.units()

    def measure(self, asked: Sequence[Asked], chunk: Chunk, clean: Sequence[Sequence[Sample]]) -> list[Measured]:
        """Measure a chunk of some units that share their attacked images."""
        units = [self._own(each) for each in asked]
        found = [self._bench.measure(unit, chunk, each) for unit, each in zip(units, clean, strict=True)]
        self._bench.forget()  # all units that share these images were here
        return found

    def check(self, asked: Asked, scores: Mapping[int, float]) -> Checked:
        """Make the checks of a unit."""
        return self._bench.check(self._own(asked), scores)

    @cached_property
    def _bench(self) -> Bench:
        request = self._request()
        return Bench(request, Models(request.loading))

    def _own(self, asked: Asked) -> Unit:
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
