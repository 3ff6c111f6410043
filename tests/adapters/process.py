"""A training that `accelerate launch` starts: ``python process.py OUT``."""

from __future__ import annotations

import sys
from pathlib import Path

from radapt.adapters import Adapter, adapt
from radapt.training import workers

SETTINGS = {"steps": 3, "batch_size": 4, "attack_steps": 2, "eps": 8 / 255, "seed": 3}


def main(out: Path) -> dict[str, Adapter]:
    """Both methods that are trained, saved, and what this process holds saved beside it."""
    made = {}
    for method, own in (("data-driven", {"adversary": "adaptive"}), ("shallow", {"layers": "block:0"})):
        made[method] = adapt(
            method, "micro/clip", data="objects", n=24, out=out / method, quiet=True, **SETTINGS, **own
        )
        made[method].save_pretrained(out / f"{method} {workers().rank}")
    return made


if __name__ == "__main__":
    main(Path(sys.argv[1]))
