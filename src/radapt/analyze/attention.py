"""Attention: where a block looks, and how much that hangs on the image at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from radapt.analyze._batches import Batches, batches_of
from radapt.analyze._capture import capture, eager
from radapt.errors import InputError, ModelError, SettingsError
from radapt.find import nearest
from radapt.models import VLM
from radapt.plots import Heatmap, Pictures
from radapt.types import Pixels

__all__ = ["attention_maps", "insensitivity"]

_QUERIES = ("mean", "class")
_DIGITS = 4


def attention_maps(model: VLM | Mapping[str, VLM], pixels: Pixels, *, block: int = 0, query: str = "mean") -> Pictures:
    """How much each patch of some images is attended to in a block: the mean over heads, and over queries.

    Every map is stretched to [0, 1] by itself, so that maps compare in shape and not in strength.

    Args:
        model: a model, or several by the name of their row.
        pixels: images in [0, 1], of the models' size.
        block: number of the block, 0 being the first.
        query: whose attention is shown: the ``mean`` over all tokens, or the ``class`` token's.

    Returns:
        The images in the first row, and below it a row of maps per model, each as large as its image.

    Raises:
        SettingsError: an unknown query, or no such block.
        ModelError: a model gives no attention maps, or has no class token.
        InputError: there are no models or images, or images of the wrong shape.
    """
    if query not in _QUERIES:
        raise SettingsError(f"unknown query {query!r}{nearest(query, _QUERIES)}")
    models = {model.name: model} if isinstance(model, VLM) else dict(model)
    if not models or not len(pixels):
        raise InputError(f"attention maps need models and images, got {len(models)} and {len(pixels)}")
    for name, each in models.items():
        depth = len(each.tower.blocks)
        if not 0 <= block < depth:
            raise SettingsError(f"{name} has no block {block}; its blocks are 0 to {depth - 1}")
        if query == "class" and not each.tower.layout.prefix:
            raise ModelError(f"{name} has no class token; use query 'mean'")
    images = [_plain(image.permute(1, 2, 0)) for image in pixels]
    maps = [[_plain(each) for each in _maps(model, pixels, block, query)] for model in models.values()]
    asked = "the class token" if query == "class" else "all tokens"
    return Pictures(
        title=f"Attention in block {block + 1}",
        rows=("image", *models),
        columns=tuple(str(number) for number in range(1, len(pixels) + 1)),
        images=(tuple(images), *map(tuple, maps)),
        note=f"Attention of {asked} to each patch, mean over the heads; 0 is the least of a map, 1 the most.",
    )


def _maps(model: VLM, pixels: Pixels, block: int, query: str) -> Float[Tensor, "images height width"]:
    """Maps of the size of the images."""
    tower = model.tower
    [weights] = _captured(model, pixels, [block], lambda weights: weights.float().mean(1))
    # The tiles of an image follow one another, the whole image first (LLaVA-NeXT): that one is shown.
    weights = weights.view(len(pixels), -1, *weights.shape[1:])[:, 0]
    attended = weights[:, 0] if query == "class" else weights.mean(1)
    patches = attended[:, tower.layout.prefix :]
    height, width = pixels.shape[-2:]
    grid = (height // tower.patch_size, width // tower.patch_size)
    if grid[0] * grid[1] != patches.shape[1]:
        grid = tower.grid
    low, high = patches.aminmax(dim=1, keepdim=True)
    scaled = (patches - low) / (high - low).where(high > low, 1.0)
    return F.interpolate(scaled.view(-1, 1, *grid), size=(height, width), mode="nearest")[:, 0]


def insensitivity(model: VLM, reference: VLM | None, batches: Batches) -> Heatmap:
    """How much attention hangs on the image, by block and head, against a reference.

    The distance of a head is the mean total variation between its maps ``a`` of different images, each against the next
    of its batch and the last against the first: ``mean_q 1/2 sum_k |a_qk(x) - a_qk(x')|``, over the queries ``q`` and
    keys ``k``, 0 where the map is the same whatever the image, 1 at most. The value is the model's distance over the
    reference's: below 1, it reacts less to its input (after the paper's second finding on the first block; the measure
    is ours).

    The memory needed does not grow with the number of batches.

    Args:
        model: the model.
        reference: the clean model that it was fine-tuned from; None: the distances themselves.
        batches: images in [0, 1], at least two per batch; a last batch of one is joined to the one before.

    Returns:
        Blocks in rows; heads in columns, and ``all``: the ratio of the means over heads.

    Raises:
        ModelError: a model gives no attention maps, or the models differ in depth, heads or image size.
        InputError: there are no images, or too few in a batch, or a head of the reference never reacts to them.
    """
    models = [model] if reference is None else [model, reference]
    shapes = [(each.image_size, len(each.tower.blocks)) for each in models]
    if len(set(shapes)) > 1:
        raise _unlike(models, [f"{size[0]} x {size[1]} pixels and {depth} blocks" for size, depth in shapes])
    sums: list[Tensor] = []
    images = 0
    for pixels in batches_of(2, batches, "insensitivity"):
        distances = [_distances(each, pixels) for each in models]
        heads = [each.shape[1] for each in distances]
        if len(set(heads)) > 1:
            raise _unlike(models, [f"{number} heads" for number in heads])
        sums = [old + new for old, new in zip(sums, distances, strict=True)] if sums else distances
        images += len(pixels)
    means = [torch.cat([each, each.mean(1, keepdim=True)], 1) / images for each in sums]
    names = (*(f"H{number}" for number in range(1, sums[0].shape[1] + 1)), "all")
    rows = tuple(f"B{number}" for number in range(1, len(model.tower.blocks) + 1))
    if reference is None:
        values, what, label, centre = means[0], model.name, "total variation (0: none)", None
    else:
        if not means[1].all():
            block, head = (means[1] == 0).nonzero()[0].tolist()
            raise InputError(
                f"{rows[block]}, {names[head]} of the reference {reference.name} attends in the same way to all "
                f"images, so that nothing can be less sensitive; take other images, or no reference"
            )
        values, what = means[0] / means[1], f"{model.name} over {reference.name}"
        label, centre = "ratio of total variations (below 1: less sensitive)", 1.0
    return Heatmap(
        title=f"Change of attention between images: {what} (n = {images})",
        row_label="block",
        column_label="head",
        rows=rows,
        columns=names,
        values=tuple(tuple(row) for row in values.tolist()),
        value_label=label,
        centre=centre,
    )


def _unlike(models: list[VLM], facts: list[str]) -> ModelError:
    listed = " and ".join(f"{model.name} has {fact}" for model, fact in zip(models, facts, strict=True))
    return ModelError(
        f"attention is compared head by head, but {listed}; the reference must be of the same architecture"
    )


def _distances(model: VLM, pixels: Pixels) -> Float[Tensor, "blocks heads"]:
    """Sums over the images of the distances between the maps of each and of the next."""
    found = _captured(model, pixels, range(len(model.tower.blocks)), partial(_changes, len(pixels)))
    return torch.stack(found)


def _changes(images: int, weights: Float[Tensor, "rows heads queries keys"]) -> Float[Tensor, " heads"]:
    # Tiles of an image are compared with the same tiles of the next.
    tiles = len(weights) // images
    change = (weights - weights.roll(-tiles, 0)).abs_().sum(-1, dtype=torch.float32).mean(-1) / 2
    return (change.double().sum(0) / tiles).cpu()


@torch.no_grad()
def _captured(model: VLM, pixels: Pixels, blocks: Sequence[int], take: Any) -> list[Tensor]:
    """What ``take`` makes of the attention maps (rows x heads x queries x keys) of some blocks."""

    def weights(output: Any) -> Tensor:
        if not (
            isinstance(output, tuple) and len(output) > 1 and isinstance(output[1], Tensor) and output[1].ndim == 4
        ):
            raise ModelError(
                f"{model.name} gives no attention maps; a CLIP, a SigLIP and a LLaVA on one do, in the format of "
                "transformers (radapt.load turns a checkpoint of open_clip into that), and a Qwen-VL does not"
            )
        kept: Tensor = take(output[1])
        return kept

    modules = [model.tower.attention_of(block) for block in blocks]
    with eager(model), capture(modules, weights) as captured:
        model.encode_image(pixels.to(model.device))
    return [captured[position] for position in range(len(blocks))]


def _plain(picture: Float[Tensor, "height width *channels"]) -> Any:
    """A picture as tuples of numbers."""

    def tuples(value: Any) -> Any:
        return tuple(map(tuples, value)) if isinstance(value, list) else round(value, _DIGITS)

    return tuples(picture.detach().cpu().double().tolist())
