"""One call that attacks any classifier."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

from radapt.classifier import AnyClassifier
from radapt.errors import InputError, RadaptError, SettingsError
from radapt.precision import own_precision
from radapt.types import Logits, Norm, Pixels

from ._attack import Attack
from ._evaluator import out_of_memory
from ._inputs import TensorLike, images_of, labels_of
from ._objective import ClassificationObjective
from ._outcome import Outcome
from ._registry import make
from ._settings import check_call, flag, number, shown

__all__ = ["attack"]

_BATCH_SIZE, _CPU_BATCH_SIZE = 64, 16


@own_precision()
def attack(
    model: Any,
    images: TensorLike,
    labels: TensorLike,
    *,
    attack: str | Attack = "autoattack",
    eps: float | str | None = None,
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
        model: maps pixels in [0, 1] (batch x 3 x height x width, before normalisation) to logits (batch x classes), or
            to an object whose ``logits`` they are. A module gets them where its weights are.
        images: clean images in [0, 1]: floating-point numbers of any precision, as a tensor, an array or a list of
            images; they are not changed.
        labels: true classes: whole numbers in a tensor, an array or a list, or one-hot rows.
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
        What was found, where the model is: ``outcome.adversarial`` are the images, ``outcome.robust_accuracy`` is the
        share not fooled, ``outcome.failed`` says on which the model gives no finite numbers.

    Raises:
        InputError: images or labels are wrong, or the model gives no logits, or no finite ones for any image.
        SettingsError: an unknown attack or setting, a value out of range, or settings given beside an attack object.
    """
    chosen = _chosen(attack, settings | {k: v for k, v in (("eps", eps), ("norm", norm)) if v is not None})
    if batch_size is not None and memory is not None:
        raise SettingsError("give batch_size or memory, not both")
    if memory is not None:
        number("memory", memory, 0, above=True)
    check_call(seed=seed, batch_size=1 if batch_size is None else batch_size, precision=precision, seconds=seconds)
    flag("quiet", quiet)
    pixels, classifier = _placed(model, images_of("images", images)), AnyClassifier(model)
    if len(labels_of(labels)) != len(pixels):
        raise InputError(f"give one label per image; got {len(pixels)} images and {len(labels)} labels")
    with _frozen(model):
        classes = _classes(classifier, pixels[:1])
        most = batch_size or (_CPU_BATCH_SIZE if pixels.device.type == "cpu" else _BATCH_SIZE)
        if memory is not None:
            most = _fitting(classifier, pixels[:1], memory)
        objective = ClassificationObjective(classifier, labels, classes)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("robust accuracy {task.fields[robust]:.1f} %"),
        )
        with Progress(*columns, disable=quiet, transient=True) as bar:
            task = bar.add_task(chosen.name, total=len(pixels), robust=100.0)

            def report(done: int, fooled: int) -> None:
                bar.update(task, completed=done, robust=100 * (1 - fooled / len(pixels)))

            outcome = chosen(
                objective,
                pixels,
                seed=seed,
                batch_size=min(most, len(pixels)),
                precision=precision,
                seconds=seconds,
                progress=report,
            )
    if outcome.failed.all():
        raise InputError(
            "the model's logits or their gradients are not finite numbers for any of the images; look for an overflow "
            "or a division by zero in the model"
        )
    return outcome


def _placed(model: object, pixels: Pixels) -> Pixels:
    """Images on the device of a module's weights; where they are for what is no module.

    Raises:
        InputError: the model cannot be called with images.
    """
    if not callable(model):
        how = "give a function from pixels to logits"
        if hasattr(model, "classifier") and hasattr(model, "logits"):
            how = (
                "say which classes it is to tell apart: classes = model.classifier([['a photo of a cat'], ['a photo of "
                "a dog']]), or model.classifier(data.prompts), and attack lambda pixels: model.logits(pixels, classes)"
            )
        elif hasattr(model, "encode_image"):
            how = "models that generate text are attacked by radapt.evaluate"
        raise InputError(f"a {type(model).__name__} is no function of pixels; {how}")
    weights = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return pixels if weights is None else pixels.to(weights.device)


def _classes(classifier: AnyClassifier, image: Pixels) -> int:
    """How many classes there are, by a pass on one image.

    Raises:
        InputError: the model fails on it, or gives no logits.
    """
    try:
        with torch.no_grad():
            return int(classifier(image).shape[1])
    except Exception as error:
        if isinstance(error, RadaptError) or out_of_memory(error):
            raise
        raise InputError(
            f"the model failed on the first image, {tuple(image.shape)} on {image.device}: "
            f"{type(error).__name__}: {error}"
        ) from error


def _chosen(attack: str | Attack, settings: dict[str, Any]) -> Attack:
    """The attack of a name with these settings, or the attack itself, which must have none beside it."""
    if isinstance(attack, str):
        return make(attack, **settings)
    if not isinstance(attack, Attack):
        raise SettingsError(f"attack must be a name or an attack, such as PGD(eps=4/255); got {shown(attack)}")
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
            logits = model(image.repeat(count, 1, 1, 1).requires_grad_(True))
            saved.append(sum(sizes.values()))
        del logits
    each = max(1, saved[1] - saved[0])
    most = math.floor(memory * 2**30 / each)
    if most < 1:
        raise SettingsError(f"one image needs {each / 2**30:.2f} GiB for its gradient, more than memory={memory}")
    return min(most, 1024)
