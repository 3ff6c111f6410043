"""A map of weights over the image that it is of."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from PIL import Image

__all__ = ["over"]

_SHARE = 0.65
"""Of the colour of the map, beside the grey of the image."""


def over(image: Image.Image, weights: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Image.Image:
    """A map in the colours of viridis, dark to bright, over the image in grey.

    Args:
        image: the image.
        weights: in [0, 1], rows x columns; each is a rectangle of the image, all of the same size.
    """
    colours = Image.fromarray((mpl.colormaps["viridis"](weights)[..., :3] * 255).astype(np.uint8))
    enlarged = colours.resize(image.size, Image.Resampling.NEAREST)
    return Image.blend(image.convert("L").convert("RGB"), enlarged, _SHARE)
