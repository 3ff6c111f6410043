"""Print the lowest version of everything that the library needs, as constraints for pip: ``name==version``, one a line.

Of ``dependencies`` and of the extra ``all`` in pyproject.toml. Torch is left out: which build of it fits depends on the
machine, and whoever installs names it.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
BOUND = re.compile(r"([A-Za-z0-9._-]+)>=([0-9.]+)(?:,<[0-9.]+)?")
OWN = re.compile(r"radapt\[([a-z,]+)\]")


def lowest(requirements: list[str], extras: dict[str, list[str]]) -> list[str]:
    """Pins of requirements; an extra of the library itself stands for what it holds.

    Raises:
        ValueError: a requirement has no lower bound.
    """
    pins = []
    for requirement in requirements:
        if own := OWN.fullmatch(requirement):
            pins += [pin for extra in own[1].split(",") for pin in lowest(extras[extra], extras)]
        elif bound := BOUND.fullmatch(requirement):
            pins.append(f"{bound[1]}=={bound[2]}")
        else:
            raise ValueError(f"{requirement!r} has no lower bound; write it as name>=version")
    return [pin for pin in pins if not pin.startswith("torch==")]


def main() -> None:
    """Print the pins."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    sys.stdout.write("\n".join(lowest([*project["dependencies"], *extras["all"]], extras)) + "\n")


if __name__ == "__main__":
    main()
