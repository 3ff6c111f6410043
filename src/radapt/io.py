"""Files that are written whole or not at all, hashes of plain values, and numbers as users write them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from radapt.errors import SettingsError

__all__ = [
    "check_writable",
    "checkpoint_path",
    "digest_of",
    "expanded",
    "fraction",
    "options_of",
    "replacing",
    "replacing_folder",
    "write_bytes",
    "write_json",
    "write_text",
]


def expanded(path: str | Path) -> Path:
    """A path as users write it, with ``~`` for their home and ``~name`` for that of a user who is there."""
    try:
        return Path(path).expanduser()
    except (RuntimeError, ValueError):  # there is no such user, or no such name
        return Path(path)


def check_writable(path: str | Path, *, folder: bool = False) -> Path:
    """Refuse a destination that cannot be written, before the work begins that is to end there; nothing is created.

    Args:
        path: a file, which may be there already, or a device or pipe such as ``/dev/stdout``.
        folder: whether it is a folder that is to hold the files.

    Returns:
        The path, with ``~`` for the home of the user expanded.

    Raises:
        SettingsError: a folder is a file or a file a folder, or it, or the nearest folder above it that is there,
            cannot be written (no permission, read-only, or no space left).
    """
    place = expanded(path)
    try:
        mode = _mode(place)
        if mode is not None and stat.S_ISDIR(mode) != folder:
            raise OSError(f"it is {'a folder, and must be a file' if not folder else 'a file, and must be a folder'}")
        if mode is not None and not folder and not os.access(place, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if mode is None or folder or stat.S_ISREG(mode):
            above = _followed(place) if folder else _followed(place).parent
            while _mode(above) is None:
                above = above.parent
            with tempfile.TemporaryFile(dir=above) as probe:
                probe.write(bytes(1 << 16))
                os.fsync(probe.fileno())
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise SettingsError(f"{str(place)!r} cannot be written: {reason}; give another path") from error
    return place


def _mode(path: Path) -> int | None:
    """Type and permissions of what a path leads to; None where there is nothing yet."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


