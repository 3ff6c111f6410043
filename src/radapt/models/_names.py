"""The names of a parameter in a module."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["names_of"]


def names_of(root: nn.Module, parameter: Tensor) -> list[str]:
    """Every name that a parameter has in a module: several, where layers share it."""
    return [name for name, each in root.named_parameters(remove_duplicate=False) if each is parameter]
