"""Adversarial fine-tuning of a vision tower: what the methods share."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from radapt._workers import workers
from radapt.attacks import ClassificationObjective, Objective
from radapt.attacks.pgd import PGD
from radapt.data import Dataset
from radapt.errors import InputError, SettingsError
from radapt.find import nearest
from radapt.models import VLM
from radapt.train import Schedule, fit
from radapt.types import Classifier, Pixels

from ._layers import open_layers

__all__ = ["PRECISIONS", "Method", "Twin", "finetune"]

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Twin:
    """What a method sees: the original model, its copy in training, the images and their labels."""

    original: VLM
    tuned: VLM
    data: Dataset
    classifier: Classifier

    def entropy(self, rows: Tensor) -> Objective:
        """Cross-entropy of the zero-shot logits on these rows, as an attack maximises it with its whole budget."""
        logits = partial(self.tuned.logits, classifier=self.classifier)
        return ClassificationObjective(logits, self.data.labels[rows], len(self.classifier), stop=False)


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
    layers: str = "all",
    eps: float = 4 / 255,
    attack_steps: int = 10,
    steps: int = 20_000,
    batch: int = 128,
    accumulate: int = 1,
    optimizer: str = "adamw",
    lr: float = 1e-5,
    warmup: float = 0.07,
    weight_decay: float = 1e-4,
    ema: float = 0.0,
    precision: str = "float32",
    seed: int = 0,
    checkpoint: Path | None = None,
    log: Path | None = None,
    quiet: bool = False,
) -> tuple[VLM, list[float]]:
    """Fine-tune a copy of a model's vision tower on adversarial images; the model itself is not changed.

    The defaults are RobustVLM's for ViT-L/14 (1,400 of 20,000 steps of warm-up). The inner attack is PGD with random
    start and gradients of the pixels only, so nothing leaks into the weights. Where ``accelerate launch`` started
    several processes, each takes other images of every step, and all end with the same copy.

    Args:
        method: what is maximised and minimised.
        model: the model to start from, on the device of this process.
        data: the training images, with labels where the method needs them.
        label: what the progress bar calls it.
        layers: what is trained, such as ``embedding+block:0`` (see :func:`radapt.models.parts`) or ``lora:r8@0-2``
            (updates of rank 8 of every linear layer of these blocks, added to the weights in the end).
        eps: l-inf radius of the inner attack, in pixel units.
        attack_steps: steps of the inner attack; its step size is 2.5 eps / steps.
        steps: optimiser steps.
        batch: images that are attacked together.
        accumulate: batches per step and process; a step sees batch x accumulate x processes images.
        optimizer: ``adamw`` or ``sgd`` (with momentum 0.9).
        lr, warmup, weight_decay: warm-up (share of the steps) to ``lr`` and cosine decay; decay of matrices.
        ema: decay of the moving average of the weights that is then the result (0: the last weights are).
        precision: ``float32``, or ``bfloat16`` for the attack and the loss; the weights stay in float32.
        seed: seed of the batches, of the attack and of low-rank updates.
        checkpoint: file to resume from when the training is killed; removed at the end.
        log: folder for TensorBoard.
        quiet: no progress bar.

    Returns:
        The fine-tuned copy and the loss of every step.

    Raises:
        InputError: no images, or no labels where the method needs them.
        SettingsError: a setting out of range, or an optional package that it needs is missing.
    """
    if method.needs_labels and not data.classes:
        raise InputError(f"{label} needs a data set with classes; {data.name} has none")
    if not 1 <= batch <= len(data):
        raise SettingsError(f"batch must lie in 1..{len(data)} (the number of images), got {batch}")
    if precision not in PRECISIONS:
        raise SettingsError(f"unknown precision {precision!r}{nearest(precision, PRECISIONS)}")
    schedule = Schedule(
        steps=steps, lr=lr, warmup=warmup, weight_decay=weight_decay,
        optimizer=optimizer, accumulate=accumulate, ema=ema,
    )  # fmt: skip
    tuned = copy.copy(model)
    tuned.model = copy.deepcopy(model.model)
    trained = open_layers(tuned, layers, seed=seed)
    classifier = model.classifier(data.prompts) if method.needs_labels else torch.empty(0, 0)
    twin = Twin(original=model, tuned=tuned, data=data, classifier=classifier)
    attack = PGD(eps=eps, steps=attack_steps)
    per_epoch = len(data) // batch

    def cast() -> torch.autocast:
        return torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bfloat16")

    def loss(number: int) -> Tensor:
        rng = np.random.Generator(np.random.Philox(key=[seed, number // per_epoch]))
        start = number % per_epoch * batch
        rows = torch.from_numpy(rng.permutation(len(data))[start : start + batch])
        clean = data.pixels(rows).to(model.device)
        keys = [f"{label}/{number}/{row}" for row in rows.tolist()]
        # One after the other: within one context, weights cast without a gradient in the attack would be used again.
        with cast():
            outcome = attack(method.objective(twin, rows, clean), clean, keys=keys, seed=seed, slots=batch)
        with cast():
            return method.loss(twin, rows, clean, outcome.pixels)

    settings = {"model": model.name, "data": [data.name, data.split, len(data)], "batch": batch, "seed": seed}
    settings |= {"eps": eps, "attack_steps": attack_steps, "layers": layers, "precision": precision}
    history = fit(
        trained.parameters, loss, schedule,
        label=label, checkpoint=checkpoint, every=20, settings=settings, log=log, quiet=quiet,
    )  # fmt: skip
    trained.close()
    tuned.model.requires_grad_(False)
    if checkpoint is not None and workers().main:
        checkpoint.unlink(missing_ok=True)
    return tuned, history
