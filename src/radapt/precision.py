"""The precision in which figures are computed: the model's own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

__all__ = ["own_precision"]

_DEVICES = ("cpu", "cuda", "xpu", "mps", "hpu")
_BACKENDS: Any = torch.backends
_MATMULS = (_BACKENDS.cuda.matmul, _BACKENDS.mkldnn.matmul)


@contextmanager
def own_precision() -> Iterator[None]:
    """Switch off what rounds a model's arithmetic, for a ``with`` block or a function that this decorates.

    Under autocast, or with products of float32 in TensorFloat-32 or bfloat16 (``set_float32_matmul_precision``), a
    model answers otherwise than its weights say: an image may pass for fooled that is not, and so be attacked no more,
    and a stored figure would not say so. What a model casts in its own forward pass is part of the model, and stays.

    Warns:
        UserWarning: there was something to switch off.
    """
    found = [device for device in _DEVICES if torch.is_autocast_enabled(device)]
    before = [matmul.fp32_precision for matmul in _MATMULS]
    rounds = [f"products in {each}" for each in dict.fromkeys(before) if each not in ("none", "ieee")]
    if what := [f"autocast on {device}" for device in found] + rounds:
        warnings.warn(
            f"switched off here: {', '.join(what)}; figures are of the model as it is. To measure it in half "
            "precision, load it so (dtype=torch.bfloat16); to search in half precision and verify in the model's own, "
            "give radapt.attack precision=torch.bfloat16",
            stacklevel=4,
        )
    with ExitStack() as stack:
        for device in found:
            stack.enter_context(torch.autocast(device, enabled=False))
        if rounds:
            stack.callback(_set, before)
            _set(["ieee"] * len(_MATMULS))
        yield


def _set(precisions: list[str]) -> None:
    for matmul, precision in zip(_MATMULS, precisions, strict=True):
        matmul.fp32_precision = precision
