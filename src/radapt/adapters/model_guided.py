"""R-Adapt_M: the anchor comes from an adversarially fine-tuned twin M; inference uses the clean model."""

from __future__ import annotations

from torch import nn

from radapt.errors import AdapterError
from radapt.models import VLM, tower_of
from radapt.types import AnchorImage, Mix, Pixels

from ._adapter import Adapter
from ._anchor import capture_anchor
from ._build import D0, adapter_for
from ._gaussian import cutoff_from_d0
from ._method import AdapterMethod
from ._settings import check_settings

__all__ = ["METHOD", "model_guided"]


def model_guided(
    model: VLM | nn.Module,
    guide: VLM | nn.Module,
    *,
    cutoff: float | None = cutoff_from_d0(D0),
    alpha: float = 1.0,
    mix: Mix = "interpolate",
    image: AnchorImage = "white",
    pixels: Pixels | None = None,
    block: int = 0,
) -> Adapter:
    """Make an adapter for a model from a robust twin, in one forward pass of the twin (R-Adapt_FARE and the like).

    Args:
        model: the model to adapt; it is not changed, and it does not matter what it carries.
        guide: the robust twin, of the same architecture, without an adapter.
        cutoff, alpha, mix, image, pixels, block: as in :func:`radapt.training_free`.

    Raises:
        SettingsError: a setting out of range.
        AdapterError: the twin's tower has another width or token grid.
        SettingsError: the twin carries an adapter.

    Warns:
        UserWarning: the twin is a model object, not loaded, whose normalisation is what is usual for its family.
    """
    check_settings(cutoff, alpha, block)
    own, other = tower_of(model), tower_of(guide)
    facts = [(t.width, t.grid, t.layout, t.patch_size) for t in (own, other)]
    if facts[0] != facts[1]:
        raise AdapterError(
            f"the guide's tower (width, grid, layout, patch size) is {facts[1]}, the model's {facts[0]}; "
            "a guide must be a fine-tuned twin of the model"
        )
    name = guide.name if isinstance(guide, VLM) else type(guide).__name__
    anchor = capture_anchor(guide, image=image, pixels=pixels, block=block)
    origin: dict[str, object] = {"guide": name, "image": image}
    return adapter_for(
        model, anchor, cutoff=cutoff, alpha=alpha, mix=mix, method="model-guided", origin=origin, block=block
    )


METHOD = AdapterMethod(model_guided, needs_guide=True)
