"""Whether the tar archives of a webdataset are whole: a reader of tar takes the first damaged header for the end."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from radapt.errors import SettingsError

__all__ = ["check_archives"]


def check_archives(name: str, files: Iterable[str | Path]) -> None:
    """Refuse archives that end early or are damaged between their members, before a sample of them is read.

    The samples behind the damage would be missing in silence, and those of the next archive would take their places: in
    the order of the dataset, and in what its splits are cut from.

    Args:
        name: of the dataset, for messages.
        files: of the split; those that are no tar archives on this machine are left alone.

    Raises:
        SettingsError: one of them is damaged; the message names it.
    """
    archives = [file for file in map(Path, files) if file.suffix == ".tar" and file.is_file()]
    for number, file in enumerate(archives, 1):
        status = file.stat()
        if problem := _problem(file, status.st_size, status.st_mtime_ns):
            where = f"shard {number} of {len(archives)}, {str(file)!r}"
            raise SettingsError(f"{name}: {where}, is damaged: {problem}; get it again")


@lru_cache(1 << 12)
def _problem(file: Path, size: int, _: int) -> str:
    """What is wrong with an archive; empty for nothing. A file that has not changed is looked at once."""
    try:
        with tarfile.open(file, "r:") as archive:
            count = sum(1 for _ in archive)
            at = archive.offset  # of the block that is no header: zeros, at the end of a whole archive
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        return str(error).strip() or type(error).__name__
    with file.open("rb") as stream:
        stream.seek(at)
        block = stream.read(tarfile.BLOCKSIZE)
    if block == bytes(tarfile.BLOCKSIZE):
        return ""
    return f"after {count} files, at byte {at} of {size}, neither a file nor the end follows"
