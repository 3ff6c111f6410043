"""Base weights: whether a model has those that an adapter's deltas were made for."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor

from radapt.errors import AdapterError
from radapt.models import Delta, Tower, check_deltas, full

from ._settings import PROJECTIONS, AdapterSettings

__all__ = ["base_weights", "check_base_weights"]

_MOST_ALONG, _MOST_LONGER = 0.05, 0.02
"""How far weights may lie from those that deltas were made for: along the deltas, as a share of their length, and in
length. Rounding to bfloat16 moves them by far less, another model or deltas that are in them already by more."""

_MOST_AWAY, _ROUNDING = 0.1, 0.005
"""How far in any direction, as a share of the deltas' length; and as a share of the weights' own, which is more than
rounding to bfloat16 moves them (0.002)."""


def base_weights(tower: Tower, deltas: Mapping[str, Delta]) -> dict[str, float | list[float]]:
    """What tells weights that deltas are added to from others, in a form that rounding hardly changes.

    Returns:
        ``norm``, the length of the changed weights taken as one vector; ``along``, how far they reach along the
        deltas: their inner product divided by the deltas' length; and ``sketch``, 32 random projections of them, of
        which the mean squared difference is on average the squared distance of two (Johnson & Lindenstrauss 1984).
    """
    norm, along, _ = _lengths(tower, deltas)
    return {"norm": norm, "along": along, "sketch": _sketch(tower, deltas).tolist()}


def check_base_weights(settings: AdapterSettings, tower: Tower, deltas: Mapping[str, Delta]) -> None:
    """Refuse deltas for weights that they were not made for; those that say nothing of their weights fit any.

    Raises:
        AdapterError: the weights are others, or none that the deltas can be added to.
    """
    known = settings.base_weights
    if known is None or not deltas or tower.mounted() is not None:
        return  # the last of these is refused by attaching itself
    norm, reach, length = _lengths(tower, deltas)
    along = (reach - known["along"]) / length if length else 0.0
    near = abs(along) <= _MOST_ALONG and abs(norm - known["norm"]) <= _MOST_LONGER * known["norm"]
    if near and "sketch" in known:
        moved = _sketch(tower, deltas) - torch.tensor(known["sketch"], dtype=torch.float32, device="cpu")
        near = float(moved.square().mean()) ** 0.5 <= max(_MOST_AWAY * length, _ROUNDING * norm)
    if near:
        return
    inside = " They lie one delta further: are the deltas in them already?" if 0.75 < along < 1.25 else ""
    raise AdapterError(
        f"the deltas of this adapter are differences from other weights ({settings.base_model}) than the model has, so "
        f"that their sum is neither model.{inside} Make an adapter for this model; what has the deltas already (by "
        "merge) takes the rest, Adapter(adapter.settings, adapter.anchor); to add them all the same, attach "
        "adapter.change(base_weights=None)"
    )


def _lengths(tower: Tower, deltas: Mapping[str, Delta]) -> tuple[float, float, float]:
    """Length of the weights, how far they reach along the deltas, and length of the deltas."""
    own = check_deltas(tower.root, deltas)
    weights = added = both = 0.0
    for name, delta in deltas.items():
        weight = own[name].detach().float()
        change = full(delta, weight.shape).to(weight.device)
        weights += float(weight.square().sum())
        added += float(change.square().sum())
        both += float((weight * change).sum())
    length = added**0.5
    return weights**0.5, both / length if length else 0.0, length


def _sketch(tower: Tower, deltas: Mapping[str, Delta]) -> Tensor:
    """Projections of the weights taken as one vector: of each, as a matrix, its product with random signs on either
    side, which are drawn from its name."""
    own = check_deltas(tower.root, deltas)
    sketch = torch.zeros(PROJECTIONS, dtype=torch.float32, device="cpu")
    for name in deltas:
        weight = own[name].detach().float()
        matrix = weight.reshape(len(weight), -1) if weight.ndim else weight.reshape(1, 1)
        chance = torch.Generator("cpu").manual_seed(zlib.crc32(name.encode()))
        rows, columns = (
            torch.randint(0, 2, (PROJECTIONS, side), generator=chance, device="cpu").mul(2).sub(1).to(matrix)
            for side in matrix.shape
        )
        sketch += ((rows @ matrix) * columns).sum(1).cpu()
    return sketch
