"""A CLIP that is real but tiny and untrained: what it says is arbitrary, but it has gradients that work."""

from __future__ import annotations

from dataclasses import replace

import torch
from transformers import CLIPConfig, CLIPModel

from radapt.data import Dataset, load_dataset
from radapt.micro.clip import build_processor, build_tokenizer
from radapt.models import VLM
from radapt.models.hf_clip import HFClip

__all__ = ["SLOTS", "own_labels", "tiny_clip"]

SLOTS = 4


def tiny_clip(name: str = "tiny", *, seed: int = 0, factor: float = 1.0) -> HFClip:
    """Two blocks of width 32 on 48 pixels; a larger ``factor`` of the initial weights makes it easier to fool."""
    tokenizer = build_tokenizer()
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "projection_dim": 32,
        "initializer_factor": factor,
    }
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    config = CLIPConfig(
        vision_config={**shape, "image_size": 48, "patch_size": 8},
        text_config={**shape, **special, "vocab_size": len(tokenizer), "max_position_embeddings": 20},
        projection_dim=32,
    )
    torch.manual_seed(seed)
    model = CLIPModel(config).eval().requires_grad_(False)
    return HFClip(name, model, tokenizer, build_processor())


def own_labels(model: VLM, n: int, name: str = "shapes") -> Dataset:
    """The first ``n`` samples of a data set, labelled by what the model says: on them, it is always right."""
    data = load_dataset(name, n=16)
    with torch.no_grad():
        labels = model.logits(data.pixels(range(16)), model.classifier(data.prompts)).argmax(1)
    return replace(data, images=data.images[:n], labels=labels[:n])
