"""Replicas: one model several times on the same weights, each with what is attached to it alone."""

from __future__ import annotations

import copy
from typing import TypeVar

from ._vlm import VLM

__all__ = ["Model", "replica"]

Model = TypeVar("Model", bound=VLM)


def replica(model: Model) -> Model:
    """The same model once more, on the same weights, without what is attached to it.

    What is attached to one of the two, or observed in it, leaves the other as it is, so that they may run at the same
    time in several threads. It takes no memory for weights; an adapter with deltas keeps its changed weights apart.

    Args:
        model: the model; it is not changed.
    """
    tensors = [*model.model.parameters(), *model.model.buffers()]
    other = copy.copy(model)
    other.model = copy.deepcopy(model.model, {id(tensor): tensor for tensor in tensors})
    other.input_transform = None
    other.tower.unmount()
    return other
