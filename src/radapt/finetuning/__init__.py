"""Fine-tuning: robust twins of a model, one file per method (``METHOD`` is its class)."""

from __future__ import annotations

from ._finetune import FineTuned, finetune
from ._method import REGISTRY, Method, Twin, make
from ._recipe import Recipe

__all__ = ["REGISTRY", "FineTuned", "Method", "Recipe", "Twin", "finetune", "make", "names"]


def names() -> list[str]:
    """Names of all methods."""
    return REGISTRY.names()
