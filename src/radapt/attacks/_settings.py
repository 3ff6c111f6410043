"""Checks on settings that attacks share: their types and their ranges."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch

from radapt.errors import SettingsError, shown
from radapt.numbers import check_seed, flag
from radapt.numbers import number as _number
from radapt.numbers import whole as _whole
from radapt.registry import nearest

__all__ = [
    "LARGEST",
    "check_call",
    "check_growth",
    "check_momentum",
    "flag",
    "number",
    "shown",
    "unused",
    "whole",
    "word",
]

LARGEST = 10**6
"""No setting may be larger: beyond, steps never end, and numbers leave the range of float32."""
_SMALLEST = 1e-9
"""What must be above 0 is at least this: less changes no pixel in float32."""
_PRECISIONS = (torch.bfloat16, torch.float16)


def whole(name: str, value: object, low: int = 1, high: int = LARGEST) -> None:
    """Refuse what is not a whole number from ``low`` to ``high``.

    Raises:
        SettingsError: it is not.
    """
    _whole(name, value, low, high)


def number(name: str, value: object, low: float, high: float = LARGEST, *, above: bool = False) -> None:
    """Refuse what is not a number from ``low`` to ``high``; with ``above``, ``low`` itself is refused.

    Raises:
        SettingsError: it is not.
    """
    _number(name, value, low, high, above=above)
    if above and isinstance(value, float) and value - low < _SMALLEST:
        raise SettingsError(f"{name} must be a number of at least {low + _SMALLEST:g}, got {shown(value)}")


def word(name: str, value: object, allowed: Iterable[str] | None = None) -> None:
    """Refuse what is not a text, or not one of those that are allowed.

    Raises:
        SettingsError: it is not.
    """
    if not isinstance(value, str):
        raise SettingsError(f"{name} must be a text, got {shown(value)}")
    if allowed is not None and value not in allowed:
        raise SettingsError(f"unknown {name} {value!r}{nearest(value, allowed)}")


def unused(attack: object, names: Sequence[str], why: str) -> None:
    """Refuse settings that are not at their defaults although they would have no effect.

    Raises:
        SettingsError: one of them has another value.
    """
    for name in names:
        if getattr(attack, name) != getattr(type(attack), name):
            raise SettingsError(f"{name}={shown(getattr(attack, name))} has no effect {why}; leave it out")


def check_momentum(value: object) -> None:
    """Refuse a momentum that is no number from 0 to 1: with a larger one, what is accumulated grows without end.

    Raises:
        SettingsError: it is not.
    """
    too_large = isinstance(value, int | float) and 1 < value < math.inf
    number("momentum", value, 0, 1 if too_large else LARGEST)


def check_growth(value: object) -> None:
    """Refuse a growth that is neither None nor a number above 0.

    Raises:
        SettingsError: it is not.
    """
    if value is not None:
        number("growth", value, 0, above=True)


def check_call(*, seed: object, batch_size: object, precision: object, seconds: object) -> None:
    """Refuse what an attack cannot be called with.

    Raises:
        SettingsError: ``seed`` or ``batch_size`` is no whole number in range, ``precision`` is neither None nor half
            precision, or ``seconds`` is neither None nor a number of at least 0.
    """
    check_seed(seed)
    whole("batch_size", batch_size)
    if precision is not None and precision not in _PRECISIONS:
        raise SettingsError(
            f"precision must be torch.bfloat16, torch.float16 or None (as the model is), got {shown(precision)}"
        )
    if seconds is not None:
        number("seconds", seconds, 0, 10.0**9)
