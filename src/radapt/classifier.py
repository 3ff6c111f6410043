"""Any classifier, run safely: it gets pixels of its own in a precision that it takes, and must give logits."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from radapt.errors import InputError
from radapt.types import Logits, Pixels

__all__ = ["AnyClassifier"]


@final
class AnyClassifier:
    """A module or a function from pixels to logits.

    It is given a copy of the pixels, which it may overwrite. They are in float32 as they come; a module that fails on
    these and whose weights are of another precision (``float16``, ``float64``) is given that from then on.

    Args:
        model: maps pixels in [0, 1] (batch x 3 x height x width, before normalisation) to logits (batch x classes), or
            to an object whose ``logits`` they are, such as a ``ModelOutput`` of transformers.
        name: what messages call it.

    Warns:
        UserWarning: it is a classifier of transformers, which does not normalise images itself.
    """

    def __init__(self, model: Callable[[Pixels], Any], name: str = "the model") -> None:
        if type(model).__name__.endswith("ForImageClassification"):
            warnings.warn(
                f"{name} is a {type(model).__name__} of transformers, which takes images that its image processor has "
                "normalised; here it gets pixels in [0, 1]. Give a function that normalises them first: lambda pixels: "
                "model((pixels - mean) / std)",
                stacklevel=2,
            )
        self._model, self._name = model, name
        self._precision: torch.dtype | None = None
        self._known: torch.dtype | None = None  # of the weights, when that was found out

    def __call__(self, pixels: Pixels) -> Logits:
        """Logits in float32, differentiable with respect to the pixels.

        Raises:
            InputError: the output is something else.
        """
        output = self._output(pixels)
        logits = getattr(output, "logits", output)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(pixels):
            raise InputError(
                f"{self._name} must map images to logits, batch x classes; from {len(pixels)} images it made "
                f"{_described(logits)}"
            )
        return logits.float()

    def _output(self, pixels: Pixels) -> Any:
        weights = self._weights()
        if self._precision is None or weights != self._known:
            self._precision, self._known = pixels.dtype, weights
            if weights not in (None, pixels.dtype):
                try:
                    return self._model(pixels.clone())
                except RuntimeError as error:
                    if isinstance(error, torch.OutOfMemoryError):
                        self._precision = None
                        raise
                self._precision = weights
        return self._model(pixels.to(self._precision, copy=True))

    def _weights(self) -> torch.dtype | None:
        """Precision of a module's first floating-point weight."""
        if not isinstance(self._model, nn.Module):
            return None
        return next((each.dtype for each in self._model.parameters() if each.is_floating_point()), None)


def _described(output: object) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    if isinstance(output, Mapping):
        keys = ", ".join(repr(key) for key in output)
        return f"a {type(output).__name__} of {keys}; give a function that takes the logits out of it"
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of {len(output)}; give a function that takes the logits out of it"
    return f"a {type(output).__name__}"
