"""Images that are gathered one by one: in memory, or where they are many, on the disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from typing import IO

import numpy as np
from numpy.typing import NDArray

from radapt.errors import SettingsError

from ._cache import folder

__all__ = ["stacked"]

HELD = 1 << 30
"""Bytes of images that are held in memory; more of them lie on the disk."""


def stacked(images: Iterable[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Images of one shape as one array, N x that shape; it may change, and nothing else does.

    More than a GiB of them go to a file in the folder of the cache as they come, and are read from there when they are
    used. The file has no name, and is gone with the array.

    Args:
        images: at least one.

    Raises:
        SettingsError: the file cannot be written.
    """
    held, size, count = list[NDArray[np.uint8]](), 0, 0
    shape: tuple[int, ...] = ()
    with ExitStack() as stack:
        file: IO[bytes] | None = None
        for image in images:
            held.append(image)
            size, count, shape = size + image.nbytes, count + 1, image.shape
            if size <= HELD:
                continue
            try:
                if file is None:
                    folder().mkdir(parents=True, exist_ok=True)
                    file = stack.enter_context(tempfile.TemporaryFile(dir=folder(), buffering=0))
                for each in held:
                    _write(file, memoryview(each.tobytes()))
            except OSError as error:
                raise SettingsError(
                    f"{count} images take more than {HELD / 2**30:.3g} GiB of memory, and cannot be kept in {folder()} "
                    f"({error.strerror or error}); set RADAPT_CACHE to a folder with room, or take fewer"
                ) from error
            held.clear()
        if file is None:
            return np.stack(held)
        return np.memmap(file, dtype=np.uint8, mode="c", shape=(count, *shape))


def _write(file: IO[bytes], content: memoryview) -> None:
    """All of it, though one call may write less."""
    while content:
        content = content[file.write(content) :]
