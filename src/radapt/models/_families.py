"""Families: the members of this folder, and which of them takes a model of a given type."""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType

from torch import nn

from radapt.errors import ModelError
from radapt.find import members, nearest

__all__ = ["families", "family_of", "spreadable", "type_of"]


def families() -> list[tuple[str, tuple[str, ...], bool]]:
    """Supported families: member, the ``model_type`` values it covers, and whether ``radapt.load`` loads it whole."""
    return [(name, family.MODEL_TYPES, hasattr(family, "load")) for name, family in _members()]


def _members() -> list[tuple[str, ModuleType]]:
    package = __name__.rpartition(".")[0]
    return [(name, importlib.import_module(f"{package}.{name.replace('-', '_')}")) for name in members(package)]


def spreadable() -> list[str]:
    """Types whose ``load`` hands further settings, such as ``device_map``, to ``from_pretrained``."""
    loads = [family for _, family in _members() if hasattr(family, "LOADS")]
    free = [f for f in loads if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(f.load).parameters.values())]
    return [kind for family in free for kind in family.LOADS]


def type_of(model: nn.Module) -> str:
    """The ``model_type`` of a model object, or the name of its class."""
    return str(getattr(getattr(model, "config", None), "model_type", "") or type(model).__name__)


def family_of(model_type: str, wanted: str, name: str) -> ModuleType:
    """The member that has a ``load`` or a ``tower`` for models of a type.

    Args:
        model_type: as a configuration says it.
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
