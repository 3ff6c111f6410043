"""Zero-shot classifiers of CLIP's sizes with random weights, which count what passes them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from _gpu_measure import DTYPES, Bench, work
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import radapt
from radapt.models import ZeroShotModel, zero_shot

CLASSES = 100
TOWERS: dict[str, tuple[dict[str, int], int]] = {
    "ViT-B/32": (
        {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
        | {"patch_size": 32, "image_size": 224},
        512,
    ),
    "ViT-L/14": (
        {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
        | {"patch_size": 14, "image_size": 224},
        768,
    ),
}
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


class Passes(nn.Module):
    """A zero-shot classifier of pixels that counts the images which pass it, and the device's time for them."""

    def __init__(self, bench: Bench, vlm: ZeroShotModel, classifier: Tensor) -> None:
        super().__init__()
        self.model, self._bench, self._logits = vlm.model, bench, partial(vlm.logits, classifier=classifier)
        self.reset()

    def reset(self) -> None:
        """Start counting."""
        self.forwards = self.backwards = 0
        self._spans: list[list[Any]] = []

    @property
    def inside(self) -> float:
        """Seconds of the device from the beginning of each pass to its end."""
        self._bench.wait()
        return sum(self._bench.between(*span) for span in self._spans if len(span) == 2)

    def forward(self, pixels: Tensor) -> Tensor:
        span = [self._bench.mark()]
        logits = self._logits(pixels)
        self.forwards += len(pixels)
        self._spans.append(span)
        if pixels.requires_grad and logits.requires_grad:
            pixels.register_hook(partial(self._end, span))
        else:
            span.append(self._bench.mark())
        return logits

    def _end(self, span: list[Any], gradient: Tensor) -> None:
        self.backwards += len(gradient)
        span[1:] = [self._bench.mark()]


@dataclass(frozen=True)
class Subject:
    """A model with images, and classifiers under which they stand, or fall at once."""

    name: str
    dtype: str
    vlm: ZeroShotModel
    images: Tensor
    steady: Tensor
    shaky: Tensor
    forward: float
    """Operations of a pass of one image."""
    backward: float

    def passes(self, bench: Bench, stands: bool) -> Passes:
        """The classifier that is attacked."""
        return Passes(bench, self.vlm, self.steady if stands else self.shaky).eval()


def build(bench: Bench, name: str, dtype: str, n: int) -> Subject:
    """A CLIP with random weights, and random images.

    The classes are random directions. Where images are to stand, the first class is the mean of their embeddings,
    which lie close together, so that no radius of 1e-6 changes a verdict.
    """
    shape, width = TOWERS[name]
    if bench.tiny:
        shape, width, n = {**SMALL, "patch_size": 8, "image_size": 32}, 16, 4
    text = {**SMALL, "vocab_size": 80, "max_position_embeddings": 20}
    torch.manual_seed(0)
    with bench.device:
        model = CLIPModel(CLIPConfig(vision_config=shape, text_config=text, projection_dim=width))
    model = model.to(DTYPES[dtype]).eval().requires_grad_(False)
    side = shape["image_size"]
    size = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    vlm = zero_shot(radapt.load(model, name=name, processor=CLIPImageProcessorPil(**size), device=bench.device))
    generator = torch.Generator("cpu").manual_seed(0)
    images = torch.rand(n, 3, side, side, generator=generator).to(bench.device)
    shaky = F.normalize(torch.randn(CLASSES, width, generator=generator), dim=1).to(bench.device)
    steady = shaky.clone()
    with torch.no_grad():
        each = torch.cat([vlm.encode_image(part).float() for part in images.split(32)])
    steady[0] = F.normalize(F.normalize(each, dim=1).mean(0), dim=0)
    forward, both = _work_of(Passes(bench, vlm, steady), images[:4])
    return Subject(name, dtype, vlm, images, steady, shaky, forward / 4, (both - forward) / 4)


def _work_of(model: Passes, images: Tensor) -> tuple[float, float]:
    """Operations of a forward pass of all images, and of one with its gradient."""

    def both() -> None:
        model(images.clone().requires_grad_(True)).sum().backward()

    with torch.no_grad():
        forward = work(lambda: model(images))
    return forward, work(both)
