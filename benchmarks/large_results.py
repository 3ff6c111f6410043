"""A results file of a million rows: how long it takes to write it, to go on with it, and to make its table and report.

    python benchmarks/large_results.py [--models 20] [--datasets 20] [--samples 834] [--json FILE]

Every model on every dataset, clean, white-box and by transfer; the samples are made up, the file, its checks, the table
and the report are those of every evaluation. The file holds one flat object: ``rows``, ``megabytes``, and seconds:
``append`` (all rows, in chunks of 128, each a transaction), ``append_last`` (the last chunk alone), ``resume`` (what is
left of every setting), ``read`` (all results), ``worst_cases`` (and all results), ``table`` and ``report``.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from radapt._version import __version__
from radapt.reports import print_table, write_report
from radapt.results import Results, Sample, Setting, with_worst_cases

T = TypeVar("T")
CHUNK = 128


def settings(models: int, datasets: int, samples: int) -> list[Setting]:
    """All of an evaluation, the clean results first."""
    threats: list[dict[str, Any]] = [
        {},
        *(
            {"attack": "apgd-ensemble", "norm": "linf", "eps": 4 / 255, "source": each}
            for each in ("self", "undefended")
        ),
    ]
    return [
        Setting(
            method=f"method {model}", model=f"model-{model}", dataset=f"dataset-{dataset}", n=samples,
            version=__version__, depends={"model": f"weights {model}", "content": f"content {dataset}"}, **threat,
        )
        for threat in threats
        for model in range(models)
        for dataset in range(datasets)
    ]  # fmt: skip


def made_up(setting: Setting, digests: list[str]) -> list[Sample]:
    """Samples of a setting, the same in every run."""
    draw, share = random.Random(setting.key), 0.9 if setting.kind == "clean" else 0.4
    return [
        Sample(
            position=position, label=1, prediction=int(right), score=float(right), loss=1.0 if setting.source else None,
            iterations=38 * bool(setting.source), forwards=1, backwards=0, distance=setting.eps, data=digest,
        )
        for position, digest in enumerate(digests)
        for right in [draw.random() < share]
    ]  # fmt: skip


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What a function returns, and its seconds."""
    start = time.perf_counter()
    found = work()
    return found, round(time.perf_counter() - start, 3)


def measure(models: int, datasets: int, samples: int, folder: Path) -> dict[str, str | int | float]:
    """All figures."""
    file, every = folder / "large.sqlite", settings(models, datasets, samples)
    digests = [f"{position:032x}" for position in range(samples)]
    rows = [made_up(setting, digests) for setting in every]
    last = 0.0
    with Results(file) as results:

        def append() -> None:
            nonlocal last
            for setting, own in zip(every, rows, strict=True):
                results.begin(setting, digests)
                for first in range(0, samples, CHUNK):
                    _, last = timed(partial(results.add, setting, own[first : first + CHUNK], seconds=1.0))
                results.flag(setting, {}, checked=samples)

        _, appended = timed(append)
        left, resumed = timed(lambda: sum(samples - len(results.begin(each, digests)) for each in every))
        assert left == 0
    del rows
    with Results(file, read_only=True) as results:
        found, read = timed(results.all)
        _, worst = timed(lambda: with_worst_cases(results))
        _, tabled = timed(lambda: print_table(results, Console(file=io.StringIO(), width=200)))
    assert len(found) == len(every)
    _, reported = timed(lambda: write_report(file, folder / "report"))
    return {
        "benchmark": "large results",
        "rows": samples * len(every),
        "megabytes": round(file.stat().st_size / 1e6, 1),
        "append": appended,
        "append_last": last,
        "resume": resumed,
        "read": read,
        "worst_cases": worst,
        "table": tabled,
        "report": reported,
        "version": __version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Times of a results file of a million rows.")
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--datasets", type=int, default=20)
    parser.add_argument("--samples", type=int, default=834, help="of each setting")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(options.models, options.datasets, options.samples, Path(folder))
    for name, value in figures.items():
        print(f"{name:12} {value:,}" if isinstance(value, int | float) else f"{name:12} {value}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
