"""``micro/qwen-vl``: a ``Qwen3VLForConditionalGeneration`` whose tower begins as that of ``micro/clip``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from radapt.models import VLM, load
from radapt.models.qwen_vl import TEMPLATE, qwen_vl

from ._dialogue import PIXELS, TEXT, build_tokenizer, train

__all__ = ["build_model", "train_qwen_vl"]

_SPECIAL = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_STD = 0.125


def build_model(clip: VLM, seed: int = 0) -> VLM:
    """A Qwen3-VL with the patches, positions and blocks of a CLIP, and an untrained language model.

    It differs from that CLIP by rotary positions, by no class token and by merging two by two patches; so its tower has
    to be trained too.
    """
    tokenizer = build_tokenizer(_SPECIAL, TEMPLATE, end="<|im_end|>")
    number: Any = tokenizer.convert_tokens_to_ids
    source: Any = clip.model
    vision = source.config.vision_config
    config = Qwen3VLConfig(
        vision_config={
            "depth": vision.num_hidden_layers,
            "hidden_size": vision.hidden_size,
            "hidden_act": vision.hidden_act,
            "intermediate_size": vision.intermediate_size,
            "num_heads": vision.num_attention_heads,
            "patch_size": vision.patch_size,
            "temporal_patch_size": 2,
            "out_hidden_size": TEXT["hidden_size"],
            "num_position_embeddings": (vision.image_size // vision.patch_size) ** 2,
            "deepstack_visual_indexes": [3, 5],
        },
        text_config={
            **TEXT,
            "head_dim": 32,
            "vocab_size": len(tokenizer),
            "pad_token_id": number("<pad>"),
            "bos_token_id": None,
            "eos_token_id": number("<|im_end|>"),
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]},
        },
        image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config)
    _begin_as(model.model.visual, source.vision_model)
    processor = Qwen2VLImageProcessorPil(
        patch_size=vision.patch_size,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": PIXELS**2, "longest_edge": PIXELS**2},
        image_mean=[0.5] * 3,
        image_std=[_STD] * 3,
    )
    return qwen_vl("micro/qwen-vl", model.eval().requires_grad_(False), tokenizer, processor)


def _begin_as(visual: Any, clip: Any) -> None:
    """Copy the weights that a CLIP's tower and a Qwen3-VL's have in common; both frames of a patch show one image."""
    embeddings = clip.embeddings
    positions = embeddings.position_embedding.weight
    moved: dict[str, Tensor] = {
        "patch_embed.proj.weight": embeddings.patch_embedding.weight[:, :, None].repeat(1, 1, 2, 1, 1) / 2,
        "patch_embed.proj.bias": embeddings.patch_embedding.weight.new_zeros(len(embeddings.patch_embedding.weight)),
        "pos_embed.weight": positions[1:],
    }
    names = {"norm1": "layer_norm1", "norm2": "layer_norm2", "mlp.linear_fc1": "mlp.fc1", "mlp.linear_fc2": "mlp.fc2"}
    names["attn.proj"] = "self_attn.out_proj"
    for number, block in enumerate(clip.encoder.layers):
        weights = block.state_dict()
        for part in ("weight", "bias"):
            begun = f"blocks.{number}."
            moved |= {f"{begun}{mine}.{part}": weights[f"{theirs}.{part}"] for mine, theirs in names.items()}
            fused = [weights[f"self_attn.{each}_proj.{part}"] for each in "qkv"]
            moved[f"{begun}attn.qkv.{part}"] = torch.cat(fused)
    left = visual.load_state_dict(moved, strict=False)
    assert not left.unexpected_keys, left.unexpected_keys


def train_qwen_vl(
    out: Path,
    *,
    words: int = 600,
    steps: int = 1200,
    batch_size: int = 64,
    pool: int = 50_000,
    lr: float = 1e-3,
    seed: int = 0,
    start: str | None = None,
    quiet: bool = False,
) -> VLM:
    """Train all of the micro Qwen-VL; its tower begins as that of ``micro/clip``.

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
    return train(model, "", out, start=start, **sizes, lr=lr, seed=seed, quiet=quiet)
