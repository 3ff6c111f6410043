"""The adapters that ship with the package, by name."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from radapt.errors import AdapterError
from radapt.registry import nearest

__all__ = ["micro_adapters", "shipped"]

_FOLDER = Path(str(files("radapt"))) / "micro" / "adapters"
_PREFIX = "micro/"


def micro_adapters() -> list[str]:
    """Names of the adapters that ship with the package."""
    return sorted(_PREFIX + file.parent.name for file in _FOLDER.glob("*/radapt_config.json"))


def shipped(name: str | Path) -> Path | None:
    """The folder of an adapter that ships with the package; None for any other name.

    Raises:
        AdapterError: no adapter of that name ships with the package.
    """
    if not isinstance(name, str) or not name.startswith(_PREFIX):
        return None
    if name not in micro_adapters():
        raise AdapterError(f"unknown adapter {name!r}{nearest(name, micro_adapters())}")
    return _FOLDER / name.removeprefix(_PREFIX)
