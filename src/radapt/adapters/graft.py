"""Graft: what a robust twin learned in its first stages, added to the model, without training."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from radapt.errors import AdapterError, SettingsError, shown
from radapt.io import fraction
from radapt.models import VLM, Delta, difference, interpolated, load, low_rank
from radapt.numbers import whole

from ._adapter import Adapter
from ._build import adapter_for
from ._method import AdapterMethod
from ._settings import check_settings

__all__ = ["METHOD", "WEIGHTS", "graft", "weights_of"]

WEIGHTS = "embedding+block:0-1"
"""Parts that a graft takes from the twin by default: most of what is robust in it, for little clean accuracy."""


def graft(
    model: VLM | nn.Module,
    guide: VLM | nn.Module,
    *,
    weights: float | str | Mapping[str, float] = WEIGHTS,
    cutoff: float | None = None,
    rank: int | None = None,
) -> Adapter:
    """Make an adapter of deltas that carries parts of a model's weights to, or towards, those of its robust twin.

    ``W + w (W_twin - W)`` for each weight W of a part, with the part's own w: 1 replaces it (progressive replacement,
    arXiv:2603.12799), between 0 and 1 it is interpolated (Wortsman et al. 2022, arXiv:2109.01903). It takes no images
    and seconds; the model's own weights stay as they are.

    Args:
        model: the model to adapt; it is not changed.
        guide: its robust twin, of the same architecture, without an adapter.
        weights: how far each part goes, in the words of :func:`radapt.models.parts`: ``{"embedding": 1, "block:0-2":
            0.5}``, or the same as a text, ``embedding=1,block:0-2=0.5``, where a part without a number goes all the
            way; a number alone is for all parts.
        cutoff: of a filter before the vision encoder, in cycles per pixel; None for no filter.
        rank: of the deltas of matrices; None keeps them whole.

    Raises:
        SettingsError: a setting out of range, an unknown part, or one that is named twice.
        ModelError: the models are no twins.
        AdapterError: the twin carries an adapter, or the parts have the same weights in both.
    """
    check_settings(cutoff, 0)
    if rank is not None:
        whole("rank", rank)
    shares = weights_of(weights)
    vlm, twin = (each if isinstance(each, VLM) else load(each) for each in (model, guide))
    with vlm.undefended():
        hybrid = interpolated(vlm, twin, shares)
        own, other = (dict(each.tower.root.named_parameters()) for each in (vlm, hybrid))
        outside = _outside(vlm, hybrid)
        changed = difference(own, other)
        if outside:
            raise SettingsError(
                f"an adapter changes weights of the vision encoder alone, and {outside[0]} is outside of it; leave the "
                "head out, or write a model: radapt.models.interpolated(model, guide, weights)"
            )
        if not any(shares.values()):
            raise SettingsError(f"the weights of {', '.join(shares)} are 0, the model itself; give one above 0")
        if not changed:
            raise AdapterError(
                f"{vlm.name} and {twin.name} have the same weights in {', '.join(shares)}; nothing to graft"
            )
        deltas: dict[str, Delta] = {
            name: (delta if rank is None else low_rank(delta, rank)) for name, delta in changed.items()
        }
        origin: dict[str, object] = {"guide": twin.name, "weights": shares} | (
            {"rank": rank} if rank is not None else {}
        )
        return adapter_for(
            vlm, None, cutoff=cutoff, alpha=0.0, mix="interpolate", method="graft", origin=origin, deltas=deltas
        )


def weights_of(text: float | str | Mapping[str, float]) -> dict[str, float]:
    """How far each part goes, from a number, a text or a mapping.

    Raises:
        SettingsError: it is none of these, empty, or names a part twice.
    """
    if isinstance(text, Mapping):
        shares = dict(text)
    elif isinstance(text, str):
        pairs = [part.partition("=") for part in text.split(",") if part.strip()]
        shares = {name.strip(): fraction(value) if equals else 1.0 for name, equals, value in pairs}
        if len(shares) < len(pairs):
            raise SettingsError(f"weights names a part twice: {shown(text)}; give each part one number")
    elif isinstance(text, int | float) and not isinstance(text, bool):
        shares = {"all": text}
    else:
        raise SettingsError(f"weights must be a number, or parts with a number each, got {text!r}")
    if not shares:
        raise SettingsError("weights names no part of the vision encoder")
    return shares


def _outside(model: VLM, hybrid: VLM) -> list[str]:
    """Parameters of the image embedding that differ and are no part of the vision encoder."""
    inside = {id(parameter) for parameter in model.tower.root.parameters()}
    own = {name: each for name, each in model.image_parameters().items() if id(each) not in inside}
    others = hybrid.image_parameters()
    return list(difference(own, {name: others[name] for name in own}))


METHOD = AdapterMethod(graft, needs_guide=True)
