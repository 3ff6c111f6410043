"""Classifiers that are no vision-language models: any module or function from pixels to logits."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor, nn

from radapt.classifier import AnyClassifier
from radapt.errors import InputError, ModelError
from radapt.fingerprint import code_digest
from radapt.types import Classifier, Embeddings, Logits, Pixels

from ._mode import random_parts
from ._tower import Tower
from ._zero_shot import ZeroShotModel

__all__ = ["ClassifierModel"]


class _Function(nn.Module):
    """A function as a module without weights."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, pixels: Tensor) -> Any:
        return self.function(pixels)


class ClassifierModel(ZeroShotModel):
    """A classifier of pixels in [0, 1], such as a defended model of your own, for zero-shot sets of its classes.

    Its logits are those of the dataset's classes, in their order; there is no vision tower that an adapter could be
    attached to, and no text encoder. A module keeps its mode, as its dropout may be the defence: put it into evaluation
    mode yourself; a warning says where it is random or learns from the images.

    Args:
        name: what reports call it.
        model: a module or a function from pixels (batch x 3 x height x width, in [0, 1], before normalisation) to
            logits (batch x classes), or to an object whose ``logits`` they are.
        image_size: height and width of its input, in pixels.
    """

    def __init__(self, name: str, model: nn.Module | Callable[..., Any], *, image_size: tuple[int, int]) -> None:
        module = model if isinstance(model, nn.Module) else _Function(model)
        super().__init__(name, module, image_size=image_size)
        self._source, self._classifier = model, AnyClassifier(module, name)

    @property
    def tower(self) -> Tower:
        raise ModelError(f"{self.name} is a classifier of your own, without a vision tower that is known here")

    def image_parameters(self) -> dict[str, Tensor]:
        return dict(self.model.named_parameters())

    def evaluating(self) -> AbstractContextManager[None]:
        """Nothing: the module keeps its mode."""
        return nullcontext()

    @property
    def fingerprint(self) -> str:
        return code_digest(self._source)

    def encode_image(self, pixels: Pixels) -> Embeddings:
        """The logits: what the classifier makes of images."""
        return self._run(pixels)

    def classifier(self, prompts: Sequence[Sequence[str]]) -> Classifier:
        """One unit vector per class, for :meth:`logits` to know their number; the prompts are not used.

        Warns:
            UserWarning: parts of the module are in training mode, and so random, or learn from what they see.
        """
        found = random_parts(self.model)
        if found:
            warnings.warn(
                f"{self.name} has {', '.join(found)} in training mode, so that its answers are random or change with "
                "the images that it sees; call .eval() on it, unless that is the defence",
                stacklevel=2,
            )
        return torch.eye(len(prompts), dtype=torch.float32, device="cpu")

    def logits(self, pixels: Pixels, classifier: Classifier) -> Logits:
        """The classifier's own logits.

        Raises:
            InputError: they are not one per class of the dataset.
        """
        logits = self._run(pixels)
        if logits.shape[1] != len(classifier):
            raise InputError(
                f"{self.name} gives {logits.shape[1]} logits, but the dataset has {len(classifier)} classes; they must "
                "be those of the dataset, in its order"
            )
        return logits

    def _run(self, pixels: Pixels) -> Tensor:
        return self._classifier(self.transformed(pixels))

    def preprocess(self, image: Image) -> Float[Tensor, "3 height width"]:
        raise ModelError(f"{self.name} is a classifier of your own; resize images to {self.image_size} yourself")

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        raise ModelError(f"{self.name} is a classifier of your own; save it yourself")
