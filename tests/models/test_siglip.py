"""SigLIP: real files of a tiny random model, beside the model itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.tiny import SHAPE, lively
from transformers import SiglipConfig, SiglipModel, SiglipVisionModel
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

import radapt
from radapt.errors import ModelError
from radapt.micro.clip import build_tokenizer
from radapt.models import tower_of
from radapt.models.siglip import siglip

TEXTS = ["a red circle", "a large blue star"]


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    config = SiglipConfig(
        vision_config={**SHAPE, "image_size": 32, "patch_size": 8},
        text_config={**SHAPE, "vocab_size": 80, "max_position_embeddings": 16, "projection_size": 32},
    )
    return lively(SiglipModel(config), 5.0)


@pytest.fixture
def folder(model: Any, tmp_path: Path) -> Path:
    processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    siglip("s", model, build_tokenizer(), processor).save_pretrained(tmp_path / "siglip")
    return tmp_path / "siglip"


def test_a_saved_folder_gives_the_model_s_own_logits(model: Any, folder: Path) -> None:
    loaded = radapt.load(folder)
    pixels = torch.rand(3, 3, 32, 32)
    # As its processor does: padded to the longest length there is, and without a mask.
    tokens = build_tokenizer()(TEXTS, padding="max_length", max_length=16, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = model(input_ids=tokens, pixel_values=(pixels - 0.5) / 0.5).logits_per_image - model.logit_bias
        ours = loaded.logits(pixels, loaded.classifier([[text] for text in TEXTS]))
    assert (ours - expected).abs().max() < 1e-4
    assert expected.std() > 0.1
    assert loaded.image_size == (32, 32)


def test_images_are_resized_as_by_its_processor(folder: Path) -> None:
    image = Image.effect_noise((50, 40), 60).convert("RGB")
    processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    expected = torch.as_tensor(processor(image, return_tensors="pt")["pixel_values"][0]) * 0.5 + 0.5
    assert (radapt.load(folder).preprocess(image) - expected).abs().max() < 1e-5


def test_its_tower_has_no_class_token(model: Any) -> None:
    for holder in (model, SiglipVisionModel(model.config.vision_config)):
        tower = tower_of(holder)
        assert (tower.grid, tower.tokens, tower.width, tower.patch_size) == ((4, 4), 16, 32, 8)
        assert tuple(tower.mean) == tuple(tower.std) == (0.5, 0.5, 0.5)


def test_images_of_another_size_work_and_a_tower_alone_does_not_load(model: Any, folder: Path, tmp_path: Path) -> None:
    assert radapt.load(folder).encode_image(torch.rand(1, 3, 48, 40)).shape == (1, 32)
    SiglipVisionModel(model.config.vision_config).save_pretrained(tmp_path / "tower")
    with pytest.raises(ModelError, match=r"'siglip_vision_model' cannot be loaded.*siglip"):
        radapt.load(tmp_path / "tower")


def test_an_object_without_an_image_processor_is_normalised_by_a_guess_with_a_warning(model: Any) -> None:
    from tests.models.test_siglip2 import tiny

    for guessed in (model, tiny(16)):
        with pytest.warns(UserWarning, match=r"came without an image processor: .* mean 0\.5, 0\.5, 0\.5 .*processor="):
            assert tuple(radapt.load(guessed).tower.mean) == (0.5,) * 3
    own = SiglipImageProcessorPil(size={"height": 32, "width": 32}, image_mean=[0.25] * 3)
    assert tuple(radapt.load(model, processor=own).tower.mean) == (0.25,) * 3
