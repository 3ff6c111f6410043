"""Members by name: the files of a package folder, imported on demand."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from typing import Any

from radapt.errors import SettingsError

__all__ = ["find", "members", "nearest"]


def nearest(got: str, allowed: Iterable[str]) -> str:
    """The end of an error message: the nearest valid name, then all of them."""
    names = sorted(str(name) for name in allowed)
    written = {name.lower(): name for name in names}
    close = difflib.get_close_matches(str(got).lower(), written, n=1, cutoff=0.5)
    hint = f"; did you mean {written[close[0]]!r}?" if close else "."
    return f"{hint} Allowed: {', '.join(names)}"


def members(package: str) -> list[str]:
    """Names of a folder's members: its modules without a leading underscore, as written on the command line."""
    path = importlib.import_module(package).__path__
    names = (module.name for module in pkgutil.iter_modules(path))
    return sorted(name.replace("_", "-") for name in names if not name.startswith("_"))


def find(package: str, name: str, attribute: str) -> Any:
    """``attribute`` of the member ``name`` of a package; unknown names raise ``SettingsError`` with a suggestion."""
    names = members(package)
    key = name.strip().lower().replace("_", "-")
    if key not in names:
        kind = package.rpartition(".")[2].removesuffix("s")
        raise SettingsError(f"unknown {kind} {name!r}{nearest(key, names)}")
    return getattr(importlib.import_module(f"{package}.{key.replace('-', '_')}"), attribute)
