"""Batches of images as analyses take them: large enough for the estimate, and not one image left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from radapt.attacks import images_of
from radapt.errors import InputError
from radapt.types import Pixels

__all__ = ["Batches", "batches_of", "each_of"]

Batches = Iterable[Float[Tensor, "_ 3 _ _"]] | Float[Tensor, "_ 3 _ _"]
"""Batches of images in [0, 1], before normalisation, or one batch; their sizes may differ from one to the next."""


def each_of(batches: Batches) -> Iterator[Tensor]:
    """Each batch; a tensor of images is one."""
    yield from [batches] if isinstance(batches, Tensor) and batches.ndim == 4 else batches


def batches_of(least: int, batches: Batches, purpose: str) -> Iterator[Float[Tensor, "_ 3 _ _"]]:
    """The batches, the last one joined to the one before where it is too small; at most two are held at a time.

    Args:
        least: smallest number of images per batch.
        batches: images in [0, 1].
        purpose: what needs them, for messages.

    Raises:
        InputError: there are no images, or too few in a batch that is not the last of several, or images out of range.
    """
    waiting: Pixels | None = None
    small: Pixels | None = None
    for given in each_of(batches):
        batch = images_of("images", given) if len(given) else given
        if small is not None:
            raise _few(least, len(small), purpose)
        if len(batch) >= least:
            if waiting is not None:
                yield waiting
            waiting = batch
        elif waiting is None:
            raise _few(least, len(batch), purpose)
        elif len(batch):
            if batch.shape[1:] != waiting.shape[1:]:
                raise _few(least, len(batch), purpose)
            small = batch
    if waiting is None:
        raise InputError(f"{purpose} needs images, got no batch")
    yield waiting if small is None else torch.cat([waiting, small])


def _few(least: int, got: int, purpose: str) -> InputError:
    return InputError(
        f"{purpose} needs at least {least} images per batch, got {got}; only the last of several batches of one size "
        "may be smaller, and is then joined to the one before"
    )
