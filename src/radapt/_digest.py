"""Hashes that tell weights from other weights, and images from other images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["digest"]


def digest(tensors: Iterable[Tensor]) -> str:
    """Hash of the bytes, types and shapes of tensors: tells images from others, and a model's weights from others."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()[:16]
