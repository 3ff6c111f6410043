"""LORE: Lagrangian-optimised robust embeddings (Khodabandeh et al. 2025)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from radapt.attacks import EmbeddingObjective, Objective
from radapt.models import VLM
from radapt.numbers import number, whole
from radapt.training import Dual
from radapt.types import Embeddings, PerSample, Pixels

from ._method import Method, Twin
from ._recipe import Recipe

__all__ = ["LORE", "METHOD"]


@final
@dataclass(frozen=True, kw_only=True)
class LORE(Method):
    """FARE under the constraint that clean embeddings stay near the original's (arXiv:2505.18884, eq. 7).

    ``max over omega, min over theta of the mean of ||f(x') - f_0(x)||^2 + lambda(x) (||f(x) - f_0(x)||^2 - rho
    ||f_0(x)||^2)``, with ``f`` the unnormalised embedding of the model in training (theta), ``f_0`` that of the
    original, ``x'`` the adversarial image, which maximises the first term, and ``lambda(x) = softplus(MLP(f_0(x)))``
    the multiplier that a network of two layers (omega) gives each image. On the adversarial images of every batch theta
    takes ``updates`` steps; with the last of them, omega takes one.

    From the paper's text (section 5 and appendix C), as the authors' code was not to be found. It does not say, and is
    chosen here: ReLU between the two layers and their usual initial weights; that omega has the optimiser of theta, at
    a constant learning rate; that its step has the clean embeddings of the last pass before theta's last step. The
    recipe takes from RobustVLM what the paper leaves open: decay of all parameters, a random start, the last point.

    Args:
        rho: squared distance of a clean embedding that is tolerated, relative to its squared length.
        updates: steps of theta for one of omega, K in the paper.
        multiplier_lr: learning rate of omega.
        hidden: width of its network.

    Raises:
        SettingsError: a setting is out of range.
    """

    name: ClassVar[str] = "lore"
    needs_labels: ClassVar[bool] = False
    # Appendix C, table 6: ViT-B/32 on ImageNet, at 2/255. A step of eps / 4 is that of ten steps without a step_size.
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "published": Recipe(
            eps=2 / 255, attack_steps=10, last_iterate=True, epochs=2, batch_size=448, lr=1e-5, warmup=0.0,
            weight_decay=1e-4, decayed="all",
        ),
        "micro": Recipe(attack_steps=4, steps=300, lr=3e-4),
    }  # fmt: skip

    rho: float = 0.1
    updates: int = 5
    multiplier_lr: float = 5e-4
    hidden: int = 512

    def __post_init__(self) -> None:
        number("rho", self.rho, 0, 1e6)
        whole("updates", self.updates, 1, 10**6)
        number("multiplier_lr", self.multiplier_lr, 0, 1000, above=True)
        whole("hidden", self.hidden, 1, 10**6)

    def objective(self, twin: Twin, rows: Tensor, clean: Pixels) -> Objective:
        return EmbeddingObjective(twin.tuned.encode_image, twin.reference(clean))

    def loss(self, twin: Twin, rows: Tensor, clean: Pixels, adversarial: Pixels) -> Tensor:
        reference = twin.reference(clean)
        robust = _distance(twin.tuned.encode_image(adversarial), reference)
        excess = _distance(twin.tuned.encode_image(clean), reference) - self.rho * reference.square().sum(1)
        multiplier = _multiplier(twin, reference)
        # The value is that of the multiplier, the gradient its opposite: what is minimised over theta is maximised
        # over omega.
        ascending = 2 * multiplier.detach() - multiplier
        return (robust + ascending * excess).mean()

    def multipliers(self, original: VLM, seed: int) -> Dual:
        with torch.no_grad():
            blank = torch.zeros(1, 3, *original.image_size, dtype=torch.float32, device=original.device)
            width = original.encode_image(blank).shape[1]
        generator = torch.Generator("cpu").manual_seed(seed)
        parameters = {}
        for layer, (inputs, outputs) in enumerate(((width, self.hidden), (self.hidden, 1))):
            bound = 1 / math.sqrt(inputs)
            for kind, shape in (("weight", (outputs, inputs)), ("bias", (outputs,))):
                drawn = torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu")
                start = ((2 * drawn - 1) * bound).to(original.device)
                parameters[f"{layer}.{kind}"] = start.requires_grad_(True)
        return Dual(parameters=parameters, lr=self.multiplier_lr, every=self.updates)


def _distance(embedding: Embeddings, reference: Embeddings) -> PerSample:
    return (embedding.float() - reference).square().sum(1)


def _multiplier(twin: Twin, reference: Embeddings) -> PerSample:
    """The multiplier of each image, in float32."""
    network = twin.multipliers
    with torch.autocast(reference.device.type, enabled=False):
        hidden = F.linear(reference, network["0.weight"], network["0.bias"]).relu()
        return F.softplus(F.linear(hidden, network["1.weight"], network["1.bias"]).squeeze(1))


METHOD = LORE
