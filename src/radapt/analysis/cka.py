"""CKA: how alike two models represent the same images, block by block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from radapt.data import Dataset
from radapt.errors import InputError, ModelError, SettingsError
from radapt.models import VLM, Tower, capture
from radapt.precision import own_precision
from radapt.registry import nearest
from radapt.results.plots import Heatmap, Plot
from radapt.types import Pixels

from ._analysis import Analysis, image_batches, original_and_twins
from ._batches import Batches, batches_of
from ._capture import block_names, by_image

__all__ = ["ANALYSIS", "CKA", "cka"]

_TOKENS = ("all", "class", "mean")
_LEAST = 4
"""HSIC_1 divides by n - 3."""


@own_precision()
def cka(model: VLM, other: VLM, batches: Batches, *, tokens: str = "all") -> Heatmap:
    """Linear CKA between the block outputs of two models, estimated over batches (figure 2a of the paper).

    ``CKA = sum HSIC(K, L) / sqrt(sum HSIC(K, K) sum HSIC(L, L))``, sums over the batches, with ``K = X X^T`` of the
    outputs ``X`` (images x values) of a block of the one model and ``L`` of the other (Nguyen et al. 2021,
    arXiv:2010.15327, eq. 2), and the unbiased estimate of Song et al. (2012), whose sums do not depend on the batch
    size:

    ``HSIC(K, L) = [tr(K' L') + 1'K'1 1'L'1 / ((n - 1)(n - 2)) - 2 / (n - 2) 1'K'L'1] / (n (n - 3))``, ``K'`` and ``L'``
    being ``K`` and ``L`` with zeros on the diagonal.

    The memory needed does not grow with the number of batches: of each, Gram matrices (images x images) are kept.

    Args:
        model, other: models that take images of one size; their depths and widths may differ.
        batches: images in [0, 1], at least four per batch; a last batch of fewer is joined to the one before.
        tokens: ``all`` tokens of an image end to end, the ``class`` token, or their ``mean``.

    Returns:
        ``other``'s blocks in rows, ``model``'s in columns; ``Emb.`` is what enters the first block (left out with the
        class token, which enters it the same for all images).

    Raises:
        SettingsError: an unknown choice of tokens.
        ModelError: the models take images of different sizes, or have no class token.
        InputError: there are no images, or too few in a batch, or a block gives the same for all of them.
    """
    if tokens not in _TOKENS:
        raise SettingsError(f"unknown choice of tokens {tokens!r}{nearest(tokens, _TOKENS)}")
    if model.image_size != other.image_size:
        sizes = " and ".join(
            f"{each.name} takes {each.image_size[0]} x {each.image_size[1]}" for each in (model, other)
        )
        raise ModelError(f"CKA shows both models the same images, but {sizes} pixels; compare models of one size")
    for each in (model, other):
        if tokens == "class" and not each.tower.layout.prefix:
            raise ModelError(f"{each.name} has no class token; use tokens 'all' or 'mean'")
    across, own, others = _sums(model, other, batches, tokens)
    names = {each: block_names(each.tower)[tokens == "class" :] for each in (model, other)}
    for name, alike, blocks in ((model.name, own, names[model]), (other.name, others, names[other])):
        for block, value in zip(blocks, alike.tolist(), strict=True):
            if not value > 0:
                raise InputError(f"{block} of {name} gives the same for all images: CKA is not defined; take others")
    values = across / (others[:, None] * own).sqrt()
    return Heatmap(
        title=f"Linear CKA of {model.name} and {other.name}",
        row_label=f"block of {other.name}",
        column_label=f"block of {model.name}",
        rows=names[other],
        columns=names[model],
        values=tuple(tuple(row) for row in values.tolist()),
        value_label="CKA (1: alike)",
        ends=(0.0, 1.0),
    )


def _sums(model: VLM, other: VLM, batches: Batches, tokens: str) -> tuple[Tensor, Tensor, Tensor]:
    """HSIC of all pairs of blocks (those of ``other`` in rows), and of every block with itself, summed over batches."""
    depths = [len(each.tower.blocks) + (tokens != "class") for each in (other, model)]
    across = torch.zeros(depths, dtype=torch.float64, device="cpu")
    others, own = across.new_zeros(depths[0]), across.new_zeros(depths[1])
    for pixels in batches_of(_LEAST, batches, "CKA"):
        mine = _centred(model, pixels, tokens)
        # A model beside itself runs once.
        theirs = mine if other is model else _centred(other, pixels, tokens)
        n = len(pixels)
        # With both centred so, the estimate is an inner product (Szekely & Rizzo 2014, section 3.2).
        across += theirs @ mine.T / (n * (n - 3))
        own += mine.square().sum(1) / (n * (n - 3))
        others += theirs.square().sum(1) / (n * (n - 3))
    return across, own, others


@torch.no_grad()
def _centred(model: VLM, pixels: Pixels, tokens: str) -> Float[Tensor, "blocks pairs"]:
    """Centred Gram matrices of what enters the first block, and of what leaves each, one per row."""
    tower, n = model.tower, len(pixels)

    def take(output: Any) -> Tensor:
        return _gram(_values(tower, output, n, tokens))

    with capture(list(tower.blocks), take, entering=tokens != "class") as captured:
        model.encode_image(pixels.to(model.device))
    grams = torch.stack([captured[position] for position in sorted(captured)])
    return _u_centred(grams).flatten(1)


def _values(tower: Tower, output: Any, images: int, tokens: str) -> Tensor:
    hidden = by_image(tower, output, images)
    if tokens == "class":
        return hidden[:, 0]
    return hidden.flatten(1) if tokens == "all" else hidden.float().mean(1)


def _gram(values: Float[Tensor, "images values"]) -> Float[Tensor, "images images"]:
    """Inner products in float64 on the CPU, of deviations from the mean of the batch, which changes no HSIC.

    Of the values themselves, a large common part would leave few digits for the differences.
    """
    exact = values.double()
    exact = exact - exact.mean(0)
    return (exact @ exact.T).cpu()


def _u_centred(grams: Float[Tensor, "blocks n n"]) -> Float[Tensor, "blocks n n"]:
    """Zero on the diagonal, and all rows and columns without it sum to zero (Szekely & Rizzo 2014, eq. 3.1)."""
    n = grams.shape[-1]
    hollow = grams - torch.diag_embed(grams.diagonal(dim1=1, dim2=2))
    rows = hollow.sum(2, keepdim=True) / (n - 2)
    whole = hollow.sum((1, 2), keepdim=True) / ((n - 1) * (n - 2))
    centred = hollow - rows - rows.mT + whole
    return centred - torch.diag_embed(centred.diagonal(dim1=1, dim2=2))


@final
@dataclass(frozen=True, kw_only=True)
class CKA(Analysis):
    """How alike all blocks of the twins are to all blocks of the original; see :func:`cka`.

    Args:
        tokens: ``all``, ``class`` or ``mean``.
    """

    name: ClassVar[str] = "cka"
    tokens: str = "all"

    def __call__(
        self, models: Mapping[str, VLM], data: Dataset, *, folder: Path | None = None, quiet: bool = False
    ) -> list[Plot]:
        (name, model), others = original_and_twins(models, self.name)
        plots = list[Plot]()
        for label, other in others:
            heatmap = cka(model, other, image_batches(data, f"CKA of {label}", quiet), tokens=self.tokens)
            title = f"CKA of {label} and {name} (n = {len(data)})"
            plots.append(
                replace(heatmap, title=title, row_label=f"blocks of {label}", column_label=f"blocks of {name}")
            )
        return plots


ANALYSIS = CKA
