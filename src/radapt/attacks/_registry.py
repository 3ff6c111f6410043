"""Attacks by name."""

from __future__ import annotations

from typing import Any

from radapt.io import fraction
from radapt.registry import Registry

from ._attack import Attack

__all__ = ["REGISTRY", "make", "names"]

REGISTRY = Registry("radapt.attacks", "attack", "ATTACK")


def names() -> list[str]:
    """Names of all attacks."""
    return REGISTRY.names()


def make(name: str, /, **settings: Any) -> Attack:
    """An attack by name.

    Args:
        name: one of ``names()``.
        settings: its settings, as in its constructor; ``eps`` may be a text such as ``4/255``.

    Raises:
        SettingsError: there is no such attack or setting, a needed setting is missing, or a value is out of range.
    """
    if isinstance(eps := settings.get("eps"), str):
        settings["eps"] = fraction(eps)
    attack: Attack = REGISTRY.make(name, settings)
    return attack
