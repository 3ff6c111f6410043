"""Model families of other packages, which entry points add."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.data.installed import install

import radapt
from radapt.errors import ModelError
from radapt.models import families, tower_of, zero_shot

SOURCE = """
import json
from pathlib import Path

import torch
from torch import nn

from radapt.models import Contrastive, ImageTower, Layout

MODEL_TYPES = ("mean_colour", "MeanColour")
LOADS = MODEL_TYPES


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.Identity()

    def forward(self, x):
        return x + self.attention(x)


class Vision(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Conv2d(3, 3, 4, 4, bias=False)
        self.blocks = nn.ModuleList([Block()])
        self.embedding.weight.data = torch.eye(3)[:, :, None, None].expand(3, 3, 4, 4) / 16

    def forward(self, pixel_values):
        return self.blocks[0](self.embedding(pixel_values).flatten(2).transpose(1, 2)).mean(1)


class MeanColour(nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.vision, self.scale = Vision(), nn.Parameter(torch.tensor(scale))


class MeanColourVLM(Contrastive):
    logit_scale = 10.0

    @property
    def tower(self):
        return tower(self.model)

    def image_parameters(self):
        return dict(self.model.named_parameters())

    def encode_image(self, pixels):
        return self.model.scale * self.model.vision(self.normalize(pixels).to(self.dtype))

    def encode_text(self, texts):
        return torch.eye(3)[[("red", "green", "blue").index(text) for text in texts]]

    def preprocess(self, image):
        raise NotImplementedError

    def save_pretrained(self, folder, *, dtype=torch.float32):
        raise NotImplementedError


def tower(model):
    vision = model.vision
    return ImageTower(
        root=vision, patch_embedding=vision.embedding, blocks=vision.blocks, attention=vision.blocks[0].attention,
        width=3, grid=(2, 2), patch_size=4, layout=Layout(), mean=(0, 0, 0), std=(1, 1, 1),
    )


def load(source, *, name, tokenizer=None, processor=None, dtype=torch.float32):
    if not isinstance(source, nn.Module):
        source = MeanColour(json.loads((Path(source) / "config.json").read_text())["scale"]).to(dtype)
    vlm = MeanColourVLM(name, source, image_size=(8, 8))
    vlm.tokenizer, vlm.processor = tokenizer, processor
    return vlm
"""


@pytest.fixture
def colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    install(tmp_path, monkeypatch, "colours", SOURCE, {"radapt.models": {"mean-colour": "colours"}})
    return importlib.import_module("colours")


def test_a_family_is_added(colours: Any, tmp_path: Path) -> None:
    assert ("mean-colour", ("mean_colour", "MeanColour"), True) in families()
    wrapped: Any = radapt.load(colours.MeanColour(), name="mine", tokenizer="a tokenizer", processor="a processor")
    assert (wrapped.name, wrapped.tokenizer, wrapped.processor) == ("mine", "a tokenizer", "a processor")
    assert tower_of(wrapped).root is tower_of(wrapped.model).root is wrapped.model.vision
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "config.json").write_text(json.dumps({"model_type": "mean_colour", "scale": 2.0}))
    model = zero_shot(radapt.load(tmp_path / "saved", dtype="bfloat16"))
    assert (model.name, model.dtype) == (str(tmp_path / "saved"), torch.bfloat16)
    red = torch.zeros(1, 3, 8, 8)
    red[:, 0] = 1
    assert model.logits(red, model.classifier([["blue"], ["red"]])).argmax().item() == 1
    bare, adapter = wrapped.encode_image(red), radapt.training_free(wrapped, alpha=0.5)
    with adapter.attach(wrapped):
        assert not torch.allclose(wrapped.encode_image(red), bare)
    assert torch.equal(wrapped.encode_image(red), bare)


def test_options_that_it_does_not_take_are_refused(colours: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mean_colour", "scale": 2.0}))
    with pytest.raises(
        ModelError, match=r"type 'mean_colour'; device_map is for llava, llava_next, qwen2_5_vl, qwen3_vl:"
    ):
        radapt.load(tmp_path, device_map="auto")
    with pytest.raises(ModelError, match="does not generate text"):
        radapt.load(tmp_path, gradient_checkpointing=True)


def test_without_the_package_its_models_are_unknown(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mean_colour"}')
    with pytest.raises(ModelError, match=r"'mean_colour' cannot be loaded by radapt\.load"):
        radapt.load(tmp_path)
