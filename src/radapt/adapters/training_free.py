"""R-Adapt_CLIP: the anchor is the model's own first-block attention output on a white image; no training."""

from __future__ import annotations

from torch import nn

from radapt.models import VLM
from radapt.types import AnchorImage, Mix, Pixels

from ._adapter import Adapter
from ._anchor import capture_anchor
from ._build import D0, adapter_for
from ._gaussian import cutoff_from_d0
from ._method import AdapterMethod
from ._settings import check_settings

__all__ = ["METHOD", "training_free"]


def training_free(
    model: VLM | nn.Module,
    *,
    cutoff: float | None = cutoff_from_d0(D0),
    alpha: float = 1.0,
    mix: Mix = "interpolate",
    image: AnchorImage = "white",
    pixels: Pixels | None = None,
    block: int = 0,
) -> Adapter:
    """Make an adapter from the model itself, in one forward pass (R-Adapt_CLIP).

    Args:
        model: the model to adapt, of any supported family; it is not changed.
        cutoff: D0 of the filter in cycles per pixel; None for no filter.
        alpha: weight of the anchor; tune it on a validation split with :func:`radapt.tune`.
        mix: ``interpolate`` or ``add``.
        image, pixels: the image of the anchor, ``white`` in the paper; see :func:`radapt.adapters.capture_anchor`.
        block: the block whose attention output is blended, from 0, the paper's.

    Raises:
        SettingsError: a setting out of range, or the model carries an adapter.
        InputError: ``pixels`` are missing, not wanted, or of another size.
        AdapterError: there is no such block.
        ModelError: the model is of an unsupported family.

    Warns:
        UserWarning: a model object, not loaded, whose normalisation is what is usual for its family.
    """
    check_settings(cutoff, alpha, block)
    anchor = capture_anchor(model, image=image, pixels=pixels, block=block)
    origin: dict[str, object] = {"image": image}
    return adapter_for(
        model, anchor, cutoff=cutoff, alpha=alpha, mix=mix, method="training-free", origin=origin, block=block
    )


METHOD = AdapterMethod(training_free)
