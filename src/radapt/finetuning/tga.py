"""TGA-ZSR: text-guided attention for zero-shot robustness (Yu et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from radapt.attacks import Objective
from radapt.caching import cached
from radapt.models import VLM, contrastive
from radapt.spectral import separable
from radapt.types import Pixels

from ._method import Method, Twin
from ._recipe import Recipe

__all__ = ["METHOD", "TGA", "attention"]

_REFINEMENT, _CONSTRAINT = 0.08, 0.05
_TINY = 1e-8


class TGA(Method):
    """Cross-entropy, with the attention of images to their text held to the original's (arXiv:2410.21802).

    ``CE(z(x')) + 0.08 ||A(x') - A_original(x)||_2 + 0.05 ||A(x) - A_original(x)||_2``, the norms a mean over images,
    with ``A`` the cosines between the patches of an image and the text of its true class, each map scaled to [0, 1] and
    enlarged (bilinearly) to the image's size, and ``x'`` the adversarial image. The authors' code divides the patches
    not by their own norms but, feature by feature, by those over all tokens.
    """

    name = "tga"
    needs_labels = True
    recipes: ClassVar[Mapping[str, Recipe]] = {
        # The defaults of the authors' code.
        "published": Recipe(
            eps=1 / 255, attack_steps=2, step_size=1 / 255, last_iterate=True,
            epochs=10, batch_size=128, optimizer="sgd", lr=1e-4, warmup_steps=1000, weight_decay=0.0,
        ),
        # How micro/tga was made.
        "micro": Recipe(attack_steps=4, steps=200, batch_size=64, lr=3e-4, max_grad_norm=1.0),
    }  # fmt: skip

    def objective(self, twin: Twin, rows: Tensor, clean: Pixels) -> Objective:
        return twin.entropy(rows)

    def loss(self, twin: Twin, rows: Tensor, clean: Pixels, adversarial: Pixels) -> Tensor:
        labels = twin.data.labels[rows].to(clean.device)
        texts = twin.classifier[labels]
        with torch.no_grad():
            wanted = attention(twin.original, clean, texts)
        refined = _distance(attention(twin.tuned, adversarial, texts), wanted)
        constrained = _distance(attention(twin.tuned, clean, texts), wanted)
        entropy = F.cross_entropy(contrastive(twin.tuned).logits(adversarial, twin.classifier), labels)
        return entropy + _REFINEMENT * refined + _CONSTRAINT * constrained


def attention(model: VLM, pixels: Pixels, texts: Tensor) -> Tensor:
    """Text-guided attention maps of images, each scaled to [0, 1].

    Args:
        model: a model with an embedding of each patch.
        pixels: images in [0, 1].
        texts: the unit embedding of a text per image, batch x embedding.

    Returns:
        batch x height x width, of the images' size.
    """
    patches = contrastive(model).encode_patches(pixels).float()
    tower = model.tower
    rows, columns = (side // tower.patch_size for side in pixels.shape[-2:])
    vertical, horizontal = (
        _enlarging(few, many, pixels.device) for few, many in zip((rows, columns), pixels.shape[-2:], strict=True)
    )
    # Under autocast, products would be of half precision, too coarse for maps that are stretched to [0, 1].
    with torch.autocast(patches.device.type, enabled=False):
        cosine = (F.normalize(patches, dim=-1) @ texts[:, :, None]).squeeze(2)
        low, high = cosine.amin(1, keepdim=True), cosine.amax(1, keepdim=True)
        maps = ((cosine - low) / (high - low + _TINY)).view(len(pixels), 1, rows, columns)
        return separable(maps, vertical, horizontal).squeeze(1)


@cached(maxsize=16)
def _enlarging(few: int, many: int, device: torch.device) -> Tensor:
    """Bilinear interpolation along one axis as a matrix, many x few: its gradients are the same on every call."""
    return F.interpolate(torch.eye(few, device="cpu")[None], size=many, mode="linear")[0].T.contiguous().to(device)


def _distance(maps: Tensor, others: Tensor) -> Tensor:
    # The gradient of a norm has no value at zero, where the first step of a training may begin.
    return ((maps - others).square().flatten(1).sum(1) + _TINY).sqrt().mean()


METHOD = TGA
