"""Generative models that are real but tiny and untrained, saved in the real format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tests.tiny import SHAPE, lively
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SiglipVisionConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from radapt.micro._dialogue import build_tokenizer
from radapt.micro.qwen_vl import _SPECIAL
from radapt.models.llava import TEMPLATE as LLAVA
from radapt.models.llava import llava
from radapt.models.qwen_vl import TEMPLATE as QWEN
from radapt.models.qwen_vl import qwen_vl

__all__ = ["BUILDERS", "SIDE"]

SIDE = 48
TEXT = {**SHAPE, "num_key_value_heads": 2, "max_position_embeddings": 256, "num_hidden_layers": 2}
QWEN_VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "patch_size": 8,
    "temporal_patch_size": 2,
}


def llava_parts(next_: bool = False, tower: str = "clip") -> tuple[Any, Any, Any]:
    tokenizer = build_tokenizer(("<start>", "<end>", "<image>"), LLAVA, start="<start>", end="<end>")
    shape = {**SHAPE, "image_size": SIDE, "patch_size": 8}
    vision = CLIPVisionConfig(**shape) if tower == "clip" else SiglipVisionConfig(**shape)
    settings: dict[str, Any] = {
        "vision_config": vision,
        "text_config": LlamaConfig(**TEXT, vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=2, eos_token_id=3),
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default" if tower == "clip" else "full",
    }
    torch.manual_seed(0)
    model: Any
    if next_:
        model = LlavaNextForConditionalGeneration(LlavaNextConfig(**settings, image_grid_pinpoints=[[2 * SIDE] * 2]))
    else:
        model = LlavaForConditionalGeneration(LlavaConfig(**settings))
    size = {"height": SIDE, "width": SIDE}
    images = (
        CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=size)
        if tower == "clip"
        else SiglipImageProcessorPil(size=size)
    )
    return lively(model, 4.0), tokenizer, images


def qwen_parts(three: bool) -> tuple[Any, Any, Any]:
    tokenizer = build_tokenizer(_SPECIAL, QWEN, end="<|im_end|>")
    number = tokenizer.convert_tokens_to_ids
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    settings: dict[str, Any] = {
        "text_config": {
            **TEXT,
            "vocab_size": len(tokenizer),
            "head_dim": 8,
            "rope_parameters": rope,
            "pad_token_id": 0,
            "bos_token_id": None,
            "eos_token_id": number("<|im_end|>"),
        },
        "image_token_id": number("<|image_pad|>"),
        "video_token_id": number("<|video_pad|>"),
        "vision_start_token_id": number("<|vision_start|>"),
        "vision_end_token_id": number("<|vision_end|>"),
    }
    torch.manual_seed(0)
    model: Any
    if three:
        vision = {**QWEN_VISION, "out_hidden_size": 32, "num_position_embeddings": 36, "deepstack_visual_indexes": [0]}
        model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(vision_config=vision, **settings))
    else:
        vision = {**QWEN_VISION, "out_hidden_size": 32, "window_size": 32, "fullatt_block_indexes": [1]}
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(vision_config=vision, **settings))
    processor = Qwen2VLImageProcessorPil(
        patch_size=8, merge_size=2, temporal_patch_size=2, size={"shortest_edge": SIDE**2, "longest_edge": 4 * SIDE**2}
    )
    return lively(model, 4.0), tokenizer, processor


def _save(vlm: Any, folder: Path) -> Path:
    vlm.save_pretrained(folder)
    return folder


BUILDERS: dict[str, Callable[[Path], Path]] = {
    "llava": lambda folder: _save(llava("l", *llava_parts()), folder),
    "llava on siglip": lambda folder: _save(llava("l", *llava_parts(tower="siglip")), folder),
    "llava_next": lambda folder: _save(llava("l", *llava_parts(next_=True)), folder),
    "qwen2_5_vl": lambda folder: _save(qwen_vl("q", *qwen_parts(False)), folder),
    "qwen3_vl": lambda folder: _save(qwen_vl("q", *qwen_parts(True)), folder),
}
"""What writes a model of each kind into a folder."""
