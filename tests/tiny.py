"""A CLIP that is real but tiny and untrained: what it says is arbitrary, but it has gradients that work."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from transformers import CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from radapt.data import Dataset, load_dataset
from radapt.micro.clip import build_tokenizer
from radapt.models import VLM
from radapt.models.hf_clip import clip

__all__ = ["SHAPE", "SLOTS", "changed_twin", "finetuned", "killed_after", "lively", "own_labels", "tiny_clip"]

SLOTS = 4
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def lively(model: Any, factor: float = 10.0) -> Any:
    """Weights of ``factor`` times the usual size, so that a small model reacts visibly; ready for inference."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(factor)
    return model.eval().requires_grad_(False)


def tiny_clip(name: str = "tiny", *, side: int = 48, seed: int = 0, factor: float = 1.0) -> VLM:
    """Two blocks of width 32, patches of 8 pixels, the micro models' tokenizer, normalisation (x - 0.5) / 0.25.

    A larger ``factor`` of the initial weights makes it react more to its input, and easier to fool.
    """
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    config = CLIPConfig(
        vision_config={**SHAPE, "image_size": side, "patch_size": 8},
        text_config={**SHAPE, **special, "vocab_size": 80, "max_position_embeddings": 20},
        projection_dim=16,
    )
    torch.manual_seed(seed)
    model = lively(CLIPModel(config), factor)
    size = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    processor = CLIPImageProcessorPil(**size, image_mean=[0.5] * 3, image_std=[0.25] * 3)
    return clip(name, model, build_tokenizer(), processor)


def own_labels(model: VLM, n: int, name: str = "shapes") -> Dataset:
    """The first ``n`` samples of a data set, labelled by what the model says: on them, it is always right."""
    data = load_dataset(name, n=16)
    with torch.no_grad():
        labels = model.logits(data.pixels(range(16)), model.classifier(data.prompts)).argmax(1)
    return replace(data, images=data.images[:n], labels=labels[:n])


def finetuned(*given: Any, **settings: Any) -> tuple[VLM, list[float]]:
    """A fine-tuned twin and the loss of every step; images of a test split count as ones for training."""
    from radapt.finetuning import finetune

    given = tuple(replace(each, split="train") if isinstance(each, Dataset) else each for each in given)
    made = finetune(*given, **settings)
    return made.model, list(made.losses)


@contextmanager
def killed_after(steps: int) -> Iterator[None]:
    """A fine-tuning by FARE is killed within, as by Ctrl-C, after so many losses."""
    from radapt.finetuning.fare import FARE

    loss, seen = FARE.loss, list[int]()

    def dies(self: FARE, *given: Any) -> torch.Tensor:
        seen.append(len(seen))
        if len(seen) > steps:
            raise KeyboardInterrupt
        return loss(self, *given)

    with patch.object(FARE, "loss", dies), pytest.raises(KeyboardInterrupt):
        yield


def changed_twin(model: VLM) -> VLM:
    """A copy of a model called ``twin``, all weights of its vision encoder changed, with the same text encoder."""
    found = copy.copy(model)
    found.name, found.model = "twin", copy.deepcopy(model.model)
    with torch.no_grad():
        for parameter in found.image_parameters().values():
            parameter += 0.1 * torch.randn_like(parameter)
    return found
