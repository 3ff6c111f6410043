"""Base weights: whether a model has those that an adapter's deltas were made for."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from radapt.errors import AdapterError
from radapt.models import Delta, Tower, full

from ._settings import AdapterSettings

__all__ = ["base_weights", "check_base_weights"]

_MOST_ALONG, _MOST_LONGER = 0.05, 0.02
"""How far weights may lie from those that deltas were made for: along the deltas, as a share of their length, and in
length. Rounding to bfloat16 moves them by far less, another model or deltas that are in them already by more."""


def base_weights(tower: Tower, deltas: Mapping[str, Delta]) -> dict[str, float]:
    """What tells weights that deltas are added to from others, in a form that rounding hardly changes.

    Returns:
        ``norm``, the length of the changed weights taken as one vector, and ``along``, how far they reach along the
        deltas: their inner product divided by the deltas' length.
    """
    own = dict(tower.root.named_parameters())
    products = [_products(own[name].detach().float(), delta) for name, delta in deltas.items()]
    weight, delta, both = (sum(each) for each in zip(*products, strict=True))
    return {"norm": weight**0.5, "along": both / delta**0.5 if delta else 0.0}


def check_base_weights(settings: AdapterSettings, tower: Tower, deltas: Mapping[str, Delta]) -> None:
    """Refuse deltas for weights that they were not made for; those that say nothing of their weights fit any.

    Raises:
        AdapterError: the weights are others.
    """
    known = settings.base_weights
    if known is None or not deltas or tower.mounted() is not None or not _fit(tower, deltas):
        return  # or something that attaching itself refuses
    now = base_weights(tower, deltas)
    length = sum(float(full(delta).square().sum()) for delta in deltas.values()) ** 0.5
    along = (now["along"] - known["along"]) / length if length else 0.0
    if abs(along) <= _MOST_ALONG and abs(now["norm"] - known["norm"]) <= _MOST_LONGER * known["norm"]:
        return
    inside = " They lie one delta further: are the deltas in them already?" if 0.75 < along < 1.25 else ""
    raise AdapterError(
        f"the deltas of this adapter are differences from other weights ({settings.base_model}) than the model has, so "
        f"that their sum is neither model.{inside} Make an adapter for this model; what has the deltas already (by "
        "merge) takes the rest, Adapter(adapter.settings, adapter.anchor); to add them all the same, attach "
        "adapter.change(base_weights=None)"
    )


def _products(weight: Tensor, delta: Delta) -> tuple[float, float, float]:
    """Squared lengths of a weight and of its delta, and their inner product."""
    added = full(delta, weight.shape).to(weight.device)
    return tuple(float((one * other).sum()) for one, other in ((weight, weight), (added, added), (weight, added)))  # type: ignore[return-value]


def _fit(tower: Tower, deltas: Mapping[str, Delta]) -> bool:
    """Whether there are weights that the deltas can be added to."""
    own = dict(tower.root.named_parameters())
    for name, delta in deltas.items():
        weight = own.get(name)
        if weight is None or weight.is_meta or not weight.is_floating_point():
            return False
        size = delta.numel() if isinstance(delta, Tensor) else len(delta.up) * delta.down.shape[1]
        if size != weight.numel():
            return False
    return True
