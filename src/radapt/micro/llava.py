"""``micro/llava``: a ``LlavaForConditionalGeneration`` on the frozen tower of ``micro/clip``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from radapt.models import VLM, load
from radapt.models.llava import TEMPLATE, llava

from ._dialogue import TEXT, build_tokenizer, train

__all__ = ["build_model", "train_llava"]


def build_model(clip: VLM, seed: int = 0) -> VLM:
    """A LLaVA on the tower of a CLIP, its projector and its language model (four blocks of width 128) untrained.

    The language model reads the last two layers of the tower with the class token, where a small CLIP knows most.
    """
    tokenizer = build_tokenizer(("<start>", "<end>", "<image>"), TEMPLATE, start="<start>", end="<end>")
    number: Any = tokenizer.convert_tokens_to_ids
    source: Any = clip.model
    kind: Any = LlavaConfig  # its annotations name the image token as older versions did
    config = kind(
        vision_config=source.config.vision_config.to_dict() | {"model_type": "clip_vision_model"},
        text_config=LlamaConfig(
            **TEXT,
            vocab_size=len(tokenizer),
            pad_token_id=number("<pad>"),
            bos_token_id=number("<start>"),
            eos_token_id=number("<end>"),
            tie_word_embeddings=True,
        ).to_dict(),
        image_token_id=number("<image>"),
        vision_feature_layer=[-2, -1],
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    tower: Any = model.model.vision_tower
    tower.load_state_dict(source.vision_model.state_dict())
    processor: Any = clip
    return llava("micro/llava", model.eval().requires_grad_(False), tokenizer, processor.processor)


def train_llava(
    out: Path,
    *,
    words: int = 600,
    steps: int = 1500,
    batch_size: int = 64,
    pool: int = 50_000,
    lr: float = 1e-3,
    seed: int = 0,
    start: str | None = None,
    quiet: bool = False,
) -> VLM:
    """Train projector and language model of the micro LLaVA, the tower of ``micro/clip`` frozen, as LLaVA 1.5 does.

    Args:
        out: folder of the result, float16, in the Hugging Face format; the checkpoints lie beside it.
        words, steps, batch_size, lr: AdamW, warm-up of 10 %, cosine decay: first on descriptions, then on images.
        pool: number of rendered training images.
        seed: seed of the weights, the images and the batches.
        start: name or folder of one that was trained before, to be trained on; it knows its words already.
        quiet: no progress bar.
    """
    model = build_model(load("micro/clip"), seed) if start is None else load(start)
    sizes = {"words": words, "steps": steps, "batch_size": batch_size, "pool": pool}
    return train(model, "model.vision_tower.", out, start=start, **sizes, lr=lr, seed=seed, quiet=quiet)
