"""Adversarial fine-tuning of a vision tower: what the methods share."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, get_args

import torch
from torch import Tensor

from radapt.attacks import ClassificationObjective, Objective
from radapt.attacks.pgd import PGD
from radapt.data import Dataset, joined, load_dataset
from radapt.errors import InputError, SettingsError
from radapt.fingerprint import code_digest, digest
from radapt.io import check_writable, checkpoint_path, digest_of, fraction
from radapt.models import VLM, load, zero_shot
from radapt.numbers import check_seed, whole
from radapt.registry import Registry, nearest
from radapt.training import Schedule, epoch_rows, fit, steps_within, workers
from radapt.types import Classifier, OptimizerName, Pixels, Precision

from ._layers import open_layers
from ._saving import rehearse, save

__all__ = ["REGISTRY", "FineTuned", "Method", "Twin", "finetune", "make"]


REGISTRY = Registry("radapt.finetuning", "fine-tuning method", "METHOD")


@dataclass(frozen=True, kw_only=True)
class Twin:
    """What a method sees: the original model, its copy in training, the images and their labels."""

    original: VLM
    tuned: VLM
    data: Dataset
    classifier: Classifier

    def entropy(self, rows: Tensor) -> Objective:
        """Cross-entropy of the zero-shot logits on these rows, as an attack maximises it with its whole budget."""
        logits = partial(zero_shot(self.tuned).logits, classifier=self.classifier)
        return ClassificationObjective(logits, self.data.labels[rows], len(self.classifier), stop=False)


class Method(ABC):
    """A method of adversarial fine-tuning: what its attack maximises and what its training minimises.

    Attributes:
        name: its name on the command line.
        needs_labels: whether the images must have labels.
    """

    name: ClassVar[str]

    needs_labels: ClassVar[bool]

    @abstractmethod
    def objective(self, twin: Twin, rows: Tensor, clean: Pixels) -> Objective:
        """What the inner attack maximises on these rows."""

    @abstractmethod
    def loss(self, twin: Twin, rows: Tensor, clean: Pixels, adversarial: Pixels) -> Tensor:
        """What the training minimises on these rows."""


@dataclass(frozen=True, kw_only=True)
class FineTuned:
    """A fine-tuned twin.

    Args:
        model: the twin.
        losses: the loss of every step of its training.
        recipe: how it was made, as plain values: what ``recipe.json`` holds.
    """

    model: VLM
    losses: tuple[float, ...]
    recipe: Mapping[str, object]


def make(name: str) -> Method:
    """A method by name; an unknown one raises ``SettingsError`` with a suggestion."""
    method: Method = REGISTRY.get(name)()
    return method


def finetune(
    method: str | Method,
    model: str | Path | VLM = "micro/clip",
    data: str | Path | Dataset | Sequence[str | Path] = "objects",
    *,
    n: int | Sequence[int] = 20_000,
    device: str = "cpu",
    layers: str = "all",
    eps: float | str = 4 / 255,
    attack_steps: int = 10,
    steps: int = 20_000,
    minutes: float | None = None,
    batch_size: int = 128,
    accumulate: int = 1,
    optimizer: OptimizerName = "adamw",
    lr: float = 1e-5,
    warmup: float = 0.07,
    weight_decay: float = 1e-4,
    ema: float = 0.0,
    precision: Precision = "float32",
    seed: int = 0,
    out: str | Path | None = None,
    half: bool = False,
    checkpoint: str | Path | None = None,
    log: str | Path | None = None,
    quiet: bool = False,
) -> FineTuned:
    """Fine-tune a copy of a model's vision tower on adversarial images; the model itself is not changed.

    The defaults are RobustVLM's for ViT-L/14 (1,400 of 20,000 steps of warm-up). The inner attack is PGD with random
    start and gradients of the pixels only, so nothing leaks into the weights. Where ``accelerate launch`` started
    several processes, each takes other images of every step, and all end with the same copy.

    Args:
        method: a method, or its name: ``fare``, ``pmg``, ``tecoa``, ``tga``, or one that another package adds.
        model: the model to start from, on the device of this process, or its name.
        data: the training images, with labels where the method needs them, or the name of the dataset whose train
            split is used; of several names, zero-shot sets, all images are used, with the classes of all.
        n: number of images of a dataset by name; of several, one for each, or for all.
        device: where a model by name is put; of several processes, each has its own.
        layers: what is trained, such as ``embedding+block:0`` (see :func:`radapt.models.parts`) or ``lora:r8@0-2``
            (updates of rank 8 of every linear layer of these blocks, added to the weights in the end).
        eps: l-inf radius of the inner attack, in pixel units, a number or a text such as ``4/255``.
        attack_steps: steps of the inner attack; its step size is 2.5 eps / steps.
        steps: optimiser steps.
        minutes: how long to train, instead of ``steps``: their number follows from the speed that is measured first.
            A killed run is continued with that number of steps.
        batch_size: images that are attacked together.
        accumulate: batches per step and process; a step sees batch_size x accumulate x processes images.
        optimizer: ``adamw`` or ``sgd`` (with momentum 0.9).
        lr, warmup, weight_decay: warm-up (share of the steps) to ``lr`` and cosine decay; decay of matrices.
        ema: decay of the moving average of the weights that is then the result (0: the last weights are).
        precision: ``float32``, or ``bfloat16`` for the attack and the loss; the weights stay in float32.
        seed: seed of the batches, of the attack and of low-rank updates.
        out: folder that the twin and its ``recipe.json`` are saved to; None: nothing is saved.
        half: whether saved weights are in float16.
        checkpoint: file to resume from when the training is killed, by default beside ``out``; removed when the twin is
            saved there, and only then: without ``out`` it stays, and gives the same twin again.
        log: folder for TensorBoard.
        quiet: no progress bar.

    Returns:
        The fine-tuned copy, the loss of every step, and how it was made.

    Raises:
        InputError: no images, or no labels where the method needs them.
        SettingsError: a setting out of range, a model that carries an adapter, a destination that cannot be written, a
            checkpoint of another training (what differs is named), or an optional package that is missing.
        CheckError: the loss or the weights are not finite; the last checkpoint is kept.
        ModelError: the twin cannot be saved; the checkpoint is kept.
    """
    chosen, radius = make(method) if isinstance(method, str) else method, fraction(eps)
    numbers = list(n) if isinstance(n, Sequence) else [n]
    for number in numbers:
        whole("n", number)
    whole("attack_steps", attack_steps)
    check_seed(seed)
    schedule = Schedule(
        steps=steps, lr=lr, warmup=warmup, weight_decay=weight_decay,
        optimizer=optimizer, accumulate=accumulate, ema=ema,
    )  # fmt: skip
    attack = PGD(eps=radius, steps=attack_steps)
    if precision not in get_args(Precision):
        raise SettingsError(f"unknown precision {precision!r}{nearest(precision, get_args(Precision))}")
    folder = None if out is None else check_writable(out, folder=True)
    file = checkpoint_path(folder) if checkpoint is None and folder is not None else checkpoint
    file = None if file is None else check_writable(file)
    events = None if log is None else check_writable(log, folder=True)
    group = workers()
    if group.device is not None and device != "cpu":
        raise SettingsError(f"each of the {group.count} processes has a device of its own; leave device out")
    vlm = model if isinstance(model, VLM) else load(model, device=device if group.device is None else group.device)
    if vlm.defended:
        raise SettingsError(
            f"{vlm.name} carries an adapter or an input defence, and fine-tuning changes the weights of the bare "
            "model; detach it first (radapt.detach(model)), and make an adapter for the twin afterwards"
        )
    images = data if isinstance(data, Dataset) else _images(data, numbers, vlm.image_size[0])
    label = chosen.name
    if chosen.needs_labels and not images.classes:
        raise InputError(f"{label} needs a dataset with classes; {images.name} has none")
    if type(batch_size) is not int or not 1 <= batch_size <= len(images):
        raise SettingsError(f"batch_size must lie in 1..{len(images)} (the number of images), got {batch_size}")
    dtype = torch.float16 if half else torch.float32
    if group.main and folder is not None:
        rehearse(vlm, folder, dtype)
    tuned = copy.copy(vlm)
    tuned.model = copy.deepcopy(vlm.model)
    trained = open_layers(tuned, layers, seed=seed)
    classifier = (
        zero_shot(vlm).classifier(images.prompts)
        if chosen.needs_labels
        else torch.empty(0, 0, dtype=torch.float32, device="cpu")
    )
    twin = Twin(original=vlm, tuned=tuned, data=images, classifier=classifier)

    def cast() -> torch.autocast:
        return torch.autocast(vlm.device.type, torch.bfloat16, enabled=precision == "bfloat16")

    def loss(number: int) -> Tensor:
        rows = torch.from_numpy(epoch_rows(number, batch_size, len(images), seed))
        clean = (
            torch.from_numpy(images.images[rows.numpy()]).to(vlm.device).permute(0, 3, 1, 2).contiguous().float() / 255
        )
        keys = [f"{label}/{number}/{row}" for row in rows.tolist()]
        # One after the other: within one context, weights cast without a gradient in the attack would be used again.
        with cast():
            outcome = attack(chosen.objective(twin, rows, clean), clean, keys=keys, seed=seed, batch_size=batch_size)
        with cast():
            return chosen.loss(twin, rows, clean, outcome.pixels)

    if minutes is not None:
        schedule = replace(schedule, steps=steps_within(minutes, trained.parameters, loss, schedule))
    settings = {"model": vlm.name, "data": [images.name, images.split, len(images)], "batch": batch_size, "seed": seed}
    settings |= {"eps": radius, "attack_steps": attack_steps, "layers": layers, "precision": precision}
    if file is not None:
        settings |= _digests(chosen, vlm, images, classifier)
    history = fit(
        trained.parameters, loss, schedule,
        label=label, checkpoint=file, every=20, settings=settings, log=events, quiet=quiet,
    )  # fmt: skip
    trained.close()
    tuned.model.requires_grad_(False)
    recipe = {
        "method": label,
        "model": vlm.name,
        "data": images.name,
        "n": len(images),
        "layers": layers,
        "eps": radius,
        "attack_steps": attack_steps,
        "steps": schedule.steps,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "workers": group.count,
        "optimizer": optimizer,
        "lr": lr,
        "weight_decay": weight_decay,
        "ema": ema,
        "precision": precision,
        "seed": seed,
        "device": str(vlm.device),
        "log": None if log is None else str(log),
        "first_loss": history[0],
        "last_loss": sum(history[-20:]) / len(history[-20:]),
    }
    if group.main and folder is not None:
        save(tuned, recipe, folder, dtype, kept=file)
    return FineTuned(model=tuned, losses=tuple(history), recipe=recipe)


def _images(data: str | Path | Sequence[str | Path], numbers: Sequence[int], size: int) -> Dataset:
    """The train splits of some datasets by name, as one."""
    names = [data] if isinstance(data, str | Path) else list(data)
    if len(numbers) not in (1, len(names)) or not names:
        got = f"{len(names)} datasets and {len(numbers)} n"
        raise SettingsError(f"give n once, or once for each dataset; got {got}")
    each = numbers if len(numbers) == len(names) else [numbers[0]] * len(names)
    sets = [load_dataset(name, split="train", n=n, size=size) for name, n in zip(names, each, strict=True)]
    return sets[0] if len(sets) == 1 else joined(sets)


def _digests(method: Method, model: VLM, images: Dataset, classifier: Classifier) -> dict[str, object]:
    """What tells a training from others with the same settings."""
    parts = range(0, len(images), 256)
    return {
        "method": code_digest(method),
        "weights": model.fingerprint,
        "images": digest(torch.tensor(images.images[at : at + 256]) for at in parts),
        "labels": digest([images.labels]),
        "texts": digest_of([images.classes, images.prompts, images.captions, images.questions]),
        "classifier": digest([classifier]),
    }