def _followed(path: Path) -> Path:
    """Where a file is written: the target of a symbolic link, even of one whose target is missing."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place at the end of the ``with`` block, unless that fails.

    The folder is created when missing. What was written is on the disk before the file gets its name, so a reader, or
    a machine that loses power, finds the old content or the new one, never a part. A symbolic link stays one: the file
    that it leads to is replaced. A device or pipe stays, too: the content is written into it.

    Raises:
        OSError: the folder or the file cannot be written; the old file, if any, is as it was.
    """
    path = expanded(path)
    mode = _mode(path)
    if mode is not None and not os.access(path, os.W_OK):
        mode = _mode(path)  # another process may have removed it since
    if mode is not None and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    if mode is not None and (not stat.S_ISREG(mode) or _standard(path) is not None):
        with _streaming(path) as partial:
            yield partial
        return
    target = _followed(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not the whole name, which may be as long as names may be.
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:50]}.", suffix=".partial")
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        _sync(partial)
        partial.chmod(0o666 & ~_umask() if mode is None else stat.S_IMODE(mode))
        partial.replace(target)
        _sync_folder(target.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def _streaming(path: Path) -> Iterator[Path]:
    """A temporary file whose content goes into a device or pipe at the end."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    with tempfile.TemporaryDirectory() as folder:
        partial = Path(folder) / "partial"
        partial.touch()
        yield partial
        number = _standard(path)
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, ValueError):  # none, or closed
                stream.flush()
        # What is written to the standard output goes on behind what stands there, also where it is a file.
        with (
            open(path if number is None else number, "wb", closefd=number is None) as sink,
            partial.open("rb") as source,
        ):
            shutil.copyfileobj(source, sink)


def _standard(path: Path) -> int | None:
    """The number of the standard output or error, if a path leads there."""
    for number in (1, 2):
        with suppress(OSError):
            if os.path.samestat(path.stat(), os.fstat(number)):
                return number
    return None


@contextmanager
def replacing_folder(folder: Path, last: str) -> Iterator[Path]:
    """A temporary folder whose files take their places in ``folder`` at the end of the ``with`` block.

    All of them are on the disk before the first one gets its name. What else lies in the folder stays.

    Args:
        folder: where the files belong; created when missing.
        last: name of the file without which nobody takes the others for whole: where it is there already, it is removed
            first, and it is put there last. So a run that is killed leaves the old files, the new ones, or no ``last``.

    Raises:
        OSError: something cannot be written.
    """
    folder = _followed(expanded(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    there = folder.exists()
    with tempfile.TemporaryDirectory(dir=folder if there else folder.parent, prefix=".", suffix=".partial") as name:
        staged = Path(name) / folder.name
        staged.mkdir()
        yield staged
        files = sorted(each for each in staged.rglob("*") if each.is_file())
        files.sort(key=lambda each: each.name == last)
        for file in files:
            _sync(file)
        if not there:
            staged.replace(folder)
            _sync_folder(folder.parent)
            return
        blocked = next((target for file in files if (target := folder / file.relative_to(staged)).is_dir()), None)
        if blocked is not None:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(blocked))
        if (staged / last).exists():
            (folder / last).unlink(missing_ok=True)
            _sync_folder(folder)
        for file in files:
            target = folder / file.relative_to(staged)
            if target.is_symlink():
                with replacing(target) as partial:
                    shutil.copyfile(file, partial)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)
        _sync_folder(folder)


def _sync(path: Path) -> None:
    """Have the content of a file on the disk."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, where the system can do that."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _umask() -> int:
    """What new files may not be; a temporary file is its owner's alone."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all, and return its path; its folder is created when missing."""
    with replacing(path) as partial:
        partial.write_bytes(content)
    return path


def write_text(path: Path, content: str) -> Path:
    r"""Write a text in UTF-8, whole or not at all, and return its path; half a character becomes ``\udcff``."""
    return write_bytes(path, content.encode(errors="backslashreplace"))


def write_json(path: Path, value: object) -> Path:
    """Write plain values as JSON, whole or not at all, and return the path."""
    return write_text(path, json.dumps(value, indent=2) + "\n")


def checkpoint_path(out: Path) -> Path:
    """Where a training that is to end in the folder ``out`` keeps its checkpoint: beside it."""
    place = expanded(out)
    place = place if place.name and place.name != ".." else place.resolve()  # such as "."
    return place.with_name(place.name + ".checkpoint.safetensors")


def digest_of(value: object, *, length: int = 16, default: Callable[[Any], Any] | None = None) -> str:
    """Hash of plain values, in hexadecimal digits.

    Args:
        value: what JSON can hold.
        length: number of digits.
        default: what to take for a value that JSON cannot hold (``str``).
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=default).encode()).hexdigest()[:length]


def fraction(text: str | float) -> float:
    """A number, or a fraction such as ``4/255``.

    Raises:
        SettingsError: it is neither.
    """
    top, slash, bottom = str(text).partition("/")
    try:
        return float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        raise SettingsError(f"{text!r} is neither a number nor a fraction such as 4/255") from None


def options_of(pairs: Iterable[str]) -> dict[str, object]:
    """Read ``NAME=VALUE`` pairs; values that look like numbers become numbers.

    Raises:
        SettingsError: a pair without a name or without ``=``, or a name that is given twice.
    """
    options: dict[str, object] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise SettingsError(f"an option is written NAME=VALUE, got {pair!r}")
        if name in options:
            raise SettingsError(f"the option {name} is given twice: {options[name]!r}, and in {pair!r}; give it once")
        try:
            number = fraction(value)
        except SettingsError:
            options[name] = {"true": True, "false": False, "none": None}.get(value, value)
        else:
            whole = number.is_integer() and "." not in value and "/" not in value
            options[name] = int(number) if whole else number
    return options
