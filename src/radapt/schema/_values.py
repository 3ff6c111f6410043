"""Checks on single values: numbers within bounds, and values of the kind that a setting is declared as."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from radapt.errors import SettingsError, shown

__all__ = ["MOST", "check_batch_size", "check_kinds", "check_seed", "number", "whole"]

MOST = 10**9
"""Largest count: of steps, samples or parts."""
_KINDS: dict[str, tuple[Any, str]] = {
    "bool": (bool, "true or false"),
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
    "str": (str, "a text"),
}


def whole(name: str, value: object, low: int = 1, high: int = MOST) -> None:
    """Refuse what is not a whole number from ``low`` to ``high``.

    Raises:
        SettingsError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        bounds = f"from {low} to {high}" if isinstance(value, int) and value > high else f"of at least {low}"
        raise SettingsError(f"{name} must be a whole number {bounds}, got {shown(value)}")


def check_batch_size(value: object) -> None:
    """Refuse a batch size that is none, or so large that padding a batch to it would take all memory.

    Raises:
        SettingsError: it is not a whole number from 1 to 65,536.
    """
    whole("batch_size", value, 1, 2**16)


def check_seed(value: object) -> None:
    """Refuse a seed that random generators do not take.

    Raises:
        SettingsError: it is not a whole number from 0 to 2^63 - 1.
    """
    whole("seed", value, 0, 2**63 - 1)


def number(name: str, value: object, low: float, high: float = math.inf, *, above: bool = False) -> None:
    """Refuse what is not a finite number from ``low`` to ``high``; with ``above``, ``low`` itself is refused.

    Raises:
        SettingsError: it is not.
    """
    size = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not (_finite(size) and low <= size <= high) or (above and size == low):
        bounds = f"above {low:g}" if above else f"of at least {low:g}"
        most = f", {high:g} at most" if high < math.inf else ""
        raise SettingsError(f"{name} must be a number {bounds}{most}, got {shown(value)}")


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond what a float holds
        return False


def check_kinds(where: str, declared: Mapping[str, str], given: Mapping[str, object]) -> None:
    """Refuse values of another kind than their settings are declared as: a word where true or false belongs.

    Args:
        where: what messages begin with; empty for nothing.
        declared: the annotation of each setting as it is written (``int``, ``float | None``); of other types than
            bool, int, float, str and None, nothing is checked.
        given: the settings.

    Raises:
        SettingsError: a value is of another kind.
    """
    for name, value in given.items():
        kinds = declared.get(name, "").split(" | ")
        if not set(kinds) <= {*_KINDS, "None"} or (value is None and "None" in kinds):
            continue
        taken = [_KINDS[kind] for kind in kinds if kind != "None"]
        if any(isinstance(value, kind) and (isinstance(value, bool) == (kind is bool)) for kind, _ in taken):
            continue
        words = " or ".join([words for _, words in taken] + ["none"] * ("None" in kinds))
        raise SettingsError(f"{where}{': ' if where else ''}{name} must be {words}, got {shown(value)}")
