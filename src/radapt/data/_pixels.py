"""Photographs as models take them: resized and cropped in the middle."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL.Image import Image, Resampling

from radapt.errors import InputError
from radapt.images import open_image

from ._stack import Stack

__all__ = ["LARGEST", "PIXELS", "Squares", "square"]

PIXELS, LARGEST = 224, 4096
"""Height and width of photographs in pixels: unless the card says otherwise, and at most."""
_MOST_NAMED = 20
"""Where more images than this cannot be read, and fewer can, it is not single files that are damaged."""


class Squares:
    """The images of a dataset as they are read, and the numbers of those that cannot be, which are left out.

    Args:
        name: of the dataset, for messages.
        size: height and width, in pixels.
    """

    def __init__(self, name: str, size: int) -> None:
        self._name, self._size = name, size
        self._images = Stack()
        self._problems: dict[int, InputError] = {}

    def add(self, image: object) -> bool:
        """Read the next image, and say whether it can be read; see :func:`square`.

        Raises:
            InputError: so many cannot be read that the dataset itself is in doubt.
        """
        at = len(self._images) + len(self._problems)
        try:
            self._images.add(square(f"{self._name}: sample {at}", image, self._size))
        except InputError as error:
            self._problems[at] = error
            if len(self._problems) > max(_MOST_NAMED, len(self._images)):
                raise self._doubted() from error
            return False
        return True

    @property
    def left_out(self) -> tuple[int, ...]:
        """Numbers of the samples whose images cannot be read."""
        return tuple(self._problems)

    def stacked(self) -> NDArray[np.uint8]:
        """The images that can be read, at least as many as those that cannot.

        Raises:
            InputError: they are fewer.

        Warns:
            UserWarning: of each one that is left out.
        """
        if len(self._problems) > len(self._images):
            raise self._doubted() from next(iter(self._problems.values()))
        for problem in self._problems.values():
            warnings.warn(f"{problem}; this sample is left out", stacklevel=5)
        return self._images.array()

    def _doubted(self) -> InputError:
        first, *others = self._problems.values()
        more = f"; nor can {len(others)} others of {len(self._images) + len(self._problems)}" if others else ""
        return InputError(f"{first}{more}")


def square(where: str, image: object, size: int) -> NDArray[np.uint8]:
    """An image resized (bicubic, shorter side) and cropped in the middle, size x size x 3.

    Args:
        where: dataset and sample, for messages.
        image: a PIL image, or the bytes or the path of its file.
        size: height and width, in pixels.

    Raises:
        InputError: it is no image, or has too many pixels once it is resized.
    """
    if image is None:
        raise InputError(f"{where} has no image")
    if not isinstance(image, Image | bytes | Path):
        raise InputError(f"{where} holds {type(image).__name__} where an image is expected")
    try:
        upright = open_image(image)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    scale = size / min(upright.size)
    width, height = (max(size, round(side * scale)) for side in upright.size)
    if PIL.Image.MAX_IMAGE_PIXELS is not None and width * height > PIL.Image.MAX_IMAGE_PIXELS:
        got = f"{upright.width} x {upright.height} pixels, with a shorter side of {size} it has {width * height}"
        raise InputError(f"{where}: the image is {got}, the limit is {PIL.Image.MAX_IMAGE_PIXELS}; crop it first")
    left, top = (width - size) // 2, (height - size) // 2
    resized = upright.resize((width, height), Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + size, top + size)), dtype=np.uint8)
