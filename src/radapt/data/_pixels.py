"""Photographs as models take them: resized and cropped in the middle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL.Image import Image, Resampling

from radapt.errors import InputError
from radapt.images import open_image

__all__ = ["LARGEST", "PIXELS", "square"]

PIXELS, LARGEST = 224, 4096
"""Height and width of photographs in pixels: unless the card says otherwise, and at most."""


def square(where: str, image: object, size: int) -> NDArray[np.uint8]:
    """An image resized (bicubic, shorter side) and cropped in the middle, size x size x 3.

    Args:
        where: dataset and sample, for messages.
        image: a PIL image, or the bytes or the path of its file.
        size: height and width, in pixels.

    Raises:
        InputError: it is no image, or has too many pixels once it is resized.
    """
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
