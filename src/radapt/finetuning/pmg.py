"""PMG-AFT: pre-trained model guided adversarial fine-tuning (Wang et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from radapt.attacks import Objective
from radapt.models import zero_shot
from radapt.types import Logits, Pixels

from ._method import Method, Twin
from ._recipe import Recipe

__all__ = ["METHOD", "PMG"]


class PMG(Method):
    """Cross-entropy, held close to the original model and to the clean images (arXiv:2401.04350).

    ``CE(z(x')) + KL(p_original(x') || p(x')) + KL(p(x) || p(x'))`` with ``z`` the zero-shot logits of the model in
    training, ``p`` their softmax, ``x'`` the adversarial image and ``KL(p || q) = sum p log(p / q)``, all means over
    images. Gradients flow through both sides of the last term, as in the authors' code; that code sums both
    divergences over the batch, and takes the softmax of plain cosines in all three terms and in its attack.
    """

    name = "pmg"
    needs_labels = True
    recipes: ClassVar[Mapping[str, Recipe]] = {
        # The command in the README of the authors' code; its defaults are 2/255 and five steps.
        "published": Recipe(
            eps=1 / 255, attack_steps=2, step_size=1 / 255, last_iterate=True,
            epochs=10, batch_size=256, optimizer="sgd", lr=5e-5, warmup_steps=1000, weight_decay=0.0,
        ),
        # For micro/clip, in minutes.
        "micro": Recipe(attack_steps=4, steps=200, batch_size=64, lr=3e-4, max_grad_norm=1.0),
    }  # fmt: skip

    def objective(self, twin: Twin, rows: Tensor, clean: Pixels) -> Objective:
        return twin.entropy(rows)

    def loss(self, twin: Twin, rows: Tensor, clean: Pixels, adversarial: Pixels) -> Tensor:
        labels = twin.data.labels[rows].to(clean.device)
        tuned = zero_shot(twin.tuned)
        with torch.no_grad():
            original = zero_shot(twin.original).logits(adversarial, twin.classifier)
        logits = tuned.logits(adversarial, twin.classifier)
        clean_logits = tuned.logits(clean, twin.classifier)
        return F.cross_entropy(logits, labels) + _divergence(original, logits) + _divergence(clean_logits, logits)


def _divergence(logits: Logits, other: Logits) -> Tensor:
    """KL of the softmax of some logits from that of others, mean over images."""
    return F.kl_div(other.log_softmax(1), logits.log_softmax(1), log_target=True, reduction="batchmean")


METHOD = PMG
