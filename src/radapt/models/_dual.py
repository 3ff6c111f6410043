"""What CLIP and SigLIP share: two encoders of ``transformers`` with one embedding space, and how they are loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL.Image import Image
from torch import Tensor, nn

from radapt.errors import ModelError, shown
from radapt.images import open_image
from radapt.types import Embeddings, Pixels

from ._pretrained import save_parts
from ._tower import Tower
from ._vlm import check_texts
from ._zero_shot import Contrastive

__all__ = ["DualEncoder"]


class DualEncoder(Contrastive):
    """A model of ``transformers`` that encodes images and texts into one space (CLIP, SigLIP), ready for use.

    Args:
        name: what reports call it.
        model: a ``CLIPModel`` or ``SiglipModel``.
        tokenizer: its tokenizer; None: it cannot encode text.
        processor: its image processor; None: pixels are normalised as the tower says, and images cannot be prepared.
        tower: gives the vision encoder of the model.
        pad: whether every text is padded to the longest length there is, and the padding is read too (SigLIP).
    """

    model: Any

    def __init__(
        self,
        name: str,
        model: Any,
        tokenizer: Any,
        processor: Any,
        *,
        tower: Callable[[nn.Module], Tower],
        pad: bool = False,
    ) -> None:
        side = self.side(model, processor)
        super().__init__(name, model, image_size=(side, side))
        self.tokenizer, self.processor = tokenizer, processor
        self._tower, self._pad = tower, pad

    @staticmethod
    def side(model: Any, processor: Any) -> int:
        """Height and width of the model's input."""
        return int(model.config.vision_config.image_size)

    @property
    def tower(self) -> Tower:
        tower = self._tower(self.model)
        if self.processor is None:
            return tower
        return tower.normalised(self.processor.image_mean, self.processor.image_std)

    @property
    def logit_scale(self) -> float:
        return float(self.model.logit_scale.detach().exp())

    def _factor(self, embedding: Tensor) -> Tensor:
        scale: Tensor = self.model.logit_scale.detach().exp()
        return scale.to(embedding)

    def image_parameters(self) -> dict[str, Tensor]:
        parts = ("vision_model.", "visual_projection.")
        return {name: p for name, p in self.model.named_parameters() if name.startswith(parts)}

    def encode_image(self, pixels: Pixels) -> Embeddings:
        normalized = self.normalize(pixels).to(self.model.dtype)
        embedding: Tensor = self.model.get_image_features(
            pixel_values=normalized, interpolate_pos_encoding=tuple(pixels.shape[-2:]) != self.image_size
        ).pooler_output
        return embedding

    def encode_patches(self, pixels: Pixels) -> Float[Tensor, "batch patches embedding"]:
        projection = getattr(self.model, "visual_projection", None)
        if projection is None:  # SigLIP pools its patches by attention
            return super().encode_patches(pixels)
        vision = self.model.vision_model
        hidden = vision(
            pixel_values=self.normalize(pixels).to(self.model.dtype),
            interpolate_pos_encoding=tuple(pixels.shape[-2:]) != self.image_size,
        ).last_hidden_state
        patches: Tensor = projection(vision.post_layernorm(hidden[:, self.tower.layout.prefix :]))
        return patches

    def token_ids(self, texts: Sequence[str]) -> Int[Tensor, "texts tokens"]:
        """The tokens of texts, as the text encoder reads them.

        Raises:
            InputError: there is no text, or an empty one.
            ModelError: the model came without a tokenizer, or a text has no token that ends it for the model.
        """
        return self._tokens(texts)["input_ids"]

    def _tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        check_texts(texts)
        if self.tokenizer is None:
            raise ModelError(f"{self.name} came without a tokenizer; pass one: radapt.load(model, tokenizer=...)")
        longest = self.model.config.text_config.max_position_embeddings
        pad = "max_length" if self._pad else True
        # SigLIP was trained on lower case, and not every tokenizer of its checkpoints sees to that.
        cased = [text.lower() if self._pad else text for text in texts]
        how = {"padding": pad, "padding_side": "right", "truncation": True, "max_length": longest}
        tokens = self.tokenizer(cased, **how, return_tensors="pt")
        ids, end = tokens["input_ids"], getattr(self.model.config.text_config, "eos_token_id", None)
        # CLIP takes the embedding at the end of a text: at this token, or for 2, by tradition, at the largest one.
        if not self._pad and end != 2 and (not isinstance(end, int) or not (ids == end).any(1).all()):
            raise ModelError(
                f"{self.name} looks for token {shown(end)} at the end of a text (text_config.eos_token_id), which its "
                f"tokenizer does not put there; it ends texts with {getattr(self.tokenizer, 'eos_token_id', None)}"
            )
        return {"input_ids": ids, "attention_mask": tokens["attention_mask"]} if not self._pad else {"input_ids": ids}

    def encode_text(self, texts: Sequence[str]) -> Embeddings:
        tokens = {name: value.to(self.device) for name, value in self._tokens(texts).items()}
        with torch.no_grad():
            embedding: Tensor = self.model.get_text_features(**tokens).pooler_output
        return embedding

    def preprocess(self, image: Image) -> Float[Tensor, "3 height width"]:
        if self.processor is None:
            raise ModelError(f"{self.name} came without an image processor; pass one: load(model, processor=...)")
        values = self.processor(open_image(image), do_normalize=False, return_tensors="pt")["pixel_values"][0]
        return torch.as_tensor(values, device="cpu").clamp(0, 1)

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        save_parts(Path(folder), self.model, self.processor, self.tokenizer, dtype)
