"""One call for any classifier."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

from radapt.attacks._objective import ClassificationObjective
from radapt.attacks._outcome import Outcome
from radapt.errors import InputError, SettingsError
from radapt.types import Labels, Logits, Pixels

__all__ = ["attack"]

_SLOTS, _CPU_SLOTS = 64, 16


def attack(
    model: Callable[[Pixels], Logits],
    images: Tensor,
    labels: Labels,
    *,
    attack: str = "autoattack",
    eps: float,
    norm: str = "linf",
    slots: int | None = None,
    memory: float | None = None,
    seconds: float | None = None,
    precision: torch.dtype | None = None,
    seed: int = 0,
    quiet: bool = False,
    **settings: Any,
) -> Outcome:
    """Attack a classifier on labelled images.

    A module is put into evaluation mode and its weights are frozen for the time of the call; gradients never reach
    them. Memory that does not suffice halves the slots, with a warning.

    Args:
        model: maps pixels in [0, 1] (batch x 3 x height x width, before normalisation) to logits (batch x classes).
        images: clean images, float, in [0, 1].
        labels: true classes.
        attack: name of the attack.
        eps: radius of the ball in pixel units (4/255).
        norm: ``linf`` or ``l2``.
        slots: images per pass of the model; by default 64 (16 on a CPU), or what ``memory`` allows.
        memory: budget in GiB for what a pass keeps for its gradient; measured on the first image.
        seconds: time budget; what is found by then is kept, the rest marked as unfinished.
        precision: ``torch.bfloat16`` or ``torch.float16`` for gradients; successes are verified and survivors attacked
            again in the model's own precision.
        seed: seed of all random numbers.
        quiet: no progress bar.
        settings: other settings of the attack (``steps``, ``restarts``...).

    Returns:
        What was found; ``(~outcome.fooled).float().mean()`` is the robust accuracy.

    Raises:
        InputError: images or labels are wrong, or the model gives no logits.
        SettingsError: an unknown attack or setting, or a value out of range.
    """
    from radapt.attacks import make

    chosen = make(attack, eps=eps, norm=norm, **settings)
    if slots is not None and memory is not None:
        raise SettingsError("give slots or memory, not both")
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
        room = slots or (_CPU_SLOTS if images.device.type == "cpu" else _SLOTS)
        if memory is not None:
            room = _room(model, images[:1], memory)
        objective = ClassificationObjective(model, labels.long(), logits.shape[1])
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("robust accuracy {task.fields[robust]:.1f} %"),
        )
        with Progress(*columns, disable=quiet, transient=True) as bar:
            task = bar.add_task(attack, total=len(images), robust=100.0)

            def tell(done: int, fooled: int) -> None:
                bar.update(task, completed=done, robust=100 * (1 - fooled / len(images)))

            return chosen(
                objective,
                images,
                seed=seed,
                slots=min(room, len(images)),
                precision=precision,
                seconds=seconds,
                progress=tell,
            )


@contextmanager
def _frozen(model: object) -> Iterator[None]:
    """A module in evaluation mode and without gradients of its weights, for the time of a ``with`` block."""
    if not isinstance(model, nn.Module):
        yield
        return
    modes = {module: module.training for module in model.modules()}
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter in wanted:
            parameter.requires_grad_(True)


def _room(model: Callable[[Pixels], Logits], image: Pixels, memory: float) -> int:
    """Images whose saved tensors fit into ``memory`` GiB: what two images keep beyond what one keeps, per image."""
    kept = []
    for count in (1, 2):
        held: dict[int, int] = {}

        def note(tensor: Tensor, held: dict[int, int] = held) -> Tensor:
            storage = tensor.untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            logits = model(image.detach().repeat(count, 1, 1, 1).requires_grad_(True))
            kept.append(sum(held.values()))
        del logits
    each = max(1, kept[1] - kept[0])
    room = math.floor(memory * 2**30 / each)
    if room < 1:
        raise SettingsError(f"one image needs {each / 2**30:.2f} GiB for its gradient, more than memory={memory}")
    return min(room, 1024)
