"""A share of an adapter's deltas, part by part."""

from __future__ import annotations

from collections.abc import Mapping

from radapt.errors import SettingsError
from radapt.models import VLM, Delta, parts, scaled

from ._adapter import Adapter

__all__ = ["with_shares"]


def with_shares(adapter: Adapter, model: VLM, shares: Mapping[str, float]) -> Adapter:
    """An adapter with a share of its deltas in some parts of the vision encoder, and the others whole.

    Raises:
        SettingsError: an unknown part, or parts that overlap.
    """
    names = {id(parameter): name for name, parameter in model.tower.root.named_parameters()}
    portion = dict[str, float]()
    for part, share in shares.items():
        for parameter in parts(model, part).values():
            name = names.get(id(parameter), "")
            if name in portion:
                raise SettingsError(f"{part!r} and another part both name {name}; give every part its own shares")
            portion |= {name: share} if name else {}
    deltas: dict[str, Delta] = {}
    for name, delta in adapter.deltas.items():
        share = portion.get(name, 1.0)
        if share:
            deltas[name] = scaled(delta, share)
    return Adapter(adapter.settings, adapter.anchor, deltas)
