"""Adversarial fine-tuning of a vision tower: the training that the methods share."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from radapt.data import Dataset, listed, training_images
from radapt.errors import InputError, SettingsError
from radapt.fingerprint import code_digest, digest
from radapt.io import check_writable, checkpoint_path, digest_of
from radapt.models import VLM, load, zero_shot
from radapt.numbers import check_seed, flag, number, whole
from radapt.training import check_log, epoch_rows, fit, steps_of, steps_within, workers
from radapt.types import Classifier, Decayed, OptimizerName, Precision, ReportTo

from ._layers import open_layers
from ._method import Method, Twin, make
from ._recipe import recipe_of
from ._saving import rehearse, save

__all__ = ["FineTuned", "finetune"]


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


def finetune(
    method: str | Method,
    model: str | Path | VLM | nn.Module = "micro/clip",
    data: str | Path | Dataset | Sequence[str | Path | Dataset] = "objects",
    *,
    recipe: str | None = None,
    n: int | Sequence[int] = 20_000,
    device: str | None = None,
    layers: str = "all",
    eps: float | str | None = None,
    attack_steps: int | None = None,
    step_size: float | str | None = None,
    attack_momentum: float | None = None,
    last_iterate: bool | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    batch_size: int | None = None,
    accumulate: int | None = None,
    optimizer: OptimizerName | None = None,
    lr: float | None = None,
    warmup: float | None = None,
    warmup_steps: int | None = None,
    weight_decay: float | None = None,
    decayed: Decayed | None = None,
    max_grad_norm: float | None = None,
    ema: float | None = None,
    precision: Precision | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    half: bool = False,
    checkpoint: str | Path | None = None,
    log: str | Path | None = None,
    report_to: ReportTo = "tensorboard",
    quiet: bool = False,
) -> FineTuned:
    """Fine-tune a copy of a model's vision tower on adversarial images; the model itself is not changed.

    The inner attack is PGD with random start and gradients of the pixels only, so nothing leaks into the weights. Where
    ``accelerate launch`` started several processes, each takes other images of every step, and all end with the same
    copy.

    Args:
        method: a method, or its name: ``agft``, ``fare``, ``lore``, ``pmg``, ``tecoa``, ``tga``, or one that another
            package adds.
        model: the model to start from, or its name.
        data: the training images, with labels where the method needs them, or the name of the dataset whose train
            split is used; of several, zero-shot sets, all images are used, with the classes of all.
        recipe: ``published``, the settings that the method's authors train with; ``micro``, those for micro/clip; None:
            the defaults of :class:`Recipe`. Every option below that is given takes precedence.
        n: number of images of a dataset by name; of several of them, one for each, or for all.
        device: where the model is trained; None: a model object where it is, one by name on the CPU. Of several
            processes, each has its own.
        layers: what is trained, such as ``embedding+block:0`` (see :func:`radapt.models.parts`) or ``lora:r8@0-2``
            (updates of rank 8 of every linear layer of these blocks, added to the weights in the end).
        eps: l-inf radius of the inner attack, in pixel units, a number or a text such as ``4/255``.
        attack_steps: steps of the inner attack.
        step_size: their length in pixel units; 2.5 eps / attack_steps where neither it nor a recipe says otherwise.
        attack_momentum, last_iterate: whether the attack keeps a share of its last direction, and whether it gives its
            last point rather than the one with the largest loss.
        steps: optimiser steps.
        minutes: how long to train, instead of ``steps``, a recipe's own too: their number follows from the speed that
            is measured first. A killed run is continued with the number it was begun with.
        batch_size: images that are attacked together.
        accumulate: batches per step and process; a step sees batch_size x accumulate x processes images.
        optimizer: ``adamw`` or ``sgd`` (with momentum 0.9).
        lr: learning rate after the warm-up; a cosine takes it to zero.
        warmup, warmup_steps: share of the steps that the warm-up takes, or their number.
        weight_decay, decayed: decay of ``matrices`` alone, or of ``all`` parameters.
        max_grad_norm: largest norm of the gradient; 0: it is not clipped.
        ema: decay of the moving average of the weights that is then the result (0: the last weights are); of low-rank
            updates, of their factors.
        precision: ``float32``, or ``bfloat16`` for the attack and the loss; the weights are in float32, whatever those
            of the model are in.
        seed: seed of the batches, of the attack, of low-rank updates and of multipliers.
        out: folder that the twin and its ``recipe.json`` are saved to; None: nothing is saved.
        half: whether saved weights are in float16.
        checkpoint: file to resume from when the training is killed, by default beside ``out``; removed when the twin is
            saved there, and only then: without ``out`` it stays, and gives the same twin again.
        log: folder of a log of the training.
        report_to: what keeps it: ``tensorboard``, or ``wandb`` (Weights & Biases, sent as its own settings say).
        quiet: no progress bar.

    Returns:
        The fine-tuned copy, the loss of every step, and how it was made.

    Raises:
        InputError: no images, or no labels where the method needs them, or several sets need them to be joined.
        SettingsError: a setting out of range, steps beside minutes, a recipe that the method does not have, a model
            that carries an adapter, a destination that cannot be written, a checkpoint of another training (what
            differs is named), or an optional package that is missing.
        CheckError: the loss or the weights are not finite; the last checkpoint is kept.
        ModelError: the twin cannot be saved; the checkpoint is kept.

    Warns:
        UserWarning: the images are of a test split.
    """
    chosen = make(method) if isinstance(method, str) else method
    plan = recipe_of(chosen.name, chosen.recipes, recipe).with_options(
        eps=eps, attack_steps=attack_steps, step_size=step_size, attack_momentum=attack_momentum,
        last_iterate=last_iterate, steps=steps, batch_size=batch_size, accumulate=accumulate, optimizer=optimizer,
        lr=lr, warmup=warmup, warmup_steps=warmup_steps, weight_decay=weight_decay, decayed=decayed,
        max_grad_norm=max_grad_norm, ema=ema, precision=precision,
    )  # fmt: skip
    if steps is not None and minutes is not None:
        raise SettingsError("give steps, or minutes, the time that they may take; not both")
    for each in listed(n):
        whole("n", each)
    if minutes is not None:
        number("minutes", minutes, 0, above=True)
    check_seed(seed)
    flag("half", half)
    folder = None if out is None else check_writable(out, folder=True)
    file = checkpoint_path(folder) if checkpoint is None and folder is not None else checkpoint
    file = None if file is None else check_writable(file)
    check_log(report_to, log)
    events = None if log is None else check_writable(log, folder=True)
    group = workers()
    if group.device is not None and device not in (None, "cpu"):
        raise SettingsError(f"each of the {group.count} processes has a device of its own; leave device out")
    vlm = load(model, device=device if group.device is None else group.device)
    vlm.check_bare()
    images = training_images(data, n, size=vlm.image_size[0], quiet=quiet)
    label = chosen.name
    if chosen.needs_labels and not images.classes:
        raise InputError(f"{label} needs a dataset with classes; {images.name} has none")
    batch = plan.batch_size
    if type(batch) is not int or not 1 <= batch <= len(images):
        raise SettingsError(f"batch_size must lie in 1..{len(images)} (the number of images), got {batch}")
    parts = plan.accumulate * group.count
    schedule, attack = plan.schedule(max(1, len(images) // (batch * parts)) * chosen.updates), plan.attack()
    dtype = torch.float16 if half else torch.float32
    if group.main and folder is not None:
        rehearse(vlm, folder, dtype)
    tuned = copy.copy(vlm)
    tuned.model = copy.deepcopy(vlm.model).float()  # most steps round to nothing in half precision
    trained = open_layers(tuned, layers, seed=seed)
    classifier = (
        zero_shot(vlm).classifier(images.prompts)
        if chosen.needs_labels
        else torch.empty(0, 0, dtype=torch.float32, device="cpu")
    )
    dual = chosen.multipliers(vlm, seed)
    multipliers = {} if dual is None else dual.parameters
    twin = Twin(original=vlm, tuned=tuned, data=images, classifier=classifier, multipliers=multipliers)
    attacked: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def cast() -> torch.autocast:
        return torch.autocast(vlm.device.type, torch.bfloat16, enabled=plan.precision == "bfloat16")

    def loss(batch_number: int) -> Tensor:
        step, part = divmod(batch_number, parts)
        if step % chosen.updates == 0:
            place = step // chosen.updates * parts + part
            rows = torch.from_numpy(epoch_rows(place, batch, len(images), seed))
            # As bytes, a quarter of what pixels are on the way to the device.
            clean = torch.from_numpy(images.images[rows.numpy()]).to(vlm.device)
            clean = clean.permute(0, 3, 1, 2).contiguous().float() / 255
            keys = [f"{label}/{place}/{row}" for row in rows.tolist()]
            # Not within one context, which would use weights again that the attack cast without a gradient.
            with cast():
                objective = chosen.objective(twin, rows, clean)
                pixels = attack.perturb(objective, clean, keys=keys, seed=seed, batch_size=batch)
            attacked[part] = rows, clean, pixels
        with cast():
            return chosen.loss(twin, *attacked[part])

    if minutes is not None:
        steps = steps_of(file)  # as many as it was begun with, whatever the speed is now
        if steps is None:
            steps = steps_within(minutes, trained.parameters, loss, schedule, dual=dual, cycle=chosen.updates)
        schedule = replace(schedule, steps=steps)
    settings: dict[str, Any] = {"model": vlm.name, "data": [images.name, images.split, len(images)], "batch": batch}
    settings |= {"minutes": minutes, "seed": seed, "layers": layers, **plan.of_the_batches()}
    if file is not None:
        settings |= _digests(chosen, vlm, images, classifier)
    history = fit(
        trained.parameters, loss, schedule, label=label, dual=dual, checkpoint=file,
        every=-(-20 // chosen.updates) * chosen.updates,  # never between two steps on the same images
        settings=settings, log=events, report_to=report_to, quiet=quiet,
    )  # fmt: skip
    trained.close()
    tuned.model.requires_grad_(False)
    made: dict[str, object] = {
        "method": label,
        "options": asdict(chosen) if is_dataclass(chosen) else {},
        "recipe": recipe,
        "model": vlm.name,
        "data": images.name,
        "split": images.split,
        "n": len(images),
        "layers": layers,
        **plan.values(schedule),
        "workers": group.count,
        "seed": seed,
        "device": str(vlm.device),
        "log": None if log is None else str(log),
        "report_to": None if log is None else report_to,
        "first_loss": history[0],
        "last_loss": sum(history[-20:]) / len(history[-20:]),
    }
    if group.main and folder is not None:
        save(tuned, made, folder, dtype, kept=file)
    return FineTuned(model=tuned, losses=tuple(history), recipe=made)


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
