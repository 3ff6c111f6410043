"""One call that attacks any classifier."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

from radapt.errors import InputError, SettingsError
from radapt.types import Labels, Logits, Norm, Pixels

from ._attack import Attack
from ._objective import ClassificationObjective
from ._outcome import Outcome
from ._registry import make

__all__ = ["attack"]

_BATCH_SIZE, _CPU_BATCH_SIZE = 64, 16


def attack(
    model: Callable[[Pixels], Logits],
    images: Tensor,
    labels: Labels,
    *,
    attack: str | Attack = "autoattack",
    eps: float | None = None,
    norm: Norm | None = None,
    batch_size: int | None = None,
    memory: float | None = None,
    seconds: float | None = None,
    precision: torch.dtype | None = None,
    seed: int = 0,
    quiet: bool = False,
    **settings: Any,
) -> Outcome:
    """Attack a classifier on labelled images.

    A module is put into evaluation mode and its weights are frozen for the time of the call; gradients never reach
    them. When memory runs out, the batch size is halved, with a warning.

    Args:
        model: maps pixels in [0, 1] (batch x 3 x height x width, before normalisation) to logits (batch x classes).
        images: clean images, float, in [0, 1].
        labels: true classes.
        attack: name of the attack, or the attack itself, whose norm, radius and settings then count.
        eps: radius of the ball in pixel units (4/255); needed with a name.
        norm: ``linf`` (the default) or ``l2``.
        batch_size: images per pass of the model; by default 64 (16 on a CPU), or what ``memory`` allows.
        memory: GiB that a pass may keep for its gradient; what an image needs is measured on the first one.
        seconds: time limit; what is found by then is kept, the rest marked as unfinished.
        precision: ``torch.bfloat16`` or ``torch.float16`` for gradients; successes are verified and survivors attacked
            again in the model's own precision.
        seed: seed of all random numbers.
        quiet: no progress bar.
        settings: other settings of an attack that is given by name (``steps``, ``restarts``...).

    Returns:
        What was found: ``outcome.adversarial`` are the images, ``outcome.robust_accuracy`` is the share not fooled.

    Raises:
        InputError: images or labels are wrong, or the model gives no logits.
        SettingsError: an unknown attack or setting, a value out of range, or settings given beside an attack object.
    """
    chosen = _chosen(attack, settings | {k: v for k, v in (("eps", eps), ("norm", norm)) if v is not None})
    if batch_size is not None and memory is not None:
        raise SettingsError("give batch_size or memory, not both")
    if images.ndim != 4 or len(images) == 0 or len(labels) != len(images):
        raise InputError(
            f"give at least one image, batch x 3 x height x width, and one label per image; got images of shape "
            f"{tuple(images.shape)} and {len(labels)} labels"
        )
    with _frozen(model):
        with torch.no_grad():
            logits = model(images[:1])
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 1:
            raise InputError("the model must map images to logits, batch x classes")
        most = batch_size or (_CPU_BATCH_SIZE if images.device.type == "cpu" else _BATCH_SIZE)
        if memory is not None:
            most = _fitting(model, images[:1], memory)
        objective = ClassificationObjective(model, labels.long(), logits.shape[1])
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("robust accuracy {task.fields[robust]:.1f} %"),
        )
        with Progress(*columns, disable=quiet, transient=True) as bar:
            task = bar.add_task(chosen.name, total=len(images), robust=100.0)

            def report(done: int, fooled: int) -> None:
                bar.update(task, completed=done, robust=100 * (1 - fooled / len(images)))

            return chosen(
                objective,
                images,
                seed=seed,
                batch_size=min(most, len(images)),
                precision=precision,
                seconds=seconds,
                progress=report,
            )


def _chosen(attack: str | Attack, settings: dict[str, Any]) -> Attack:
    """The attack of a name with these settings, or the attack itself, which must have none beside it."""
    if isinstance(attack, str):
        return make(attack, **settings)
    if settings:
        raise SettingsError(
            f"{', '.join(sorted(settings))} given beside an attack that has its own; set them where it is made, as in "
            f"{type(attack).__name__}(eps=4/255)"
        )
    return attack


@contextmanager
def _frozen(model: object) -> Iterator[None]:
    """A module in evaluation mode and without gradients of its weights, for the time of a ``with`` block."""
    if not isinstance(model, nn.Module):
        yield
        return
    modes = {module: module.training for module in model.modules()}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter in trainable:
            parameter.requires_grad_(True)


def _fitting(model: Callable[[Pixels], Logits], image: Pixels, memory: float) -> int:
    """Images whose saved tensors fit into ``memory`` GiB; an image needs what two of them save beyond what one does."""
    saved = []
    for count in (1, 2):
        sizes: dict[int, int] = {}

        def note(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            logits = model(image.detach().repeat(count, 1, 1, 1).requires_grad_(True))
            saved.append(sum(sizes.values()))
        del logits
    each = max(1, saved[1] - saved[0])
    most = math.floor(memory * 2**30 / each)
    if most < 1:
        raise SettingsError(f"one image needs {each / 2**30:.2f} GiB for its gradient, more than memory={memory}")
    return min(most, 1024)
