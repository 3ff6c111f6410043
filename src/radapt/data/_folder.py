"""Image folders: one folder for each class, and where there are several splits, one folder for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from radapt.errors import SettingsError, shown
from radapt.io import expanded
from radapt.types import Split

from ._cards import Card
from ._dataset import Dataset
from ._naming import chosen_names
from ._order import in_turn
from ._pixels import LARGEST, PIXELS, Squares

__all__ = ["read_folder"]

_SPLITS: dict[str, Split] = {each: each for each in get_args(Split)} | {"val": "validation", "valid": "validation"}
_LEFT_BY_SYSTEMS = ("thumbs.db", "desktop.ini", "__macosx")
_LOOSE = (".jpg", ".jpeg", ".jfif", ".jp2", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_PACKED = (".tar", ".parquet", ".arrow", ".zip")


def read_folder(details: Card, split: Split, n: int | None) -> Dataset:
    """The first ``n`` images of ``path/class/image``, or of ``path/split/class/image``.

    The classes are the folders of all splits, sorted by name; underscores in names become spaces. What is hidden is
    left out. A folder without splits is ``test`` alone, so that nothing is trained or tuned on what is measured.

    Options of the card: ``path``, ``size`` (pixels), ``shuffle`` (a seed; without it, images come sorted by class and
    by name) and ``balanced`` (classes in turn).

    Raises:
        SettingsError: wrong options, no such folder, split or images, images or folders where none are expected, fewer
            than two classes, or too few images.
        InputError: more files than not are no images that can be read.

    Warns:
        UserWarning: of each file that is none; its sample is left out.
    """
    name, path, seed = f"dataset {details.name!r}", details.options.get("path"), details.options.get("shuffle")
    if not isinstance(path, str) or not path:
        raise SettingsError(f"{name}: the options need the path of a folder, got {shown(path)}")
    if seed is not None:
        seed = details.whole("shuffle", 0, 0, 2**32 - 1)
    size, balanced = details.whole("size", PIXELS, 8, LARGEST), details.flag("balanced")
    places = _places(name, expanded(path))
    if split not in places:
        held = " and ".join(sorted(places))
        raise SettingsError(
            f"{name}: {path!r} has no images for {split}, only for {held}; put those into a folder {split!r} with a "
            "folder for each class, beside such folders of the other splits"
        )
    folders = sorted({folder.name for place in places.values() for folder in _folders(place)})
    if len(folders) < 2:
        raise SettingsError(
            f"{name}: {path!r} must have a folder with images for each of two classes or more, got {shown(folders)}"
        )
    inside = {folder: _files(name, places[split] / folder) for folder in folders}
    others = [place for other, place in places.items() if other != split]
    if hollow := [each for each in folders if not inside[each] and not any(_files(name, at / each) for at in others)]:
        raise SettingsError(f"{name}: {shown(hollow)} of {path!r} would be classes, and hold no images; remove them")
    files, labels = [], []
    for label, found in enumerate(inside.values()):
        files += found
        labels += [label] * len(found)
    order: Sequence[int] = range(len(files))
    if seed is not None:  # the legacy generator: NumPy promises that its permutations never change
        order = np.random.RandomState(seed).permutation(len(files)).tolist()
    if balanced:
        order = [order[at] for at in in_turn([labels[at] for at in order])]
    wanted = n or details.n or len(files)
    if not files or wanted > len(files):
        raise SettingsError(f"{name}: the {split} split has {len(files)} samples, n={wanted} asked for")
    images = Squares(name, size)
    rows = [row for row in order[:wanted] if images.add(files[row])]
    return Dataset(
        card=details,
        split=split,
        images=images.stacked(),
        labels=torch.tensor([labels[row] for row in rows], dtype=torch.int64, device="cpu"),
        left_out=images.left_out,
        classes=chosen_names(details, [" ".join(folder.replace("_", " ").split()) for folder in folders]),
    )


def _places(name: str, root: Path) -> dict[Split, Path]:
    """Where the class folders of each split are."""
    if not root.is_dir():
        raise SettingsError(f"{name}: there is no folder {str(root)!r}")
    inner, places = _folders(root), dict[Split, Path]()
    for folder in inner:
        split = _SPLITS.get(folder.name.lower())
        if split is None or not _folders(folder):
            continue
        if split in places:
            raise SettingsError(f"{name}: {str(places[split])!r} and {str(folder)!r} are both for {split}; keep one")
        places[split] = folder
    if not places:
        places["test"] = root
    elif others := [folder.name for folder in inner if folder not in places.values()]:
        raise SettingsError(
            f"{name}: {str(root)!r} has folders of splits ({', '.join(each.name for each in places.values())}) and "
            f"others beside them ({shown(others)}), which are neither; move them elsewhere"
        )
    for place in {root, *places.values()}:
        if loose := [file.name for file in _visible(place) if file.suffix.lower() in _LOOSE and file.is_file()]:
            raise SettingsError(
                f"{name}: {str(place)!r} has images outside the folders of the classes, such as {loose[0]!r}"
            )
    return places


def _visible(folder: Path) -> list[Path]:
    """What a folder holds, sorted by name, without what is hidden."""
    names = (each for each in folder.iterdir() if not each.name.startswith("."))
    return sorted((each for each in names if each.name.lower() not in _LEFT_BY_SYSTEMS), key=lambda each: each.name)


def _folders(folder: Path) -> list[Path]:
    return [each for each in _visible(folder) if each.is_dir()]


def _files(name: str, folder: Path) -> list[Path]:
    """The images of one class; none where the split has no such folder."""
    found = _visible(folder) if folder.is_dir() else []
    for each in found:
        if each.is_dir():
            raise SettingsError(f"{name}: there is a folder {each.name!r} in that of a class, {str(folder)!r}")
        if each.suffix.lower() in _PACKED:
            raise SettingsError(
                f"{name}: {str(each)!r} is no image; files of a dataset of the hub are read by a card with "
                "'source: hub' and their folder as repository, or through data_root"
            )
    return found
