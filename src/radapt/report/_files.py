"""Names and writing of a report's files."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from radapt.errors import ResultsError

__all__ = ["slugs", "write"]

_LONGEST = 60


def slugs(texts: Iterable[str], *, empty: str) -> list[str]:
    """A file name for each text, without its ending: small letters, digits and hyphens; equal ones are numbered.

    Args:
        texts: what the files show.
        empty: the name where a text has no such sign.
    """
    found: list[str] = []
    for text in texts:
        name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_LONGEST].strip("-") or empty
        number, chosen = 1, name
        while chosen in found:
            number += 1
            chosen = f"{name}-{number}"
        found.append(chosen)
    return found


def write(folder: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Write files into a folder, created when missing; each replaces its older version at once.

    Raises:
        ResultsError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [_replace(folder / name, content) for name, content in contents.items()]
    except OSError as error:
        raise ResultsError(f"cannot write the report to {folder}: {error}; choose a folder that is yours") from error


def _replace(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path
