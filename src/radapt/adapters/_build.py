"""An adapter for a model's tower, from its parts."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from radapt.models import VLM, Delta, tower_of
from radapt.types import Anchor, Mix

from ._adapter import Adapter
from ._base_weights import base_weights
from ._settings import AdapterSettings

__all__ = ["D0", "adapter_for"]

D0 = 40.0
"""Default cut-off, as the paper's D0 at 224 pixels (its figures favour 30 to 40)."""


def adapter_for(
    model: VLM | nn.Module,
    anchor: Anchor | None,
    *,
    cutoff: float | None,
    alpha: float,
    mix: Mix,
    method: str,
    origin: dict[str, object],
    block: int = 0,
    deltas: Mapping[str, Delta] | None = None,
) -> Adapter:
    """An adapter for a model's tower with a given anchor, or with deltas."""
    tower = tower_of(model)
    name = (
        model.name
        if isinstance(model, VLM)
        else str(getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__)
    )
    settings = AdapterSettings(
        cutoff=cutoff,
        alpha=alpha,
        mix=mix,
        width=tower.width,
        grid=tower.grid,
        prefix=tower.layout.prefix,
        patch_size=tower.patch_size,
        method=method,
        base_model=name.encode("utf-8", "replace").decode(),  # a folder may have a name that no text can have
        origin=origin,
        block=block,
        base_weights=base_weights(tower, deltas) if deltas else None,
    )
    return Adapter(settings, anchor, deltas)
