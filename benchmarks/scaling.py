"""How the time of an evaluation grows with samples, methods and workers, and what the plan itself costs.

    python benchmarks/scaling.py [--quick] [--simulate] [--json FILE]

`measured`: PGD of 20 steps on micro models, on one thread each: samples, candidates, and one or two workers of Ray.
`simulated`: the planner and the ledger of the executor ray, with workers that compute nothing: each chunk is done after
the seconds that it would take, on a clock of its own. It runs the plan of a study (8 methods, 16 datasets of 1,000
samples, 5 attacks, clean results, 128 samples a chunk) on 1 to 256 workers with chunks of ten seconds. `efficiency` is
the ideal time over the simulated one; `overhead` the seconds of this process, planning and writing included, over the
seconds of all workers. `--simulate` runs the simulation alone. Rows go to `benchmarks/scaling.json` unless `--quick`.
"""

from __future__ import annotations

import argparse
import heapq
import json
import tempfile
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

import radapt
from radapt.evaluation._ledger import Ledger
from radapt.evaluation._ray import Crew
from radapt.evaluation._units import Checked, Measured, Unit
from radapt.evaluation._worker import Told
from radapt.results import Results, Sample, Setting

KEPT = Path(__file__).with_suffix(".json")
SECONDS = 10.0
"""Of a chunk of a simulated worker."""
METHODS, SETS, ATTACKS, SAMPLES = 8, 16, 5, 1000


class Clock:
    """Ray without processes: what a worker is given is done after some seconds, on a clock that jumps.

    The time that this process takes itself counts, too: while it plans and writes, workers wait for it.
    """

    def __init__(self) -> None:
        self._looked = time.perf_counter()
        self.now, self._due, self._number = 0.0, list[tuple[float, int, Any]](), count()
        none = type("NeverRaised", (Exception,), {})
        self.exceptions = SimpleNamespace(ActorDiedError=none, RayError=none, RayTaskError=none)

    def sent(self, seconds: float, result: Any) -> Any:
        """A reference to what will be there after some seconds."""
        self.tick()
        reference = SimpleNamespace(result=result)
        heapq.heappush(self._due, (self.now + seconds, next(self._number), reference))
        return _Key(reference)

    def tick(self) -> None:
        """Let the time pass that went by here."""
        looked, self._looked = self._looked, time.perf_counter()
        self.now += self._looked - looked

    def wait(self, references: Sequence[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        self.tick()
        due, _, reference = heapq.heappop(self._due)
        self.now = max(self.now, due)
        return [each for each in references if each.reference is reference], []

    def get(self, key: Any) -> Any:
        return key.reference.result


class _Key:
    def __init__(self, reference: Any) -> None:
        self.reference = reference


class Idle:
    """A worker that computes nothing, and says what a real one would."""

    def __init__(self, clock: Clock, units: Sequence[Unit]) -> None:
        def measure(asked: Sequence[tuple[int, str]], chunk: Sequence[int], clean: object) -> Any:
            made = [
                Measured(samples=samples(units[number], chunk), examples=(), seconds=SECONDS) for number, _ in asked
            ]
            return clock.sent(SECONDS * len(made), Told(made, []))

        def check(asked: tuple[int, str], scores: object) -> Any:
            return clock.sent(SECONDS, Told(Checked(), []))

        def clear() -> Any:
            return clock.sent(0, Told(None, []))

        calls: dict[str, Any] = {"measure": measure, "check": check, "clear": clear}
        self.do = SimpleNamespace(remote=lambda request, what, *given: calls[what](*given))


def samples(unit: Unit, chunk: Sequence[int]) -> list[Sample]:
    return [Sample(position=at, label=0, prediction=0, score=1.0, answer="a", data=unit.digests[at]) for at in chunk]


def study() -> list[Unit]:
    """The results of a large study, as plain values."""
    digests, units = tuple(f"{at:016x}" for at in range(SAMPLES)), list[Unit]()
    for dataset in range(SETS):
        for method in range(METHODS):
            common: dict[str, Any] = {"method": f"m{method}", "model": f"m{method}", "dataset": f"d{dataset}"}
            common |= {"n": SAMPLES, "version": radapt.__version__}
            clean = Setting(**common)
            for attack in range(-1, ATTACKS):
                ball: dict[str, Any] = {"attack": f"a{attack}", "norm": "linf", "eps": 4 / 255, "source": "self"}
                units.append(
                    Unit(
                        number=len(units),
                        setting=clean if attack < 0 else Setting(**common, **ball),
                        clean=None if attack < 0 else clean,
                        digests=digests,
                        white_box=attack >= 0,
                        shared="",
                        undefended=False,
                        low=0.0,
                    )
                )
    return units


def nothing() -> Any:
    """What is evaluated: workers that compute nothing need not know."""


def simulated(workers: int, units: Sequence[Unit]) -> dict[str, Any]:
    """A study on so many workers that compute nothing."""
    with tempfile.TemporaryDirectory() as folder, Results(Path(folder) / "r.sqlite") as results:
        started = time.perf_counter()
        clock = Clock()
        ledger = Ledger(results, units, (0, 1), sanity=False)
        chunks = sum(len(todo) for todo in ledger.todo.values())
        crew = Crew(clock, nothing, [Idle(clock, units) for _ in range(workers)])
        crew.run(units, ledger, lambda unit, done, seconds: None)
        own = time.perf_counter() - started
    ideal = chunks * SECONDS / workers
    return {
        "kind": "simulated",
        "workers": workers,
        "chunks": chunks,
        "hours": round(clock.now / 3600, 3),
        "efficiency": round(ideal / clock.now, 4),
        "milliseconds_per_chunk": round(1000 * own / chunks, 2),
        "overhead_percent": round(100 * own / (chunks * SECONDS), 3),
    }


def measured(quick: bool) -> list[dict[str, Any]]:
    """Real evaluations: samples, candidates, workers."""
    torch.set_num_threads(1)
    rows = list[dict[str, Any]]()
    lines = ["A=micro/clip", "B=micro/fare", "C=micro/tecoa", "D=micro/clip+micro/r-adapt-plus-static"]
    n = 16 if quick else 128
    cases: list[tuple[int, int, int | None]] = [(n // 2, 1, None), (n, 1, None), (n, 2, None), (n, 4, None)]
    cases += [(n, 4, 1), (n, 4, 2)]
    for images, candidates, workers in cases:
        with tempfile.TemporaryDirectory() as folder:
            crew: dict[str, Any] = {} if workers is None else {"executor": "ray", "workers": workers}
            started = time.perf_counter()
            results = radapt.evaluate(
                lines[:candidates],
                data="shapes",
                n=images,
                attack="pgd",
                options={"steps": 20},
                source="self",
                chunk_size=max(8, n // 8),
                results=Path(folder) / "r.sqlite",
                sanity=False,
                quiet=True,
                **crew,
            )
            wall = time.perf_counter() - started
        rows.append(
            {
                "kind": "measured",
                "samples": images,
                "candidates": candidates,
                "workers": workers or "this process",
                "seconds": round(wall, 2),
                "of_them_measuring": round(sum(result.seconds for result in results), 2),
                "robust_accuracy": [round(result.percent, 1) for result in results if result.kind == "white-box"],
            }
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    units = study()[: 6 * METHODS] if options.quick else study()
    rows = list[dict[str, Any]]()
    for workers in (1, 8) if options.quick else (1, 8, 64, 256):
        rows.append(simulated(workers, units))
        print(rows[-1], flush=True)
    if not options.simulate:
        rows += measured(options.quick)
    target = options.json or (None if options.quick else KEPT)
    if target is not None:
        target.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
