"""Checks on settings that are numbers, or True or False."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TypeVar

from radapt.errors import SettingsError, shown

__all__ = [
    "LARGEST_BATCH",
    "LARGEST_N",
    "LARGEST_SEED",
    "check_batch_size",
    "check_seed",
    "flag",
    "number",
    "several",
    "whole",
]

_Kind = TypeVar("_Kind")

LARGEST_BATCH = 2**16
"""Far more than any device holds: what is larger is a mistake."""
LARGEST_N = 10**8
"""Samples of a dataset."""
LARGEST_SEED = 2**63 - 1
"""More does not fit into the generators of numpy and torch."""


def whole(name: str, value: object, low: int = 1, high: int = 10**12) -> None:
    """Refuse what is not a whole number from ``low`` to ``high``.

    Raises:
        SettingsError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        most = f", {high:g} at most" if isinstance(value, int) and value > high else ""
        raise SettingsError(f"{name} must be a whole number of at least {low}{most}, got {shown(value)}")


def check_batch_size(value: object) -> None:
    """Refuse what is not a batch size.

    Raises:
        SettingsError: it is not a whole number from 1 to ``LARGEST_BATCH``.
    """
    whole("batch_size", value, 1, LARGEST_BATCH)


def check_seed(value: object) -> None:
    """Refuse what is not a seed: a whole number of at least 0 that generators take.

    Raises:
        SettingsError: it is not.
    """
    whole("seed", value, 0, LARGEST_SEED)


def flag(name: str, value: object) -> None:
    """Refuse what is neither True nor False.

    Raises:
        SettingsError: it is neither.
    """
    if not isinstance(value, bool):
        raise SettingsError(f"{name} must be True or False, got {shown(value)}")


def several(name: str, values: _Kind | Iterable[_Kind]) -> list[_Kind]:
    """One value, or several, as a list.

    Raises:
        SettingsError: a text, or a mapping.
    """
    if isinstance(values, str | bytes | Mapping):
        raise SettingsError(f"{name} must be a number, or a list of numbers, got {shown(values)}")
    return list(values) if isinstance(values, Iterable) else [values]


def number(name: str, value: object, low: float, high: float = math.inf, *, above: bool = False) -> None:
    """Refuse what is not a finite number from ``low`` to ``high``; with ``above``, ``low`` itself is refused.

    Raises:
        SettingsError: it is not.
    """
    size = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    finite = -1e300 < size < 1e300  # a whole number may be too large even to be asked whether it is finite
    if not (finite and low <= size <= high) or (above and size == low):
        bounds = f"above {low:g}" if above else f"of at least {low:g}"
        most = f", {high:g} at most" if high < 10**6 or high < size < math.inf else ""
        raise SettingsError(f"{name} must be a number {bounds}{most}, got {shown(value)}")
