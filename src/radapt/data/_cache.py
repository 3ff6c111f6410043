"""A cache of rendered images on disk; losing it costs time only.

The folder is the user's cache folder, or the one that the environment variable ``RADAPT_CACHE`` names.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_dir

from radapt.io import digest_of, replacing

__all__ = ["cached", "folder"]

_Images = NDArray[np.uint8]


def folder() -> Path:
    """Where rendered images are kept."""
    return Path(os.environ.get("RADAPT_CACHE") or user_cache_dir("radapt")) / "rendered"


def cached(key: object, shape: tuple[int, ...], make: Callable[[], _Images]) -> _Images:
    """The images that ``make`` returns, from disk if they have been made before.

    Args:
        key: everything that the images depend on, as plain JSON values.
        shape: their shape; a file with any other shape is made again.
        make: renders them.
    """
    file = folder() / f"{digest_of(key, length=32)}.npz"
    images = _load(file, shape)
    if images is None:
        images = make()
        _save(file, images)
    return images


def _load(file: Path, shape: tuple[int, ...]) -> _Images | None:
    try:
        # The file is opened here because numpy leaves a damaged one open.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            images = content["pictures"]  # a zip member: its checksum finds damaged bytes
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # damaged bytes raise errors of a dozen kinds, and all mean the same
        _warn_unusable(file, f"{type(error).__name__}: {error}")
        return None
    if images.dtype != np.uint8 or images.shape != shape:
        _warn_unusable(file, f"it holds {images.dtype} of shape {images.shape}")
        return None
    result: _Images = images
    return result


def _save(file: Path, images: _Images) -> None:
    try:
        # Whole or not at all, so that processes that share the folder never read half a file.
        with replacing(file) as partial, partial.open("wb") as stream:
            np.savez(stream, pictures=images)
    except OSError as error:
        _warn_unwritable(str(file.parent), type(error).__name__)


def _warn_unusable(file: Path, problem: str) -> None:
    warnings.warn(f"rendering again: the cached images in {file} cannot be used: {problem}", stacklevel=4)


@cache  # once per folder, not once per chunk
def _warn_unwritable(where: str, problem: str) -> None:
    warnings.warn(
        f"rendered images cannot be kept in {where} ({problem}) and will be rendered each time; "
        "set RADAPT_CACHE to a folder that can be written",
        stacklevel=4,
    )
