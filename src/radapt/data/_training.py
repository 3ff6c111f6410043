"""The training images that a method asks for by names of datasets, as objects, or as several of either."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from radapt.errors import SettingsError, shown
from radapt.numbers import whole

from ._dataset import Dataset
from ._joined import joined
from ._readers import load_dataset

__all__ = ["check_datasets", "listed", "training_images", "warn_of_test_split"]


def listed(given: Any) -> list[Any]:
    """One thing, or several, as a list."""
    return list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]


def check_datasets(given: Sequence[object]) -> None:
    """Refuse what are no datasets, by name or as objects, and an empty list of them.

    Raises:
        SettingsError: one is none, or there is none.
    """
    wrong = [each for each in given if not isinstance(each, str | Path | Dataset)]
    if wrong or not given:
        got = shown(wrong[0]) if wrong else "none"
        raise SettingsError(f"data must be a dataset, by name or as an object, or a list of datasets; got {got}")


def training_images(
    data: str | Path | Dataset | Sequence[str | Path | Dataset],
    n: int | Sequence[int],
    *,
    size: int,
    quiet: bool = False,
    warn: bool = True,
) -> Dataset:
    """The images of some datasets as one; of those by name, the train splits.

    Args:
        data: a dataset, by name or as an object, or several.
        n: how many images of each dataset by name, or one number for all.
        size: side of the images of datasets by name, in pixels.
        quiet: no progress bar.
        warn: whether to warn of a test split, as what they are handed to does not.

    Raises:
        SettingsError: nothing that is a dataset, a number of numbers that does not match, or as :func:`load_dataset`.
        InputError: several sets that cannot be joined.

    Warns:
        UserWarning: images of a test split.
    """
    given, numbers = listed(data), listed(n)
    for each in numbers:
        whole("n", each)
    check_datasets(given)
    names = [each for each in given if isinstance(each, str | Path)]
    if len(numbers) not in (1, len(names)):
        got = f"{len(names)} datasets by name and {len(numbers)} n"
        raise SettingsError(f"give n once, or once for each dataset by name; got {got}")
    counts = iter(numbers if len(numbers) == len(names) else [numbers[0]] * len(names))
    sets = [
        each
        if isinstance(each, Dataset)
        else load_dataset(str(each), split="train", n=next(counts), size=size, quiet=quiet)
        for each in given
    ]
    images = joined(sets)
    if warn:
        warn_of_test_split(images, level=4)
    return images


def warn_of_test_split(images: Dataset, *, level: int) -> None:
    """Warn whoever trains on images that are there to judge by.

    Args:
        images: those of the training.
        level: whose line the warning names: 2 is whoever calls this, 3 whoever calls them, and so on.

    Warns:
        UserWarning: they are of a test split.
    """
    if images.split == "test":
        text = f"{images.name}: training on a test split; what it is judged on must be other images (split='train')"
        warnings.warn(text, stacklevel=level)
