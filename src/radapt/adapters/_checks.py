"""What is checked of deltas, whoever gives them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from radapt.errors import AdapterError, shown
from radapt.models import Delta, LowRank, tensors_of

__all__ = ["LOW_RANK", "checked_deltas"]

LOW_RANK = (".lora_B", ".lora_A")
"""How the names of the two matrices of a delta of low rank end in a file."""


def checked_deltas(deltas: Mapping[str, Delta]) -> dict[str, Delta]:
    """Deltas by the names of weights.

    Raises:
        AdapterError: they are none, hold what is not finite, or have names that a file cannot hold.
    """
    if not isinstance(deltas, Mapping):
        raise AdapterError(f"deltas are given by the names of weights, as a mapping; got {shown(deltas)}")
    for name, delta in deltas.items():
        if not isinstance(name, str) or not name or name.startswith("__") or name.endswith(LOW_RANK):
            raise AdapterError(f"a delta is of a weight, by its name in the vision encoder; got {shown(name)}")
        if not isinstance(delta, Tensor | LowRank):
            raise AdapterError(f"the delta of {name} must be a tensor or a LowRank, got {shown(delta)}")
        _check(name, delta)
    return dict(deltas)


def _check(name: str, delta: Delta) -> None:
    for tensor in tensors_of(delta):
        if not isinstance(tensor, Tensor) or tensor.is_meta or not tensor.is_floating_point():
            got = tensor.dtype if isinstance(tensor, Tensor) and not tensor.is_meta else shown(tensor)
            raise AdapterError(f"the delta of {name} must be of a floating-point type and in memory, got {got}")
        if not bool(torch.isfinite(tensor.float()).all()):
            raise AdapterError(f"the delta of {name} holds values that are not finite")
    if isinstance(delta, Tensor):
        return
    shapes = f"{tuple(delta.up.shape)} and {tuple(delta.down.shape)}"
    if (delta.up.ndim, delta.down.ndim) != (2, 2) or delta.up.shape[1] != len(delta.down) or not len(delta.down):
        raise AdapterError(f"the delta of {name} is a product of matrices that do not fit: {shapes}")
