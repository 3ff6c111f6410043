"""Families: the members of this folder and of other packages, and which of them takes a model of a given type."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from radapt.errors import ModelError
from radapt.registry import Registry, nearest

__all__ = ["REGISTRY", "families", "family_of", "spreadable", "type_of"]


REGISTRY = Registry("radapt.models", "model family")


def families() -> list[tuple[str, tuple[str, ...], bool]]:
    """Supported families: member, the ``model_type`` values it covers, and whether ``radapt.load`` loads it whole."""
    return [(name, family.MODEL_TYPES, hasattr(family, "load")) for name, family in _members()]


def _members() -> list[tuple[str, Any]]:
    return [(name, REGISTRY.get(name)) for name in REGISTRY.names()]


def spreadable() -> list[str]:
    """Types whose ``load`` takes a ``device_map``."""
    loads = [family for _, family in _members() if hasattr(family, "LOADS")]
    able = [family for family in loads if "device_map" in inspect.signature(family.load).parameters]
    return [kind for family in able for kind in family.LOADS]


def type_of(model: nn.Module) -> str:
    """The ``model_type`` of a model object, or the name of its class."""
    return str(getattr(getattr(model, "config", None), "model_type", "") or type(model).__name__)


def family_of(model_type: str, wanted: str, name: str) -> Any:
    """The member that has a ``load`` or a ``tower`` for models of a type.

    Args:
        model_type: as its configuration gives it.
        wanted: ``load`` or ``tower``.
        name: of the model, for the message.

    Raises:
        ModelError: no family takes it.
    """
    listed = "LOADS" if wanted == "load" else "MODEL_TYPES"
    able = [family for _, family in _members() if hasattr(family, listed)]
    for family in able:
        if model_type in getattr(family, listed):
            return family
    supported = [kind for family in able for kind in getattr(family, listed)]
    what = "be loaded by radapt.load" if wanted == "load" else "carry an adapter"
    raise ModelError(f"{name}: a model of type {model_type!r} cannot {what}{nearest(model_type, supported)}")
