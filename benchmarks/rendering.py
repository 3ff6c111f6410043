"""Speed of the renderer on one core: pictures per second of the default world at 48 pixels.

    python benchmarks/rendering.py [--images 1000] [--repeats 3] [--json FILE]

The file holds one flat object: ``benchmark`` ("rendering"), ``images`` and ``size`` (of one repeat), ``repeats``,
``seconds`` (of the fastest repeat), ``images_per_second`` (of the fastest repeat), ``goal`` (images per second) and
``version`` (of the library).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

# Before numpy is imported: the figure is for one core.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

GOAL = 500


def measure(images: int, repeats: int, size: int) -> dict[str, str | int | float]:
    from radapt._version import __version__
    from radapt.data.shapeworld import World, render

    world = World()
    render(world, "benchmark", range(64), size=size)
    seconds = []
    for repeat in range(repeats):
        start = time.perf_counter()
        render(world, "benchmark", range(repeat * images, (repeat + 1) * images), size=size)
        seconds.append(time.perf_counter() - start)
    return {
        "benchmark": "rendering",
        "images": images,
        "size": size,
        "repeats": repeats,
        "seconds": min(seconds),
        "images_per_second": images / min(seconds),
        "goal": GOAL,
        "version": __version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of the renderer on one core.")
    parser.add_argument("--images", type=int, default=1000, help="pictures per repeat")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest repeat counts")
    parser.add_argument("--size", type=int, default=48, help="height and width in pixels")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    figures = measure(options.images, options.repeats, options.size)
    print(f"{figures['images_per_second']:.0f} images/s at {options.size} px on one core (goal: {GOAL})")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
