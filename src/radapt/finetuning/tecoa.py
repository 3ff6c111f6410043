"""TeCoA: text-guided contrastive adversarial fine-tuning (Mao et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from radapt.attacks import Objective
from radapt.models import zero_shot
from radapt.types import Pixels

from ._method import Method, Twin
from ._recipe import ROBUSTVLM, Recipe

__all__ = ["METHOD", "TeCoA"]


class TeCoA(Method):
    """Cross-entropy of zero-shot logits on adversarial images, with the text tower frozen (eq. 2)."""

    name = "tecoa"
    needs_labels = True
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "published": ROBUSTVLM,
        # How micro/tecoa was made.
        "micro": Recipe(attack_steps=4, steps=300, lr=3e-4, max_grad_norm=1.0),
    }

    def objective(self, twin: Twin, rows: Tensor, clean: Pixels) -> Objective:
        return twin.entropy(rows)

    def loss(self, twin: Twin, rows: Tensor, clean: Pixels, adversarial: Pixels) -> Tensor:
        labels = twin.data.labels[rows].to(clean.device)
        return F.cross_entropy(zero_shot(twin.tuned).logits(adversarial, twin.classifier), labels)


METHOD = TeCoA
