"""Adversarial fine-tuning of a vision tower: what the methods share."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from radapt.attacks import Objective
from radapt.attacks.pgd import PGD
from radapt.data import Dataset
from radapt.errors import InputError, SettingsError
from radapt.models import VLM
from radapt.train import Schedule, fit
from radapt.types import Classifier, Pixels

__all__ = ["Method", "Twin", "finetune"]


@dataclass(frozen=True, kw_only=True)
class Twin:
    """What a method sees: the original model, its copy in training, the images and their labels."""

    original: VLM
    tuned: VLM
    data: Dataset
    classifier: Classifier


class Method(ABC):
    """A method of adversarial fine-tuning: what its attack maximises and what its training minimises."""

    needs_labels: bool

    @abstractmethod
    def objective(self, twin: Twin, rows: Tensor, clean: Pixels) -> Objective:
        """What the inner attack maximises on these rows."""

    @abstractmethod
    def loss(self, twin: Twin, rows: Tensor, clean: Pixels, adversarial: Pixels) -> Tensor:
        """What the training minimises on these rows."""


def finetune(
    method: Method,
    model: VLM,
    data: Dataset,
    *,
    label: str,
    eps: float = 4 / 255,
    attack_steps: int = 10,
    steps: int = 20_000,
    batch: int = 128,
    lr: float = 1e-5,
    warmup: float = 0.07,
    weight_decay: float = 1e-4,
    seed: int = 0,
    checkpoint: Path | None = None,
    quiet: bool = False,
) -> tuple[VLM, list[float]]:
    """Fine-tune a copy of a model's vision tower on adversarial images; the model itself is not changed.

    The defaults are RobustVLM's for ViT-L/14 (1,400 of 20,000 steps of warm-up). The inner attack is PGD with random
    start and gradients of the pixels only, so nothing leaks into the weights.

    Args:
        method: what is maximised and minimised.
        model: the model to start from.
        data: the training images, with labels where the method needs them.
        label: what the progress bar calls it.
        eps: l-inf radius of the inner attack, in pixel units.
        attack_steps: steps of the inner attack; its step size is 2.5 eps / steps.
        steps, batch, lr, warmup, weight_decay: AdamW with warm-up (share of the steps) and cosine decay.
        seed: seed of the batches and of the attack.
        checkpoint: file to resume from when the training is killed; removed at the end.
        quiet: no progress bar.

    Returns:
        The fine-tuned copy and the loss of every step.

    Raises:
        InputError: no images, or no labels where the method needs them.
        SettingsError: a setting out of range.
    """
    if method.needs_labels and not data.classes:
        raise InputError(f"{label} needs a data set with classes; {data.name} has none")
    if not 1 <= batch <= len(data):
        raise SettingsError(f"batch must lie in 1..{len(data)} (the number of images), got {batch}")
    tuned = copy.copy(model)
    tuned.model = copy.deepcopy(model.model)
    tuned.model.requires_grad_(False)
    parameters = tuned.image_parameters()
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    classifier = model.classifier(data.prompts) if method.needs_labels else torch.empty(0, 0)
    twin = Twin(original=model, tuned=tuned, data=data, classifier=classifier)
    attack = PGD(eps=eps, steps=attack_steps)
    per_epoch = len(data) // batch

    def loss(step: int) -> Tensor:
        rng = np.random.Generator(np.random.Philox(key=[seed, step // per_epoch]))
        start = step % per_epoch * batch
        rows = torch.from_numpy(rng.permutation(len(data))[start : start + batch])
        clean = data.pixels(rows).to(model.device)
        keys = [f"{label}/{step}/{row}" for row in rows.tolist()]
        outcome = attack(method.objective(twin, rows, clean), clean, keys=keys, seed=seed, slots=batch)
        return method.loss(twin, rows, clean, outcome.pixels)

    schedule = Schedule(steps=steps, lr=lr, warmup=warmup, weight_decay=weight_decay)
    settings = {"model": model.name, "data": [data.name, data.split, len(data)], "batch": batch, "seed": seed}
    settings |= {"eps": eps, "attack_steps": attack_steps}
    history = fit(
        parameters, loss, schedule, label=label, checkpoint=checkpoint, every=20, settings=settings, quiet=quiet
    )
    tuned.model.requires_grad_(False)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return tuned, history
