"""Attention: where a block looks, and how much that depends on the image at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from radapt.attacks import images_of
from radapt.data import Dataset
from radapt.errors import InputError
from radapt.models import VLM, patch_attention
from radapt.precision import own_precision
from radapt.results.plots import Images, Plot
from radapt.types import Pixels

from ._analysis import Analysis, by_name

__all__ = ["ANALYSIS", "AttentionMaps", "attention_maps"]

_DIGITS = 4


@own_precision()
def attention_maps(
    model: VLM | Sequence[VLM] | Mapping[str, VLM], pixels: Pixels, *, block: int = 0, query: str = "mean"
) -> Images:
    """How much each patch of some images is attended to in a block: the mean over heads, and over queries.

    Every map is stretched to [0, 1] by itself, so that maps compare in shape and not in strength.

    Args:
        model: a model, or several, in a list or by the name of their row.
        pixels: images in [0, 1], of the models' size.
        block: number of the block, 0 being the first.
        query: whose attention is shown: the ``mean`` over all tokens, or the ``class`` token's.

    Returns:
        The images in the first row, and below it a row of maps per model, each as large as its image.

    Raises:
        SettingsError: an unknown query, or no such block.
        ModelError: a model gives no attention maps, or has no class token.
        InputError: there are no models or images, or images of the wrong shape or not in [0, 1].
    """
    models, pixels = by_name(model), pixels if not len(pixels) else images_of("images", pixels)
    if not models or not len(pixels):
        raise InputError(f"attention maps need models and images, got {len(models)} and {len(pixels)}")
    images = [_plain(image.permute(1, 2, 0)) for image in pixels]
    maps = [[_plain(each) for each in _maps(model, pixels, block, query)] for model in models.values()]
    asked = "the class token" if query == "class" else "all tokens"
    return Images(
        title=f"Attention in block {block + 1}",
        rows=("image", *models),
        columns=tuple(str(number) for number in range(1, len(pixels) + 1)),
        images=(tuple(images), *map(tuple, maps)),
        note=f"Attention of {asked} to each patch, mean over the heads; 0 is the least of a map, 1 the most.",
    )


def _maps(model: VLM, pixels: Pixels, block: int, query: str) -> Float[Tensor, "images height width"]:
    """Maps of the size of the images."""
    maps = patch_attention(model, pixels, block=block, query=query)
    return F.interpolate(maps[:, None], size=tuple(pixels.shape[-2:]), mode="nearest")[:, 0]


def _plain(image: Float[Tensor, "height width *channels"]) -> Any:
    """An image as tuples of numbers."""

    def tuples(value: Any) -> Any:
        return tuple(map(tuples, value)) if isinstance(value, list) else round(value, _DIGITS)

    return tuples(image.detach().cpu().double().tolist())


@final
@dataclass(frozen=True, kw_only=True)
class AttentionMaps(Analysis):
    """What a block attends to in the first images; see :func:`attention_maps`.

    Args:
        block: the block, from 0.
        query: ``mean`` or ``class``.
        images: how many images are shown.
    """

    name: ClassVar[str] = "attention"
    block: int = 0
    query: str = "mean"
    images: int = 5

    def __call__(
        self, models: Mapping[str, VLM], data: Dataset, *, folder: Path | None = None, quiet: bool = False
    ) -> list[Plot]:
        shown = data.pixels(range(min(self.images, len(data))))
        return [attention_maps(models, shown, block=self.block, query=self.query)]


ANALYSIS = AttentionMaps
