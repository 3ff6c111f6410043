"""Names and writing of a report's files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from radapt.errors import ResultsError
from radapt.io import write_bytes

__all__ = ["slugs", "write"]

_LONGEST = 60


def slugs(texts: Iterable[str], *, empty: str) -> list[str]:
    """A file name for each text, without its ending: lower-case letters, digits and hyphens; equal ones are numbered.

    Args:
        texts: what the files show.
        empty: the name where a text has no such character.
    """
    names: list[str] = []
    for text in texts:
        name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_LONGEST].strip("-") or empty
        number, unique = 1, name
        while unique in names:
            number += 1
            unique = f"{name}-{number}"
        names.append(unique)
    return names


def write(folder: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Write files into a folder, created when missing; each replaces its older version at once.

    Raises:
        ResultsError: the folder cannot be written.
    """
    try:
        return [write_bytes(folder / name, content) for name, content in contents.items()]
    except OSError as error:
        raise ResultsError(f"cannot write the report to {folder}: {error}; choose a folder that is yours") from error
