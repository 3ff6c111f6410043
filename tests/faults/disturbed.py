"""One small evaluation as a process of its own, what may befall it, and what it has stored.

The processes are forked from one that has imported the library already, so that each takes a second or two, most of it
measuring.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radapt.errors import RadaptError
from radapt.results import Results

__all__ = ["CANDIDATES", "TOTAL", "Ended", "Fault", "Rows", "Run", "figures", "rows", "run", "start"]

CANDIDATES = ("CLIP=micro/clip", "R-Adapt=micro/clip+micro/r-adapt-plus-static")
IMAGES = 6
TOTAL = 2 * IMAGES + 2 * 2 * IMAGES + 2 * IMAGES
"""Samples of two clean results, two attacks white-box on both candidates, and by transfer on the second."""
SETTINGS = ("--attack", "pgd,square", "--option", "steps=2", "--n", str(IMAGES), "--no-sanity")
CHUNK = ("--chunk-size", "2")

Fault = tuple[Callable[..., None], Sequence[Any]]
"""What the process does to itself before it begins: a function of a module, and its arguments."""
Rows = dict[tuple[str, int], object]

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["tests.faults.preloaded"])


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    code: int
    told: str


@dataclass(frozen=True)
class Run:
    """A run that goes on."""

    process: Any
    output: Path

    def ended(self, within: float = 300) -> Ended:
        """Wait for its end."""
        self.process.join(within)
        assert self.process.exitcode is not None, "it hangs"
        return Ended(self.process.exitcode, self.output.read_text(errors="replace"))


def start(results: Path, *more: str, faults: Sequence[Fault] = (), data: str = "shapes", quiet: bool = True) -> Run:
    """Begin the evaluation, or go on with it."""
    root = str(Path(__file__).parents[2])
    if root not in sys.path:
        sys.path.append(root)  # the forked process looks for the faults there
    output = results.with_name(f"{results.name}.told")
    words = ["evaluate", *CANDIDATES, "--data", data, *SETTINGS, *CHUNK, "--results", str(results), *more]
    given = (words + ["--quiet"] * quiet, str(output), list(faults))
    process = _processes.Process(target=_begin, args=given)
    process.start()
    return Run(process, output)


def run(results: Path, *more: str, **how: Any) -> Ended:
    """The whole evaluation, or what is left of it."""
    return start(results, *more, **how).ended()


def _begin(words: list[str], output: str, faults: list[Fault]) -> None:
    from radapt.cli.main import app

    stream = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    for fault, given in faults:
        fault(*given)
    app(words)


def rows(file: Path) -> Rows:
    """Every sample that a results file holds, by setting and position, and every image; none without a file."""
    found: Rows = {}
    with suppress(RadaptError), Results(file, read_only=True) as results:
        for result in results.all(checks=True):
            key = result.setting.key
            if result.main:
                found |= {(key, sample.position): sample for sample in results.samples(result.setting)}
                found |= {(key, -1 - each.position): each for each in results.examples(result.setting)}
    return found


def figures(file: Path) -> list[object]:
    """What a results file says, but for how long it took."""
    with Results(file, read_only=True) as results:
        return [
            (each.setting.key, each.kind, each.n, each.percent, each.low, each.high, dict(each.flags), each.forwards)
            for each in sorted(results.all(), key=lambda result: result.setting.key)
        ]
