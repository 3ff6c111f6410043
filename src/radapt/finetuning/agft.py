"""AGFT: alignment-guided fine-tuning (Cui et al. 2026)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from radapt.attacks import Objective, Score
from radapt.models import contrastive
from radapt.numbers import number
from radapt.types import Embeddings, Index, Logits, PerSample, Pixels

from ._method import Method, Twin
from ._recipe import Recipe

__all__ = ["AGFT", "METHOD"]


@final
@dataclass(frozen=True, kw_only=True)
class AGFT(Method):
    """Cross-entropy with the original's own probabilities in the place of labels (arXiv:2603.29410, eq. 6 to 10).

    ``-sum_j p_j log softmax(cos(x', t) / tau)_j``, a mean over images, with ``cos(x, t)`` the cosines between an image
    and the texts of all classes, ``x'`` the adversarial image and ``p = softmax(gamma cos_original(x, t) / tau)`` the
    probabilities of the original model on the clean image. The attack maximises the same. Labels are not used, the
    names of the classes are. The paper's text was at hand in summaries only; the equation and its two constants agree
    with the authors' code.

    Args:
        inverse_temperature: 1 / tau; CLIP's own is 100.
        ratio: gamma, above 0 and at most 1: the smaller, the softer the probabilities that are aimed at.

    Raises:
        SettingsError: a setting is out of range.
    """

    name: ClassVar[str] = "agft"
    needs_labels: ClassVar[bool] = True
    # github.com/YuboCui/AGFT, the command of its README: two processes with 128 images each.
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "published": Recipe(
            eps=1 / 255, attack_steps=2, step_size=1 / 255, last_iterate=True,
            epochs=10, batch_size=256, optimizer="sgd", lr=4e-4, warmup_steps=1000, weight_decay=0.0,
        ),
        "micro": Recipe(attack_steps=4, steps=200, batch_size=64, lr=3e-4),
    }  # fmt: skip

    inverse_temperature: float = 180.0
    ratio: float = 0.4

    def __post_init__(self) -> None:
        number("inverse_temperature", self.inverse_temperature, 0, 1e6, above=True)
        number("ratio", self.ratio, 0, 1, above=True)

    def objective(self, twin: Twin, rows: Tensor, clean: Pixels) -> Objective:
        return _Alignment(self, twin, self._wanted(twin, clean))

    def loss(self, twin: Twin, rows: Tensor, clean: Pixels, adversarial: Pixels) -> Tensor:
        return self.entropy(twin, adversarial, self._wanted(twin, clean)).mean()

    def entropy(self, twin: Twin, pixels: Pixels, wanted: Logits) -> PerSample:
        """Cross-entropy of the twin's probabilities with those that are wanted, one value per image."""
        logits = self.inverse_temperature * _cosines(contrastive(twin.tuned).encode_image(pixels).float(), twin)
        return -(wanted * logits.log_softmax(1)).sum(1)

    def _wanted(self, twin: Twin, clean: Pixels) -> Logits:
        with torch.no_grad():
            return (self.ratio * self.inverse_temperature * _cosines(twin.reference(clean), twin)).softmax(1)


class _Alignment(Objective):
    """The cross-entropy that the attack maximises with its whole budget; no sample is ever fooled."""

    losses = ("alignment",)

    def __init__(self, method: AGFT, twin: Twin, wanted: Logits) -> None:
        self._method, self._twin, self._wanted, self.size = method, twin, wanted, len(wanted)

    def __call__(self, pixels: Pixels, index: Index, *, loss: str = "") -> Score:
        value = self._method.entropy(self._twin, pixels, self._wanted[index.to(self._wanted.device)])
        return Score(value, torch.zeros(len(value), dtype=torch.bool, device=value.device))


def _cosines(embedding: Embeddings, twin: Twin) -> Logits:
    """Cosines between embeddings of images and the texts of all classes, batch x classes, in float32."""
    # Under autocast, the product would be one of half precision, too coarse for logits of a hundred.
    with torch.autocast(embedding.device.type, enabled=False):
        return F.normalize(embedding, dim=-1) @ twin.classifier.T


METHOD = AGFT
