"""Peak memory of AutoAttack beside other libraries, each in a process of its own.

    python benchmarks/attack_memory.py [--model micro/clip] [--dataset shapes] [--n 100] [--json FILE]

A row: ``library``, ``batch`` (images per pass) and ``peak_mib``, the growth of the process's largest resident size from
the time when model and images are loaded, in MiB. Ours runs with the peers' batch size, and with its own default.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import attacks_vs_peers as versus
from _peers import versions
from rich.console import Console


def peak(library: str, batch: int, model: str, dataset: str, n: int) -> float:
    """Growth of this process's peak memory over the attack, in MiB."""
    warnings.simplefilter("ignore")
    counted, images, labels = versus.load(model, dataset, n)
    case = versus.Case(counted, images, labels, "linf", 4 / 255)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if library == "radapt":
        versus.ours("standard", case, batch_size=batch)
    else:
        versus.theirs(versus.PEERS["standard"][library], case)
    return round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="micro/clip")
    parser.add_argument("--dataset", default="shapes")
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    peers = [name for name in versions() if name in versus.PEERS["standard"]]
    rows: list[dict[str, Any]] = []
    for library, batch in (
        ("radapt", versus.SLOTS),
        ("radapt", versus.BATCH),
        *((each, versus.BATCH) for each in peers),
    ):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
            mib = alone.submit(peak, library, batch, options.model, options.dataset, options.n).result()
        rows.append({"library": library, "batch": batch, "peak_mib": mib})
        Console().print(f"{library:>12}  {batch:3} images per pass  {mib:7.1f} MiB", highlight=False)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
