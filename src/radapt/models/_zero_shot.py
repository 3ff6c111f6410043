"""Models that score images against classes, and those among them that encode the texts that describe the classes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from radapt.errors import InputError, ModelError
from radapt.types import Classifier, Embeddings, Logits, Pixels

from ._vlm import VLM

__all__ = ["Contrastive", "ZeroShotModel", "contrastive", "zero_shot"]


class ZeroShotModel(VLM):
    """A model that scores images against the classes of a dataset."""

    @abstractmethod
    def classifier(self, prompts: Sequence[Sequence[str]]) -> Classifier:
        """Zero-shot classifier: one unit vector per class.

        Args:
            prompts: for each class, its name in every template.

        Raises:
            InputError: a class without a prompt.
        """

    @abstractmethod
    def logits(self, pixels: Pixels, classifier: Classifier) -> Logits:
        """Logits of images, in float32; differentiable with respect to the pixels.

        Args:
            pixels: images in [0, 1].
            classifier: from :meth:`classifier`.
        """


class Contrastive(ZeroShotModel):
    """A model that encodes images and texts into one space (CLIP, SigLIP)."""

    @property
    @abstractmethod
    def logit_scale(self) -> float:
        """Factor of the cosine between image and text that gives logits."""

    @abstractmethod
    def encode_text(self, texts: Sequence[str]) -> Embeddings:
        """Unnormalised text embeddings.

        Raises:
            InputError: no texts, or an empty one.
            ModelError: the model came without a tokenizer.
        """

    def encode_patches(self, pixels: Pixels) -> Float[Tensor, "batch patches embedding"]:
        """Unnormalised embedding of each patch, row by row: what the image embedding is made of its class token.

        Args:
            pixels: images in [0, 1], batch x 3 x height x width.

        Raises:
            InputError: wrong shape or dtype.
            ModelError: the model's image embedding is not a projection of one token.
        """
        raise ModelError(f"{self.name} has no projection of single patches; this needs a CLIP of transformers")

    def classifier(self, prompts: Sequence[Sequence[str]]) -> Classifier:
        """Zero-shot classifier: one unit vector per class, the mean over its prompts (Radford et al. 2021, 3.1.4).

        Args:
            prompts: for each class, its name in every template.

        Raises:
            InputError: a class without a prompt.
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
            return self._factor(embedding) * F.normalize(embedding, dim=-1) @ classifier.T

    def _factor(self, embedding: Tensor) -> Tensor | float:
        """:attr:`logit_scale` for a pass: as a tensor where it is one, since to read it the host would have to wait."""
        return self.logit_scale


def zero_shot(model: VLM) -> ZeroShotModel:
    """The model, if it scores images against classes.

    Raises:
        ModelError: it does not.
    """
    if isinstance(model, ZeroShotModel):
        return model
    raise _without_texts(model)


def contrastive(model: VLM) -> Contrastive:
    """The model, if it encodes texts.

    Raises:
        ModelError: it does not.
    """
    if isinstance(model, Contrastive):
        return model
    raise _without_texts(model)


def _without_texts(model: VLM) -> ModelError:
    return ModelError(f"{model.name} has no text encoder; this needs a CLIP or SigLIP")
