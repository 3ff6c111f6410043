"""FARE: unsupervised adversarial fine-tuning of the embedding (Schlarmann et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from radapt.attacks import EmbeddingObjective, Objective
from radapt.types import Pixels

from ._method import Method, Twin
from ._recipe import ROBUSTVLM, Recipe

__all__ = ["FARE", "METHOD"]


class FARE(Method):
    """max over the ball of ||f(x + d) - f_original(x)||^2, minimised over f; no labels, no text (eq. 3)."""

    name = "fare"
    needs_labels = False
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "published": ROBUSTVLM,
        # How micro/fare was made.
        "micro": Recipe(attack_steps=4, steps=300, lr=3e-4, max_grad_norm=1.0),
    }

    def objective(self, twin: Twin, rows: Tensor, clean: Pixels) -> Objective:
        return EmbeddingObjective(twin.tuned.encode_image, twin.reference(clean))

    def loss(self, twin: Twin, rows: Tensor, clean: Pixels, adversarial: Pixels) -> Tensor:
        difference = twin.tuned.encode_image(adversarial).float() - twin.reference(clean)
        return difference.square().sum(1).mean()


METHOD = FARE
