"""Attacks by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from radapt.errors import SettingsError, shown
from radapt.io import fraction
from radapt.registry import Registry

from ._attack import Attack

__all__ = ["REGISTRY", "make", "names"]

REGISTRY = Registry("radapt.attacks", "attack", "ATTACK")
_ELSEWHERE = {
    "alpha": ("step_size",),
    "rel_stepsize": ("step_size",),
    "abs_stepsize": ("step_size",),
    "n_iter": ("steps",),
    "nb_iter": ("steps",),
    "n_restarts": ("restarts",),
    "n_queries": ("steps",),
    "decay": ("momentum",),
    "confidence": ("kappa",),
    "initial_const": ("initial_c",),
    "binary_search_steps": ("search_steps",),
}
"""What torchattacks, foolbox, cleverhans and AutoAttack call settings that have other names here."""


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
        try:
            settings["eps"] = fraction(eps)
        except SettingsError as error:
            raise SettingsError(f"eps must be a number or a fraction such as 4/255, got {shown(eps)}") from error
    allowed = {field.name for field in fields(REGISTRY.get(name))}
    for given in settings:
        own = [each for each in _ELSEWHERE.get(given, ()) if each in allowed]
        if own and given not in allowed:
            raise SettingsError(f"attack {name!r} has no setting {given!r}; what others call so is {own[0]!r} here")
    attack: Attack = REGISTRY.make(name, settings)
    return attack
