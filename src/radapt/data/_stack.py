"""Images that are gathered one by one: in memory, or where they are many, on the disk."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterable
from typing import IO

import numpy as np
from numpy.typing import NDArray

from radapt.errors import SettingsError

from ._cache import folder

__all__ = ["Stack", "stacked"]

_HELD = 1 << 30
"""Bytes of images that are held in memory; more of them lie on the disk."""


class Stack:
    """Images of one shape that become one array.

    More than a GiB of them go to a file in the folder of the cache as they come, and are read from there when they are
    used. The file has no name, and is gone with the array.
    """

    def __init__(self) -> None:
        self._held, self._size, self._count = list[NDArray[np.uint8]](), 0, 0
        self._shape: tuple[int, ...] = ()
        self._file: IO[bytes] | None = None

    def __len__(self) -> int:
        return self._count

    def add(self, image: NDArray[np.uint8]) -> None:
        """One more.

        Raises:
            SettingsError: the file cannot be written.
        """
        self._held.append(image)
        self._size, self._count, self._shape = self._size + image.nbytes, self._count + 1, image.shape
        if self._size <= _HELD:
            return
        try:
            if self._file is None:
                folder().mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=folder(), buffering=0)  # noqa: SIM115 - closed with the stack
                weakref.finalize(self, self._file.close)
            for each in self._held:
                _write(self._file, memoryview(each.tobytes()))
        except OSError as error:
            raise SettingsError(
                f"{self._count} images take more than {_HELD / 2**30:.3g} GiB of memory, and cannot be kept in "
                f"{folder()} ({error.strerror or error}); set RADAPT_CACHE to a folder with room, or take fewer"
            ) from error
        self._held.clear()

    def array(self) -> NDArray[np.uint8]:
        """All of them, N x their shape; there must be one. The array may be changed, and nothing else changes."""
        if self._file is None:
            return np.stack(self._held)
        return np.memmap(self._file, dtype=np.uint8, mode="c", shape=(self._count, *self._shape))


def stacked(images: Iterable[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Images of one shape, at least one of them, as a :class:`Stack` gives them.

    Raises:
        SettingsError: they are many, and cannot be written to the disk.
    """
    stack = Stack()
    for image in images:
        stack.add(image)
    return stack.array()


def _write(file: IO[bytes], content: memoryview) -> None:
    """All of it, though one call may write less."""
    while content:
        content = content[file.write(content) :]
