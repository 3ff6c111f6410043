from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from radapt.finetuning._method import Twin


@pytest.fixture
def twin(tiny_vlm: Any, tiny_shapes: Any) -> Twin:
    """A twin that differs from the original already, as after some steps."""
    data, tuned = replace(tiny_shapes(8), labels=torch.tensor([0, 5, 2, 2, 7, 1, 0, 3])), copy.copy(tiny_vlm)
    tuned.model = copy.deepcopy(tiny_vlm.model)
    with torch.no_grad():
        tuned.model.visual_projection.weight.add_(0.5 * torch.randn_like(tuned.model.visual_projection.weight))
    return Twin(original=tiny_vlm, tuned=tuned, data=data, classifier=tiny_vlm.classifier(data.prompts))


@pytest.fixture
def tiny_siglip() -> Any:
    """A random SigLIP for 32-pixel images."""
    from tests.tiny import SHAPE, lively
    from transformers import SiglipConfig, SiglipModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    from radapt.micro.clip import build_tokenizer
    from radapt.models.siglip import siglip

    config = SiglipConfig(
        vision_config={**SHAPE, "image_size": 32, "patch_size": 8},
        text_config={**SHAPE, "vocab_size": 80, "max_position_embeddings": 16, "projection_size": 32},
    )
    processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    return siglip("tiny/siglip", lively(SiglipModel(config), 5.0), build_tokenizer(), processor)
