"""A local mirror of the hub: one folder that holds a copy of each repository, under the repository's own name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from radapt.errors import SettingsError
from radapt.io import expanded

from ._cards import Card

__all__ = ["VARIABLE", "data_root", "mirrored"]

VARIABLE = "RADAPT_DATA"
"""The environment variable that names the folder, where no other is given."""


@contextmanager
def data_root(folder: str | Path) -> Iterator[None]:
    """Read the datasets of the hub from a folder with copies of them, for as long as the ``with`` block lasts.

    It counts for all threads of this process, and in the processes that are started meanwhile.

    Args:
        folder: as the ``data_root`` of :func:`load_dataset`.
    """
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before


def mirrored(details: Card, root: str | Path | None) -> Card:
    """The card of a set of the hub with its repository replaced by its copy in the mirror.

    ``clip-benchmark/wds_vtab-cifar10`` is the folder ``wds_vtab-cifar10``. Cards with another source, and those whose
    repository is a folder already, stay as they are; so do all where there is no mirror.

    Args:
        details: the card.
        root: the mirror; None: the one that ``RADAPT_DATA`` names, if any.

    Raises:
        SettingsError: the mirror is no folder, or lacks the set.
    """
    chosen = os.environ.get(VARIABLE) if root is None else root
    repository = details.options.get("repository")
    if not chosen or details.source != "hub" or not isinstance(repository, str) or expanded(repository).is_dir():
        return details
    where = "data_root" if root is not None else VARIABLE
    folder = expanded(chosen)
    if not folder.is_dir():
        raise SettingsError(f"{where} must be a folder with copies of the hub's datasets, got {str(chosen)!r}")
    copy = folder / Path(repository).name
    if not copy.is_dir():
        raise SettingsError(
            f"dataset {details.name!r}: there is no folder {str(copy)!r}; put a copy of {repository!r} there "
            f"({details.options.get('files', 'its files')}), or leave {where} out to read it from the hub"
        )
    return replace(details, options={**details.options, "repository": str(copy)})
