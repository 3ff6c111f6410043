"""Image processors of ``transformers``: found, made or checked, with the normalisation that they hold."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from radapt.errors import ModelError, shown

__all__ = ["check_normalisation", "checked_processor", "image_processor", "warn_normalisation"]

_MOST = 1000.0


def image_processor(model: Any, name: str, given: Any, kind: Any, **usual: Any) -> Any:
    """The image processor of a model object: the one that is given, or that of the files that the model came from.

    Args:
        model: the model object.
        name: what messages call it.
        given: an image processor, or a processor that holds one; None: it is looked for.
        kind: class of its image processor.
        usual: settings of one with the normalisation that is usual for the family; taken with a warning.

    Raises:
        ModelError: what is given is no image processor.
    """
    if given is not None:
        return checked_processor(given)
    source = getattr(model.config, "_name_or_path", "")
    if source:
        with suppress(OSError, ValueError):  # the folder, or the cache of the hub
            return checked_processor(kind.from_pretrained(source, local_files_only=True))
    processor = kind(**usual)
    warn_normalisation(name, processor.image_mean, processor.image_std)
    return processor


def checked_processor(processor: Any) -> Any:
    """The image processor itself, where a processor for images and texts is given.

    Raises:
        ModelError: it has no mean and standard deviation, or some that cannot be.
    """
    images = getattr(processor, "image_processor", processor)
    if not hasattr(images, "image_mean") or not hasattr(images, "image_std"):
        raise ModelError(f"processor must have an image_mean and an image_std, got {type(processor).__name__}")
    check_normalisation(images.image_mean, images.image_std)
    if getattr(images, "do_normalize", True) is not True:
        raise ModelError(f"the image processor's do_normalize must be true, got {shown(images.do_normalize)}")
    return images


def check_normalisation(mean: object, std: object) -> None:
    """Refuse what is no mean or standard deviation of three channels.

    Raises:
        ModelError: not three numbers, or some that are not finite, far from those of pixels, or a deviation of nothing.
    """
    for name, values, least in (("image_mean", mean, -_MOST), ("image_std", std, 1 / _MOST)):
        given: Any = values.tolist() if hasattr(values, "tolist") else values
        numbers = [each for each in given if type(each) in (int, float)] if isinstance(given, list | tuple) else []
        if len(numbers) != 3 or len(given) != 3 or not all(least <= each <= _MOST for each in numbers):
            raise ModelError(
                f"the {name} of the image processor must be three numbers from {least:g} to {_MOST:g}, for pixels from "
                f"0 to 1; got {shown(values)}"
            )


def warn_normalisation(name: str, mean: Sequence[float], std: Sequence[float], *, level: int = 6) -> None:
    """Say that a model object has no image processor, so that its normalisation is a guess.

    Args:
        name: of the model.
        mean, std: what is taken.
        level: where the warning points to: by default the line that calls :func:`radapt.load`.
    """
    warnings.warn(
        f"{name} came without an image processor: images are normalised with mean {_rounded(mean)} and standard "
        f"deviation {_rounded(std)}; where it was trained with others, pass its own: radapt.load(model, processor=...)",
        stacklevel=level,
    )


def _rounded(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
