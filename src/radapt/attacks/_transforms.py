"""Attacks through what has no useful gradient of its own: stochastic models, and preprocessors."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from radapt.types import Index, Pixels

from ._objective import Objective, Score, checked, labels_in
from ._settings import whole

__all__ = ["EOT", "bpda", "jpeg", "round_8bit"]

_Map = Callable[[Pixels], Pixels]


class EOT:
    """Expectation over transformations (Athalye et al. 2018, arXiv:1707.07397): the mean of several random passes.

    Loss, logits and gradient are means over ``samples`` passes; a sample counts as fooled when it is in
    more than half of the passes. The graph of all passes is held in memory at once.

    Args:
        objective: an objective whose passes differ by chance.
        samples: number of passes.

    Raises:
        SettingsError: ``samples`` is less than 1.
    """

    def __init__(self, objective: Objective, samples: int = 20) -> None:
        whole("samples", samples)
        self._objective, self._samples = checked(objective), samples
        self.size, self.losses = objective.size, objective.losses
        self.stop, self.classes, self.passes_per_call = (
            objective.stop,
            objective.classes,
            samples * objective.passes_per_call,
        )
        self.labels = labels_in(objective)

    def __call__(self, pixels: Pixels, index: Index, *, loss: str = "", **towards: Index) -> Score:
        scores = [self._objective(pixels.clone(), index.clone(), loss=loss, **towards) for _ in range(self._samples)]
        votes = torch.stack([score.fooled for score in scores]).float().mean(0)
        logits = [score.logits for score in scores if score.logits is not None]
        mean = torch.stack(logits).mean(0) if logits else None
        return Score(torch.stack([score.loss for score in scores]).mean(0), votes > 0.5, mean)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pixels: Tensor, function: _Map, backward: _Map | None) -> Tensor:
        ctx.backward_map = backward
        ctx.save_for_backward(pixels)
        return function(pixels.detach().clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        if ctx.backward_map is None:
            return gradients[0], None, None
        (pixels,) = ctx.saved_tensors
        with torch.enable_grad():
            leaf = pixels.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(ctx.backward_map(leaf.clone()), leaf, gradients[0])
        return gradient, None, None


def bpda(function: _Map, backward: _Map | None = None) -> _Map:
    """Backward pass differentiable approximation (Athalye et al. 2018, arXiv:1802.00420, section 4.1).

    Args:
        function: a map of images without a useful gradient (``jpeg(75)``, ``round_8bit``), applied as it is.
        backward: the differentiable map whose gradient is used instead; None for the identity, which needs images of
            the same shape.

    Returns:
        A map with the values of ``function`` and the gradient of ``backward``.
    """

    def through(pixels: Pixels) -> Pixels:
        result: Pixels = _StraightThrough.apply(pixels, function, backward)  # type: ignore[no-untyped-call]
        return result

    return through


def round_8bit(pixels: Pixels) -> Pixels:
    """Images rounded to the 256 levels of a file; no useful gradient."""
    return (pixels * 255).round() / 255


def jpeg(quality: int = 75) -> _Map:
    """JPEG compression by Pillow, image by image; no gradient.

    Args:
        quality: 1 (worst) to 95 (best).

    Raises:
        SettingsError: a quality out of range.
    """
    whole("quality", quality, 1, 95)

    def compress(pixels: Pixels) -> Pixels:
        images = (pixels.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return torch.stack([_compressed(image, quality) for image in images]).to(pixels)

    return compress


def _compressed(image: NDArray[np.uint8], quality: int) -> Tensor:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1).float() / 255
