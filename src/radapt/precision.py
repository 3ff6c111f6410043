"""The precision in which figures are computed: the model's own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

__all__ = ["own_precision"]

_DEVICES = ("cpu", "cuda", "xpu", "mps", "hpu")


@contextmanager
def own_precision() -> Iterator[None]:
    """Switch the caller's autocast off, for the time of a ``with`` block or of a function that this decorates.

    Under autocast a model answers in half precision although its weights are not: an image may pass for fooled that is
    not, and so be attacked no more, and a stored figure would not say so. What a model casts in its own forward pass is
    part of the model, and stays.

    Warns:
        UserWarning: there was one to switch off.
    """
    found = [device for device in _DEVICES if torch.is_autocast_enabled(device)]
    if found:
        warnings.warn(
            f"autocast ({', '.join(found)}) is switched off here, so that figures are of the model as it is; to "
            "measure it in half precision, load it so (dtype=torch.bfloat16); to search in that and verify in the "
            "model's own, give radapt.attack precision=torch.bfloat16",
            stacklevel=4,
        )
    with ExitStack() as stack:
        for device in found:
            stack.enter_context(torch.autocast(device, enabled=False))
        yield
