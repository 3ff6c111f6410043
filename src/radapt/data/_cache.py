"""A cache of rendered pictures on disk; losing it costs time only.

The folder is the user's cache folder, or the one that the environment variable ``RADAPT_CACHE`` names.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_dir

__all__ = ["cached", "folder"]

_Pictures = NDArray[np.uint8]


def folder() -> Path:
    """Where rendered pictures are kept."""
    return Path(os.environ.get("RADAPT_CACHE") or user_cache_dir("radapt")) / "rendered"


def cached(key: object, shape: tuple[int, ...], make: Callable[[], _Pictures]) -> _Pictures:
    """The pictures that ``make`` returns, from disk if they have been made before.

    Args:
        key: everything that the pictures depend on, as plain JSON values.
        shape: their shape; a file with any other shape is made again.
        make: renders them.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    file = folder() / f"{digest[:32]}.npz"
    pictures = _load(file, shape)
    if pictures is None:
        pictures = make()
        _save(file, pictures)
    return pictures


def _load(file: Path, shape: tuple[int, ...]) -> _Pictures | None:
    try:
        # The file is opened here because numpy leaves a damaged one open.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            pictures = content["pictures"]  # a zip member: its checksum finds damaged bytes
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # damaged bytes raise errors of a dozen kinds, and all mean the same
        _warn_unusable(file, f"{type(error).__name__}: {error}")
        return None
    if pictures.dtype != np.uint8 or pictures.shape != shape:
        _warn_unusable(file, f"it holds {pictures.dtype} of shape {pictures.shape}")
        return None
    result: _Pictures = pictures
    return result


def _save(file: Path, pictures: _Pictures) -> None:
    partial: Path | None = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, suffix=".partial")
        partial = Path(name)
        with os.fdopen(handle, "wb") as stream:
            np.savez(stream, pictures=pictures)
        # Whole or not at all, so that processes that share the folder never read half a file.
        partial.replace(file)
    except OSError as error:
        if partial is not None:
            partial.unlink(missing_ok=True)
        _warn_unwritable(str(file.parent), type(error).__name__)


def _warn_unusable(file: Path, problem: str) -> None:
    warnings.warn(f"rendering again: the cached pictures in {file} cannot be used: {problem}", stacklevel=4)


@cache  # once per folder, not once per chunk
def _warn_unwritable(where: str, problem: str) -> None:
    warnings.warn(
        f"rendered pictures cannot be kept in {where} ({problem}) and will be rendered each time; "
        "set RADAPT_CACHE to a folder that can be written",
        stacklevel=4,
    )
