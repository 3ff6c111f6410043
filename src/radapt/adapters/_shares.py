"""A share of an adapter's deltas, part by part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from radapt.errors import SettingsError
from radapt.models import VLM, Delta, parts, scaled
from radapt.numbers import number

from ._adapter import Adapter
from ._base_weights import base_weights, check_base_weights

__all__ = ["with_shares"]


def with_shares(adapter: Adapter, model: VLM, shares: Mapping[str, float]) -> Adapter:
    """An adapter with a share of its deltas in some parts of the vision encoder, and the others whole.

    Raises:
        SettingsError: an unknown part, parts that overlap, one in which the adapter has no deltas, or a share outside
            of [0, 1].
        AdapterError: the deltas were made for other weights than the model has.
    """
    names = {id(parameter): name for name, parameter in model.tower.root.named_parameters()}
    portion = dict[str, float]()
    for part, share in shares.items():
        number(f"the share of {part}", share, 0, 1)
        inside = parts(model, part).values()
        if not any(names.get(id(parameter)) in adapter.deltas for parameter in inside):
            raise SettingsError(f"the adapter has no deltas in {part!r}, so that no share of them changes anything")
        for parameter in inside:
            name = names.get(id(parameter), "")
            if name in portion:
                raise SettingsError(f"{part!r} and another part both name {name}; give every part its own shares")
            portion |= {name: share} if name else {}
    deltas: dict[str, Delta] = {}
    for name, delta in adapter.deltas.items():
        share = portion.get(name, 1.0)
        if share:
            deltas[name] = scaled(delta, share)
    settings = adapter.settings
    if settings.base_weights is not None and deltas:
        with model.undefended():
            check_base_weights(settings, model.tower, adapter.deltas)
            settings = replace(settings, base_weights=base_weights(model.tower, deltas))
    return Adapter(settings, adapter.anchor, deltas)
