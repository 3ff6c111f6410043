"""What CLIP and SigLIP share: two encoders of ``transformers`` with one embedding space, and how they are loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL.Image import Image
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.utils import logging

from radapt.errors import ModelError
from radapt.types import Embeddings, Pixels

from ._tower import Tower
from ._vlm import VLM, check_texts

__all__ = ["DualEncoder", "check_tokenizer", "load_tokenizer", "pretrained"]


class DualEncoder(VLM):
    """A model of ``transformers`` that encodes images and texts into one space (CLIP, SigLIP), ready for use.

    Args:
        name: what reports call it.
        model: a ``CLIPModel`` or ``SiglipModel``.
        tokenizer: its tokenizer; None: it cannot encode text.
        processor: its image processor.
        tower: gives the vision encoder of the model.
        pad: whether every text is padded to the longest length there is, and the padding read along (SigLIP).
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
        side = self.side(model)
        super().__init__(name, model, image_size=(side, side))
        self.tokenizer, self.processor = tokenizer, processor
        self._tower, self._pad = tower, pad

    @staticmethod
    def side(model: Any) -> int:
        """Height and width of the model's input."""
        return int(model.config.vision_config.image_size)

    @property
    def tower(self) -> Tower:
        return replace(self._tower(self.model), mean=self.processor.image_mean, std=self.processor.image_std)

    @property
    def logit_scale(self) -> float:
        return float(self.model.logit_scale.detach().exp())

    def image_parameters(self) -> dict[str, Tensor]:
        parts = ("vision_model.", "visual_projection.")
        return {name: p for name, p in self.model.named_parameters() if name.startswith(parts)}

    def encode_image(self, pixels: Pixels) -> Embeddings:
        normalized = self.normalize(pixels).to(self.model.dtype)
        embedding: Tensor = self.model.get_image_features(
            pixel_values=normalized, interpolate_pos_encoding=tuple(pixels.shape[-2:]) != self.image_size
        ).pooler_output
        return embedding

    def encode_text(self, texts: Sequence[str]) -> Embeddings:
        check_texts(texts)
        if self.tokenizer is None:
            raise ModelError(f"{self.name} came without a tokenizer; pass one: radapt.load(model, tokenizer=...)")
        longest = self.model.config.text_config.max_position_embeddings
        pad = "max_length" if self._pad else True
        tokens = self.tokenizer(list(texts), padding=pad, truncation=True, max_length=longest, return_tensors="pt")
        tokens = tokens.to(self.device)
        mask = None if self._pad else tokens["attention_mask"]
        with torch.no_grad():
            embedding: Tensor = self.model.get_text_features(
                input_ids=tokens["input_ids"], attention_mask=mask
            ).pooler_output
        return embedding

    def preprocess(self, image: Image) -> Float[Tensor, "3 height width"]:
        values = self.processor(image.convert("RGB"), do_normalize=False, return_tensors="pt")["pixel_values"][0]
        return torch.as_tensor(values).clamp(0, 1)

    def save_pretrained(self, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
        weights = {name: value.to(dtype) for name, value in self.model.state_dict().items()}
        with _no_bars():
            self.model.save_pretrained(folder, state_dict=weights)
        self.processor.save_pretrained(folder)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without transformers' progress bars, which flash by for every local file."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def pretrained(kind: Any, processor: Any, source: str | Path, name: str, tokenizer: Any, dtype: torch.dtype) -> Any:
    """Model, tokenizer and processor from the hub or a folder.

    Args:
        kind: class of the model.
        processor: class of the image processor.
        source: name on the hub, or a folder.
        name: what messages call it.
        tokenizer: None for the one that lies beside the weights.
        dtype: of the weights.

    Raises:
        ModelError: the files cannot be had or read, or the tokenizer did not really load.
    """
    from transformers import AutoTokenizer

    try:
        with _no_bars():
            model, report = kind.from_pretrained(source, dtype=dtype, output_loading_info=True)
        images = processor.from_pretrained(source)
        tokenizer = tokenizer or AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"cannot load {name!r}: {reason}. Without network, pass a local folder with config.json, "
            "model.safetensors, tokenizer and preprocessor_config.json; for a gated repository set HF_TOKEN"
        ) from error
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise ModelError(
            f"the weights of {name!r} lack {len(report['missing_keys'])} tensors ({missing}); get them again"
        )
    check_tokenizer(tokenizer, name, model.config.text_config.vocab_size)
    return model, tokenizer, images


def check_tokenizer(tokenizer: Any, name: str, vocabulary: int) -> None:
    """Refuse a tokenizer that did not really load: offline, transformers may make an all but empty one.

    Raises:
        ModelError: it has less than half of the entries that the model expects.
    """
    if len(tokenizer) < vocabulary // 2:
        raise ModelError(
            f"the tokenizer of {name!r} has {len(tokenizer)} entries where the model expects {vocabulary}: "
            "it did not really load; put vocab.json and merges.txt (or tokenizer.json) beside the weights"
        )


def load_tokenizer(source: str, name: str, vocabulary: int) -> Any:
    """The tokenizer that lies at ``source``.

    Raises:
        ModelError: there is none, or it did not really load.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(
            f"{name!r} comes without a tokenizer; pass one: radapt.load(..., tokenizer=AutoTokenizer.from_pretrained("
            '"openai/clip-vit-base-patch32")), or put tokenizer.json beside the weights'
        ) from error
    check_tokenizer(tokenizer, name, vocabulary)
    return tokenizer
