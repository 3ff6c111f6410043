"""A CLIP with open_clip's own modules, names and order of operations, written from the architecture: the reference.

And open_clip itself, which the reference is compared with.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections import OrderedDict
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils import is_torchvision_available

__all__ = ["CLIP", "MODEL_CFG", "open_clip"]

MODEL_CFG = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 128, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 80, "width": 64, "heads": 4, "layers": 3},
}

# What open_clip takes out of torchvision when it is imported. Models and tokenizers use none of it.
_TAKEN = {
    "torchvision.transforms": "CenterCrop ColorJitter Compose Grayscale InterpolationMode Normalize RandomResizedCrop "
    "Resize ToTensor",
    "torchvision.transforms.functional": "",
    "torchvision.ops.misc": "FrozenBatchNorm2d",
}


def open_clip() -> Any:
    """The package open_clip; without torchvision, whose builds rarely fit torch, stand-ins take its place meanwhile."""
    if "open_clip" not in sys.modules and importlib.util.find_spec("open_clip") is None:
        pytest.skip("open_clip is not installed; `make .venv/.ready` does it")
    if "open_clip" in sys.modules or is_torchvision_available():  # and transformers remembers that there is none
        return importlib.import_module("open_clip")
    stubs = {name: ModuleType(name) for name in ("torchvision", "torchvision.ops", *_TAKEN)}
    for name, stub in stubs.items():
        for member in _TAKEN.get(name, "").split():
            setattr(stub, member, type(member, (), {"BICUBIC": 3, "BILINEAR": 2, "NEAREST": 0}))
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(stubs[parent], last, stub)
    with pytest.MonkeyPatch.context() as patch:
        for name, stub in stubs.items():
            patch.setitem(sys.modules, name, stub)
        return importlib.import_module("open_clip")


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, quick: bool, batch_first: bool) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=batch_first)
        gelu = QuickGELU() if quick else nn.GELU()
        layers = [("c_fc", nn.Linear(width, 4 * width)), ("gelu", gelu), ("c_proj", nn.Linear(4 * width, width))]
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width: int, heads: int, layers: int, quick: bool, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.resblocks = nn.ModuleList(Block(width, heads, quick, batch_first) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x if self.batch_first else x.transpose(0, 1)
        for block in self.resblocks:
            x = block(x, mask)
        return x if self.batch_first else x.transpose(0, 1)


class VisionTransformer(nn.Module):
    def __init__(self, cfg: dict[str, int], embed: int, quick: bool, batch_first: bool) -> None:
        super().__init__()
        width, patch, grid = cfg["width"], cfg["patch_size"], cfg["image_size"] // cfg["patch_size"]
        self.image_size, self.patch_size, self.grid_size = (cfg["image_size"],) * 2, (patch,) * 2, (grid, grid)
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn(grid * grid + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Transformer(width, width // 64, cfg["layers"], quick, batch_first)
        self.proj = nn.Parameter(torch.randn(width, embed) / math.sqrt(width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj


class CLIP(nn.Module):
    """Random weights; layer norms are not the identity."""

    def __init__(self, cfg: dict = MODEL_CFG, *, batch_first: bool = True) -> None:  # type: ignore[type-arg]
        super().__init__()
        torch.manual_seed(0)
        text, quick = cfg["text_cfg"], cfg["quick_gelu"]
        self.visual = VisionTransformer(cfg["vision_cfg"], cfg["embed_dim"], quick, batch_first)
        self.transformer = Transformer(text["width"], text["heads"], text["layers"], quick, batch_first)
        self.token_embedding = nn.Embedding(text["vocab_size"], text["width"])
        self.positional_embedding = nn.Parameter(torch.randn(text["context_length"], text["width"]))
        self.ln_final = nn.LayerNorm(text["width"])
        self.text_projection = nn.Parameter(torch.randn(text["width"], cfg["embed_dim"]) / math.sqrt(text["width"]))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(20)))
        mask = torch.full((text["context_length"],) * 2, -math.inf).triu(1)
        self.register_buffer("attn_mask", mask, persistent=False)
        for parameter in self.parameters():
            if parameter.ndim == 1:
                nn.init.normal_(parameter, 0.5, 0.5)
        self.eval()

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        features = self.visual(image)
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        length = text.shape[1]
        x = self.token_embedding(text) + self.positional_embedding[:length]
        x = self.ln_final(self.transformer(x, self.attn_mask[:length, :length]))
        # The end of a text is its largest token.
        features = x[torch.arange(len(x)), text.argmax(-1)] @ self.text_projection
        return F.normalize(features, dim=-1) if normalize else features
