"""What attacks are given: images and labels in whatever form they come, checked and converted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from radapt.errors import InputError
from radapt.types import Labels, Pixels

__all__ = ["TOLERANCE", "TensorLike", "images_of", "labels_of"]

TensorLike = Tensor | NDArray[Any] | Sequence[Any]
"""A tensor, an array, or a list of either or of numbers."""

TOLERANCE = 1e-6
"""How far outside [0, 1] a pixel may lie: as far as rounding takes it."""


def images_of(name: str, images: TensorLike) -> Pixels:
    """Images as a new float32 tensor in [0, 1], without gradients; rounding of the order of 1e-8 outside is forgiven.

    Args:
        name: what messages call them.
        images: floating-point values of any precision and memory layout, N x 3 x height x width; or a list of images.

    Raises:
        InputError: they are no such images.
    """
    with torch.inference_mode(False), torch.no_grad():
        pixels = _tensor(name, images)
        if not pixels.is_floating_point():
            raise InputError(f"{name} must be floating-point values in [0, 1], got {pixels.dtype}; divide bytes by 255")
        if pixels.ndim != 4 or pixels.shape[1] != 3 or 0 in pixels.shape:
            raise InputError(
                f"{name} must be N x 3 x height x width with at least one image, got {tuple(pixels.shape)}"
            )
        pixels = pixels.detach().float().contiguous()
        if pixels.isnan().any():
            raise InputError(f"{name} of sample {int(pixels.isnan().flatten(1).any(1).nonzero()[0])} contain NaN")
        low, high = pixels.aminmax()
        if low < -TOLERANCE or high > 1 + TOLERANCE:
            raise InputError(
                f"{name} must lie in [0, 1], got {low:.4g} to {high:.4g}; give images before normalisation (the model "
                "normalises) and divide bytes by 255"
            )
        return pixels.clamp(0, 1)


def labels_of(labels: TensorLike, *, classes: int | None = None) -> Labels:
    """Labels as a new int64 tensor.

    Args:
        labels: whole numbers of any type, one per sample; or one-hot rows, samples x classes, one 1 in each.
        classes: number of classes; None: not known, so that ranges are not checked.

    Raises:
        InputError: they are no such labels, or out of range.
    """
    with torch.inference_mode(False), torch.no_grad():
        given = _tensor("labels", labels).detach()
        if given.ndim == 2:
            hot = given == 1
            if given.shape[1] < 2 or not (hot | (given == 0)).all() or not (hot.sum(1) == 1).all():
                raise InputError(
                    f"labels must be one class per image, or one-hot rows with a single 1 in each; got "
                    f"{tuple(given.shape)} of {given.dtype} without that"
                )
            if classes is not None and given.shape[1] != classes:
                raise InputError(f"one-hot labels have {given.shape[1]} columns, but the model has {classes} classes")
            return hot.long().argmax(1)
        if given.ndim != 1 or given.dtype == torch.bool or given.is_floating_point() or given.is_complex():
            raise InputError(
                f"labels must be whole numbers, one class per image; got {tuple(given.shape)} of {given.dtype}"
            )
        numbers = given.to(torch.int64, copy=True)
        if classes is not None and len(numbers) and (int(numbers.min()) < 0 or int(numbers.max()) >= classes):
            raise InputError(f"labels must lie in 0..{classes - 1}, got {int(numbers.min())}..{int(numbers.max())}")
        return numbers


def _tensor(name: str, given: Any) -> Tensor:
    """A tensor from whatever was given, with the values and the type that it has."""
    if isinstance(given, Tensor):
        return given
    try:
        if isinstance(given, list | tuple) and any(isinstance(each, Tensor | np.ndarray) for each in given):
            return _stacked(name, [_tensor(name, each) for each in given])
        if isinstance(given, np.ndarray | list | tuple | np.generic) or hasattr(given, "__array__"):
            array = np.array(given)
            if array.dtype.kind in "iu" and array.dtype.itemsize > 1:
                array = array.astype(np.int64)
            return torch.tensor(array.astype(array.dtype.newbyteorder("=")), device="cpu")
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{name} cannot be read as one tensor: {error}") from error
    raise InputError(f"{name} must be a tensor, an array or a list of these, got {type(given).__name__}")


def _stacked(name: str, parts: Sequence[Tensor]) -> Tensor:
    shapes, kinds = {tuple(part.shape) for part in parts}, {part.dtype for part in parts}
    if len(shapes) > 1:
        raise InputError(f"{name} must all have one shape, got {', '.join(str(shape) for shape in sorted(shapes))}")
    if len(kinds) > 1 and not all(part.is_floating_point() for part in parts):
        raise InputError(f"{name} must all have one type, got {', '.join(sorted(str(kind) for kind in kinds))}")
    return torch.stack([part.float() if len(kinds) > 1 else part for part in parts])
