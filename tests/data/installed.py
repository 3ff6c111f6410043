"""Packages of somebody else, installed for the time of a test: a module, and a folder that says what it offers."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

__all__ = ["install"]


def install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, module: str, source: str, groups: Mapping[str, Mapping[str, str]]
) -> None:
    """Put a distribution with one module and its entry points on the path.

    Args:
        folder: where it lies; it may hold other files of the package.
        monkeypatch: takes it off the path again.
        module: name of the module.
        source: its source.
        groups: entry points by group and name, as in ``pyproject.toml``.
    """
    info = folder / f"{module.replace('_', '-')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    lines = [f"[{group}]\n" + "".join(f"{n} = {v}\n" for n, v in points.items()) for group, points in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))
    (folder / f"{module}.py").write_text(source)
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(folder)
