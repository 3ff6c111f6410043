"""What a results file holds besides results: who measured them and with what, and settings of the adapters."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from radapt.errors import ResultsError
from radapt.schema import STRICT, parse

from ._database import Database

__all__ = ["Notes", "Run", "command_line"]

_PACKAGES = ("radapt", "torch", "transformers", "numpy")
_MOST = 200
"""Runs that are kept, the latest of them: one that is resumed every hour must not fill the file."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One call that measured something.

    Args:
        date: when it began: ISO 8601, UTC.
        command: the command line; empty for a call from an interactive session.
        machine: operating system, processor and number of its threads.
        device: what the models computed on.
        versions: of Python and of what computes, by name.
    """

    __pydantic_config__: ClassVar = STRICT

    date: str
    command: str
    machine: str
    device: str
    versions: Mapping[str, str]

    @classmethod
    def now(cls, *, device: str) -> Run:
        """This process, at this moment.

        Args:
            device: what the models compute on.
        """
        versions = {"python": platform.python_version()}
        for name in _PACKAGES:
            try:
                versions[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:  # imported from a folder that is not installed
                continue
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return cls(
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            command=command_line(),
            machine=f"{platform.system()} {platform.machine()}, {_processor()}, {threads} threads",
            device=device,
            versions=versions,
        )


class Notes:
    """What a results file holds besides results. Files of earlier versions hold none.

    Args:
        file: the file.
    """

    def __init__(self, file: Database) -> None:
        self._file = file

    def runs(self) -> list[Run]:
        """Who measured the results, the earliest first.

        Raises:
            ResultsError: what the file says of them is damaged.
        """
        where = f"{self._file.path}: its list of runs"
        return [parse(Run, dict(each), where=where, error=ResultsError) for each in self._read("runs", [])]

    def add_run(self, run: Run) -> None:
        """Note a call that is about to measure something."""
        self._write("runs", [*self._read("runs", []), asdict(run)][-_MOST:])

    def adapters(self) -> dict[str, dict[str, float | str]]:
        """Settings of the adapters, such as ``method`` and ``alpha``, by the fingerprint of the adapter.

        Raises:
            ResultsError: what the file says of them is damaged.
        """
        return dict(self._read("adapters", {}))

    def add_adapters(self, settings: Mapping[str, Mapping[str, float | str]]) -> None:
        """Note settings of adapters, numbers and words, by the fingerprint of the adapter."""
        known = self._read("adapters", {})
        if new := {key: dict(value) for key, value in settings.items() if known.get(key) != dict(value)}:
            self._write("adapters", known | new)

    def merge(self, other: Notes) -> None:
        """Add what another file notes."""
        if runs := sorted([*self.runs(), *(each for each in other.runs() if each not in self.runs())], key=_date):
            self._write("runs", [asdict(run) for run in runs][-_MOST:])
        self.add_adapters(other.adapters())

    def _read(self, name: str, empty: Any) -> Any:
        rows = self._file.read("SELECT value FROM meta WHERE key = ?", name)
        try:
            found = json.loads(rows[0][0]) if rows else empty
        except (ValueError, RecursionError) as error:
            raise ResultsError(f"{self._file.path} is damaged: its {name} are no JSON ({error})") from error
        parts = list(found.values()) if isinstance(found, dict) else found
        if not isinstance(found, type(empty)) or not all(isinstance(each, dict) for each in parts):
            raise ResultsError(f"{self._file.path} is damaged: its {name} are not as they were written")
        return found

    def _write(self, name: str, value: object) -> None:
        with self._file.transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, json.dumps(value)))


def _date(run: Run) -> str:
    return run.date


def command_line() -> str:
    """The command line of this process as one would type it; empty where there is none to type."""
    program = Path(sys.argv[0]) if sys.argv and sys.argv[0] else None
    if program is None or program.name in ("-", "-c", "ipykernel_launcher.py", "colab_kernel_launcher.py"):
        return ""
    if program.name == "__main__.py":
        return shlex.join(["python", "-m", program.parent.name, *sys.argv[1:]])
    words = ["python", program.name] if program.suffix == ".py" else [program.stem]
    return shlex.join([*words, *sys.argv[1:]])


def _processor() -> str:
    """Name of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or "unknown processor"
