"""The handwritten digits that ship with scikit-learn (1,797 scans of 13 writers, 8 x 8 pixels): real images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from radapt.errors import SettingsError

__all__ = ["DIGITS", "load_digits"]

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_SPLITS = {"train": slice(0, 1000), "validation": slice(1000, 1200), "test": slice(1200, None)}


def load_digits(split: str, size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Digits of a split (train 1,000; validation 200; test 597), enlarged bicubically.

    The order is the file's own, in which the test split comes from other writers than most of the training split.

    Returns:
        uint8 images, N x size x size x 3, and labels 0 to 9.

    Raises:
        SettingsError: scikit-learn, the extra ``digits``, is not installed.
    """
    try:
        from sklearn.datasets import load_digits as read  # takes a second to import
    except ImportError as error:
        raise SettingsError('the digits come with scikit-learn: pip install "radapt[digits]"') from error
    data = read()
    part = _SPLITS[split]
    grey = np.rint(data.images[part] * (255 / 16)).astype(np.uint8)
    large = [np.asarray(Image.fromarray(g).resize((size, size), Image.Resampling.BICUBIC)) for g in grey]
    return np.repeat(np.stack(large)[..., None], 3, axis=3), data.target[part].astype(np.int64)
