"""Checks on settings that are numbers."""

from __future__ import annotations

import math

from radapt.errors import SettingsError

__all__ = ["check_growth", "number", "whole"]


def whole(name: str, value: object) -> None:
    """Refuse what is not a whole number of at least 1.

    Raises:
        SettingsError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SettingsError(f"{name} must be a whole number of at least 1, got {value!r}")


def number(name: str, value: object, low: float, high: float = math.inf, *, above: bool = False) -> None:
    """Refuse what is not a finite number from ``low`` to ``high``; with ``above``, ``low`` itself is refused.

    Raises:
        SettingsError: it is not.
    """
    size = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not (math.isfinite(size) and low <= size <= high) or (above and size == low):
        bounds = f"above {low:g}" if above else f"of at least {low:g}"
        most = f", {high:g} at most" if high < math.inf else ""
        raise SettingsError(f"{name} must be a number {bounds}{most}, got {value!r}")


def check_growth(value: object) -> None:
    """Refuse a growth that is neither None nor a number above 0.

    Raises:
        SettingsError: it is not.
    """
    if value is not None:
        number("growth", value, 0, above=True)
