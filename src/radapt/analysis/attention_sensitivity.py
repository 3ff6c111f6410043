"""How much the attention of each head depends on the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from radapt.data import Dataset
from radapt.errors import InputError, ModelError
from radapt.models import VLM, attention_weights
from radapt.precision import own_precision
from radapt.results.plots import Heatmap, Plot
from radapt.types import Pixels

from ._analysis import Analysis, image_batches, original_and_twins
from ._batches import Batches, batches_of

__all__ = ["ANALYSIS", "AttentionSensitivity", "attention_sensitivity"]


@own_precision()
def attention_sensitivity(model: VLM, reference: VLM | None, batches: Batches) -> Heatmap:
    """How much attention depends on the image, by block and head, against a reference.

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
    for pixels in batches_of(2, batches, "attention-sensitivity"):
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
    found = attention_weights(model, pixels, range(len(model.tower.blocks)), partial(_changes, len(pixels)))
    return torch.stack(found)


def _changes(images: int, weights: Float[Tensor, "rows heads queries keys"]) -> Float[Tensor, " heads"]:
    # Tiles of an image are compared with the same tiles of the next.
    tiles = len(weights) // images
    change = (weights - weights.roll(-tiles, 0)).abs_().sum(-1, dtype=torch.float32).mean(-1) / 2
    return (change.double().sum(0) / tiles).cpu()


@final
@dataclass(frozen=True, kw_only=True)
class AttentionSensitivity(Analysis):
    """How much the attention of the twins depends on the image, by block and head: :func:`attention_sensitivity`."""

    name: ClassVar[str] = "attention-sensitivity"

    def __call__(
        self, models: Mapping[str, VLM], data: Dataset, *, folder: Path | None = None, quiet: bool = False
    ) -> list[Plot]:
        (name, model), others = original_and_twins(models, self.name)
        plots = list[Plot]()
        for label, other in others:
            heatmap = attention_sensitivity(other, model, image_batches(data, f"attention of {label}", quiet))
            plots.append(
                replace(heatmap, title=f"How much the attention of {label} depends on the image, against {name}")
            )
        return plots


ANALYSIS = AttentionSensitivity
