"""CLIP in Hugging Face's form: ``transformers.CLIPModel`` from the hub, a folder, or the user's hands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from radapt.errors import InputError, ModelError
from radapt.types import Embeddings, Pixels

from ._tower import ImageTower, Layout, Tower, square
from ._vlm import VLM

__all__ = ["LOADS", "MODEL_TYPES", "HFClip", "load", "tower"]

MODEL_TYPES = ("clip", "clip_vision_model")
LOADS = ("clip",)
"""Those of them that ``radapt.load`` loads: a vision tower alone is not a vision-language model."""


def tower(model: nn.Module) -> Tower:
    """Vision encoder of a ``CLIPModel``, ``CLIPVisionModel`` or ``CLIPVisionModelWithProjection``."""
    root: Any = getattr(model, "vision_model", model)
    return ImageTower(
        root=root,
        patch_embedding=root.embeddings.patch_embedding,
        blocks=root.encoder.layers,
        attention=root.encoder.layers[0].self_attn,
        width=root.config.hidden_size,
        grid=square(root.embeddings.num_patches),
        patch_size=root.config.patch_size,
        layout=Layout(prefix=1),
        mean=OPENAI_CLIP_MEAN,
        std=OPENAI_CLIP_STD,
    )


class HFClip(VLM):
    """A ``transformers.CLIPModel`` with its tokenizer and its image processor."""

    model: Any

    def __init__(self, name: str, model: Any, tokenizer: Any, processor: Any) -> None:
        side = int(model.config.vision_config.image_size)
        super().__init__(name, model, image_size=(side, side))
        self._tokenizer, self._processor = tokenizer, processor

    @property
    def tower(self) -> Tower:
        return replace(tower(self.model), mean=self._processor.image_mean, std=self._processor.image_std)

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
        if not texts or not all(text.strip() for text in texts):
            raise InputError(f"texts must be non-empty sentences, got {list(texts)[:3]!r}")
        if self._tokenizer is None:
            raise ModelError(f"{self.name} came without a tokenizer; pass one: radapt.load(model, tokenizer=...)")
        longest = self.model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        tokens = tokens.to(self.device)
        with torch.no_grad():
            embedding: Tensor = self.model.get_text_features(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            ).pooler_output
        return embedding

    def preprocess(self, image: Image) -> Float[Tensor, "3 height width"]:
        values = self._processor(image.convert("RGB"), do_normalize=False, return_tensors="pt")["pixel_values"][0]
        return torch.as_tensor(values).clamp(0, 1)

    def save_pretrained(self, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
        weights = {name: value.to(dtype) for name, value in self.model.state_dict().items()}
        with _no_bars():
            self.model.save_pretrained(folder, state_dict=weights)
        self._processor.save_pretrained(folder)
        if self._tokenizer is not None:
            self._tokenizer.save_pretrained(folder)


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


def load(
    source: str | Path | nn.Module, *, name: str, tokenizer: Any = None, dtype: torch.dtype = torch.float32
) -> VLM:
    """Load a CLIP from the hub or a folder, or wrap one that is already loaded.

    Raises:
        ModelError: the files cannot be had or read, or the tokenizer did not really load.
    """
    from transformers import AutoTokenizer, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    if isinstance(source, nn.Module):
        wrapped: Any = source
        side = wrapped.config.vision_config.image_size
        processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
        return HFClip(name, source, tokenizer, processor)
    try:
        with _no_bars():
            loaded: Any = CLIPModel.from_pretrained(source, dtype=dtype, output_loading_info=True)
        model, report = loaded
        processor = CLIPImageProcessorPil.from_pretrained(source)
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
    expected = model.config.text_config.vocab_size
    if len(tokenizer) < expected // 2:
        raise ModelError(
            f"the tokenizer of {name!r} has {len(tokenizer)} entries where the model expects {expected}: "
            "it did not really load; put vocab.json and merges.txt (or tokenizer.json) beside the weights"
        )
    return HFClip(name, model, tokenizer, processor)
