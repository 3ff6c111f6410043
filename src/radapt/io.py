"""Files that are written whole or not at all, hashes of plain values, and numbers as users write them."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from radapt.errors import SettingsError

__all__ = [
    "checkpoint_path",
    "digest_of",
    "fraction",
    "options_of",
    "replacing",
    "write_bytes",
    "write_json",
    "write_text",
]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place at the end of the ``with`` block, unless that fails.

    The folder is created when missing. What was written is on the disk before the file gets its name, so a reader, or
    a machine that loses power, finds the old content or the new one, never a part.

    Raises:
        OSError: the folder or the file cannot be written; the old file, if any, is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        partial.chmod(0o666 & ~_umask())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


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
    """Write a text in UTF-8, whole or not at all, and return its path."""
    return write_bytes(path, content.encode())


def write_json(path: Path, value: object) -> Path:
    """Write plain values as JSON, whole or not at all, and return the path."""
    return write_text(path, json.dumps(value, indent=2) + "\n")


def checkpoint_path(out: Path) -> Path:
    """Where a training that is to end in the folder ``out`` keeps its checkpoint: beside it."""
    return out.with_name(out.name + ".checkpoint.safetensors")


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
        SettingsError: a pair without ``=``.
    """
    options: dict[str, object] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise SettingsError(f"an option is written NAME=VALUE, got {pair!r}")
        try:
            number = fraction(value)
        except SettingsError:
            options[name] = {"true": True, "false": False, "none": None}.get(value, value)
        else:
            whole = number.is_integer() and "." not in value and "/" not in value
            options[name] = int(number) if whole else number
    return options
