"""VLM: a loaded vision-language model that takes pixels in [0, 1] and owns its normalisation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from PIL.Image import Image
from torch import Tensor, nn

from radapt.errors import InputError, ModelError
from radapt.types import Classifier, Embeddings, Flags, Index, Logits, PerSample, Pixels

from ._tower import Tower

__all__ = ["VLM", "Tokens", "check_texts"]


@dataclass(frozen=True, eq=False)
class Tokens:
    """Prompts and answers as token numbers; in all rows, prompts end and answers begin at the same column.

    Args:
        ids: rows x columns, with one place for the image in each row; padded on the left of the prompt and on the right
            of the answer.
        mask: which of them are no padding.
        answer: number of columns, the last ones, that hold the answers.
    """

    ids: Int[Tensor, "rows columns"]
    mask: Bool[Tensor, "rows columns"]
    answer: int

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: Index | slice) -> Tokens:
        """Some of the rows."""
        return Tokens(self.ids[rows], self.mask[rows], self.answer)


class VLM(ABC):
    """A vision-language model behind one interface; nothing in it is ever trained in place.

    Args:
        name: what reports call it: its name on the hub, its folder, or ``micro/...``.
        model: the module itself.
        image_size: height and width of its input, in pixels.
    """

    def __init__(self, name: str, model: nn.Module, *, image_size: tuple[int, int]) -> None:
        self.name, self.model, self.image_size = name, model, image_size

    @property
    @abstractmethod
    def tower(self) -> Tower:
        """The vision encoder."""

    @property
    def logit_scale(self) -> float:
        """Factor of the cosine between image and text that gives logits.

        Raises:
            ModelError: the model has no text encoder.
        """
        raise self._without("text encoder", "a CLIP or SigLIP")

    @abstractmethod
    def image_parameters(self) -> dict[str, Tensor]:
        """What the image embedding depends on, by name: the vision encoder and its projection."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def to(self, device: torch.device | str) -> Self:
        """Move the weights, in place."""
        self.model.to(device)
        return self

    def normalize(self, pixels: Pixels) -> Pixels:
        """Map pixels in [0, 1] to what the vision encoder takes; differentiable."""
        if pixels.ndim != 4 or pixels.shape[1] != 3 or not pixels.is_floating_point():
            raise InputError(
                f"pixels must be a float tensor, batch x 3 x height x width, in [0, 1]; "
                f"got {tuple(pixels.shape)} of {pixels.dtype}"
            )
        return self.tower.normalize(pixels)

    @abstractmethod
    def encode_image(self, pixels: Pixels) -> Embeddings:
        """Unnormalised image embeddings; differentiable with respect to the pixels.

        Args:
            pixels: images in [0, 1], batch x 3 x height x width.

        Raises:
            InputError: wrong shape or dtype.
        """

    def encode_patches(self, pixels: Pixels) -> Float[Tensor, "batch patches embedding"]:
        """Unnormalised embedding of each patch, row by row: what the image embedding is made of its class token.

        Args:
            pixels: images in [0, 1], batch x 3 x height x width.

        Raises:
            InputError: wrong shape or dtype.
            ModelError: the model's image embedding is not a projection of one token.
        """
        raise self._without("projection of single patches", "a CLIP of transformers")

    def encode_text(self, texts: Sequence[str]) -> Embeddings:
        """Unnormalised text embeddings.

        Raises:
            InputError: no texts, or an empty one.
            ModelError: the model came without a tokenizer, or has no text encoder.
        """
        raise self._without("text encoder", "a CLIP or SigLIP")

    def tokenize(self, prompts: Sequence[str], answers: Sequence[str] = ()) -> Tokens:
        """Prompts, and answers to them, as a generative model reads them; see :class:`Tokens`.

        Raises:
            InputError: no prompts, an empty one, or more than the model can hold.
            ModelError: the model does not generate text.
        """
        raise self._without("language model", "a LLaVA or Qwen-VL")

    def read(self, pixels: Pixels, tokens: Tokens) -> tuple[PerSample, Flags]:
        """How a generative model takes answers: their loss, and whether it would say them.

        Args:
            pixels: images in [0, 1], one per row of ``tokens``.
            tokens: prompts with answers, from :meth:`tokenize`.

        Returns:
            The negative log-likelihood per token of each answer, its end included, in float32, differentiable with
            respect to the pixels; and whether greedy decoding gives exactly that answer.

        Raises:
            InputError: wrong images, or not one per row.
            ModelError: the model does not generate text.
        """
        raise self._without("language model", "a LLaVA or Qwen-VL")

    def answer_loss(self, pixels: Pixels, prompts: Sequence[str], answers: Sequence[str]) -> PerSample:
        """Negative log-likelihood per token of answers; see :meth:`read`."""
        return self.read(pixels, self.tokenize(prompts, answers))[0]

    def generate(self, pixels: Pixels, prompts: Sequence[str] | Tokens, *, longest: int = 20) -> list[str]:
        """What a generative model answers, by greedy decoding.

        Args:
            pixels: images in [0, 1].
            prompts: one per image.
            longest: most tokens of an answer.

        Raises:
            InputError: no prompts, an empty one, or not one per image.
            ModelError: the model does not generate text.
        """
        raise self._without("language model", "a LLaVA or Qwen-VL")

    def _without(self, part: str, needed: str) -> ModelError:
        return ModelError(f"{self.name} has no {part}; this needs {needed}")

    def classifier(self, prompts: Sequence[Sequence[str]]) -> Classifier:
        """Zero-shot classifier: one unit vector per class, the mean over its prompts (Radford et al. 2021, 3.1.4).

        Args:
            prompts: for each class, its name in every template.
        """
        flat = [text for texts in prompts for text in texts]
        if not all(prompts):
            raise InputError("every class needs at least one prompt")
        unit = F.normalize(self.encode_text(flat).float(), dim=-1)
        return F.normalize(torch.stack([part.mean(0) for part in unit.split([len(p) for p in prompts])]), dim=-1)

    def logits(self, pixels: Pixels, classifier: Classifier) -> Logits:
        """Scaled cosines between images and classes, in float32; differentiable with respect to the pixels.

        Args:
            pixels: images in [0, 1].
            classifier: unit vectors, classes x embedding, from :meth:`classifier`.
        """
        embedding = self.encode_image(pixels).float()
        # Under autocast, the product would be one of half precision, too coarse for logits of a hundred.
        with torch.autocast(embedding.device.type, enabled=False):
            return self.logit_scale * F.normalize(embedding, dim=-1) @ classifier.T

    @abstractmethod
    def preprocess(self, image: Image) -> Float[Tensor, "3 height width"]:
        """Resize and crop a picture to the model's input, in [0, 1], before normalisation."""

    @abstractmethod
    def save_pretrained(self, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write weights (in ``dtype``), tokenizer and processor in the model's own format."""


def check_texts(texts: Sequence[str]) -> None:
    """Refuse no texts, and empty ones.

    Raises:
        InputError: there is none, or one is empty.
    """
    if not texts or not all(text.strip() for text in texts):
        raise InputError(f"texts must be non-empty sentences, got {list(texts)[:3]!r}")
