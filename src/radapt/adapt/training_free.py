"""R-Adapt_CLIP: the anchor is the model's own first-block attention output on a white image; no training."""

from __future__ import annotations

from torch import nn

from radapt.models import VLM, tower_of
from radapt.types import Anchor, Pixels

from .adapter import Adapter, AdapterSettings
from .anchor import capture_anchor
from .gaussian import cutoff_from_d0

__all__ = ["D0", "adapter_for", "training_free"]

D0 = 40.0
"""Default cut-off, as the paper's D0 at 224 pixels (its figures favour 30 to 40)."""


def adapter_for(
    model: VLM | nn.Module,
    anchor: Anchor,
    *,
    cutoff: float | None,
    alpha: float,
    mix: str,
    method: str,
    origin: dict[str, object],
    block: int = 0,
) -> Adapter:
    """An adapter for a model's tower with a given anchor."""
    tower = tower_of(model)
    name = (
        model.name
        if isinstance(model, VLM)
        else str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
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
        base_model=name,
        origin=origin,
        block=block,
    )
    return Adapter(settings, anchor)


def training_free(
    model: VLM | nn.Module,
    *,
    cutoff: float | None = cutoff_from_d0(D0),
    alpha: float = 1.0,
    mix: str = "interpolate",
    image: str = "white",
    pixels: Pixels | None = None,
    block: int = 0,
) -> Adapter:
    """Make an adapter from the model itself, in one forward pass (R-Adapt_CLIP).

    Args:
        model: the model to adapt, of any supported family; it is not changed.
        cutoff: D0 of the filter in cycles per pixel; None for no filter.
        alpha: weight of the anchor; tune it on a validation split with :func:`radapt.tune`.
        mix: ``interpolate`` or ``add``.
        image, pixels: the image of the anchor, ``white`` in the paper; see :func:`radapt.adapt.capture_anchor`.
        block: the block whose attention output is blended, from 0, the paper's.

    Raises:
        SettingsError: a setting out of range, or the model carries an adapter.
        InputError: ``pixels`` are missing, not wanted, or of another size.
        AdapterError: there is no such block.
        ModelError: the model is of an unsupported family.
    """
    anchor = capture_anchor(model, image=image, pixels=pixels, block=block)
    origin: dict[str, object] = {"image": image}
    return adapter_for(
        model, anchor, cutoff=cutoff, alpha=alpha, mix=mix, method="training-free", origin=origin, block=block
    )
