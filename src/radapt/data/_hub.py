"""Datasets of the Hugging Face hub, or of a folder in one of its formats (Parquet, webdataset, image folders)."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from radapt.errors import InputError, SettingsError
from radapt.images import open_image
from radapt.types import Split

from ._cards import Card
from ._dataset import Dataset
from ._naming import NAMING, class_names, no_column, with_templates

__all__ = ["OPTIONS", "read_hub"]

_READING = ("repository", "configuration", "files", "splits", "columns", "size", "shuffle")
_COLUMNS = {
    "zero-shot": ("image", "label"),
    "retrieval": ("image", "captions"),
    "captioning": ("image", "captions"),
    "vqa": ("image", "question", "answers"),
}
OPTIONS = {task: (*_READING, *(NAMING if task == "zero-shot" else ())) for task in _COLUMNS}
"""What a card of each task may say under ``options``."""
_IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp")
_PIXELS = 224
_SLICE = re.compile(r"(.+)\[(\d*):(\d*)\]")


def read_hub(details: Card, split: Split, n: int | None) -> Dataset:
    """The first ``n`` rows of a split; images are resized (bicubic, shorter side) and cropped in the middle.

    Options of the card: ``repository`` (owner/name, or a folder), ``configuration``, ``files`` (those of one split, as
    in ``{split}/*.tar``), ``splits`` (ours to theirs, or to some rows of theirs: ``test[1000:]``, ``test[:1000]``),
    ``columns`` (``image``, and ``label``, ``captions``, or ``question`` and ``answers``, to theirs; an image is looked
    for under the usual names), ``size`` (pixels) and ``shuffle`` (a seed: the rows are taken in the order of a
    permutation of their whole split, which is downloaded for it; ``splits`` count in that order). Zero-shot sets also
    take the options of :func:`radapt.data._naming.class_names`.

    Raises:
        SettingsError: wrong options, no such split, column or file, no class names, too few rows, or the library
            ``datasets`` is missing.
        InputError: an image or a label that cannot be read, or a label without a class name.
    """
    name = f"dataset {details.name!r}"
    repository, size = details.options.get("repository"), details.options.get("size", _PIXELS)
    if not isinstance(repository, str) or type(size) is not int or size < 8:
        raise SettingsError(f"{name}: the options need a repository and a size from 8 pixels up")
    splits, columns = (_names(name, key, details.options.get(key, {})) for key in ("splits", "columns"))
    part, wanted = splits.get(split, split), n or details.n
    classes: dict[int, str] = {}
    with _reading(name, repository, part):
        whole = _open(details, _bounds(part)[0])
        if details.task == "zero-shot":
            details, classes = with_templates(details), class_names(details, whole, columns.get("label", "label"))
    images, truths = [], []
    for at, row in enumerate(_rows(details, whole, part, wanted)):
        values = _values(details, columns, row)
        images.append(_square(name, at, values.pop("image"), size))
        truths.append(values)
    if not images or (wanted is not None and len(images) < wanted):
        where = "" if part == split else f"; it is {part!r} of {repository}"
        raise SettingsError(f"{name}: the {split} split has {len(images)} samples, n={wanted} asked for{where}")
    return Dataset(card=details, split=split, images=np.stack(images), **_truth(details, truths, classes))


def _names(name: str, key: str, value: object) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(each, str) for pair in value.items() for each in pair):
        raise SettingsError(f"{name}: {key} must be a mapping of names to names, got {value!r}")
    return dict(value)


@contextmanager
def _reading(name: str, repository: str, part: str) -> Iterator[None]:
    """Say what could not be read, and what to do, whatever the libraries underneath raise."""
    try:
        import datasets
    except ImportError as error:
        raise SettingsError(f'{name} comes from the hub; install what reads it: pip install "radapt[hub]"') from error
    try:
        yield
    except (SettingsError, InputError):
        raise
    except (OSError, ValueError, RuntimeError, tarfile.TarError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SettingsError(
            f"{name}: cannot read {repository!r}, split {part!r}: {reason}. Without network, put its files into a "
            "folder and write that as repository on a card of your own; for a gated one set HF_TOKEN"
        ) from error


def _bounds(part: str) -> tuple[str, int, int | None]:
    """A split of theirs, and the first row and the end of the rows that are meant."""
    match = _SLICE.fullmatch(part)
    return (match[1], int(match[2] or 0), int(match[3]) if match[3] else None) if match else (part, 0, None)


def _open(details: Card, split: str) -> Any:
    """A split of theirs: a stream, or with ``shuffle`` a table on the disk."""
    import datasets

    datasets.disable_progress_bars()
    repository, files, seed = (details.options.get(key) for key in ("repository", "files", "shuffle"))
    if files is not None and not isinstance(files, str):
        raise SettingsError(
            f"dataset {details.name!r}: files must be a pattern such as '{{split}}/*.tar', got {files!r}"
        )
    if seed is not None and (type(seed) is not int or not 0 <= seed < 2**32):
        raise SettingsError(f"dataset {details.name!r}: shuffle must be a seed from 0 to 2**32 - 1, got {seed!r}")
    # The pattern keeps other splits from being downloaded, and a text file beside a single archive (nshards.txt) from
    # being taken for the data.
    chosen = {} if files is None else {"data_files": {split: files.replace("{split}", split)}}
    configuration = details.options.get("configuration")
    return datasets.load_dataset(repository, configuration, split=split, streaming=seed is None, **chosen)


def _rows(details: Card, whole: Any, part: str, n: int | None) -> Iterator[dict[str, Any]]:
    _, first, end = _bounds(part)
    if n is not None:
        end = first + n if end is None else min(end, first + n)
    seed: Any = details.options.get("shuffle")
    with _reading(f"dataset {details.name!r}", str(details.options["repository"]), part):
        if seed is None:
            rest = whole.skip(first)
            yield from rest if end is None else rest.take(max(0, end - first))
        else:  # the legacy generator: NumPy promises that its permutations never change
            yield from whole.select(np.random.RandomState(seed).permutation(len(whole))[first:end])


def _values(details: Card, columns: Mapping[str, str], row: Mapping[str, Any]) -> dict[str, Any]:
    """What the task needs of one row, under our names."""
    usual = next((column for column in _IMAGE_COLUMNS if row.get(column) is not None), "image")
    values = {}
    for ours in _COLUMNS[details.task]:
        column = columns.get(ours, usual if ours == "image" else ours)
        if column not in row:
            raise no_column(details, ours, column, row)
        values[ours] = row[column]
    return values


def _square(name: str, at: int, image: Any, size: int) -> NDArray[np.uint8]:
    if not isinstance(image, Image.Image):
        raise InputError(f"{name}: sample {at} holds {type(image).__name__} where an image is expected")
    try:
        upright = open_image(image)
    except InputError as error:
        raise InputError(f"{name}: sample {at}: {error}") from error
    scale = size / min(upright.size)
    width, height = (max(size, round(side * scale)) for side in upright.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = upright.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + size, top + size)), dtype=np.uint8)


def _truth(details: Card, rows: Sequence[Mapping[str, Any]], classes: Mapping[int, str]) -> dict[str, Any]:
    """Labels, captions or questions in the form of a :class:`Dataset`."""
    name = f"dataset {details.name!r}"
    if details.task == "zero-shot":
        places = {label: place for place, label in enumerate(sorted(classes))}
        labels = [_label(name, at, row["label"], places) for at, row in enumerate(rows)]
        return {
            "labels": torch.tensor(labels, dtype=torch.int64, device="cpu"),
            "classes": tuple(classes[label] for label in sorted(classes)),
        }
    if details.task == "vqa":
        return {"questions": tuple(((str(row["question"]).strip(), *_texts(name, row["answers"])),) for row in rows)}
    captions = tuple(_texts(name, row["captions"]) for row in rows)
    return {"captions": captions, "corpus": captions}


def _label(name: str, at: int, value: Any, places: Mapping[int, int]) -> int:
    if not isinstance(value, int):  # true and false are 1 and 0
        got = f"{value!r} where a label, a whole number or true or false, is expected"
        raise InputError(f"{name}: sample {at} holds {got}; name another column under columns")
    if int(value) not in places:
        known = f"{len(places)} class names are of the labels {min(places)} to {max(places)}"
        raise InputError(
            f"{name}: sample {at} has the label {int(value)}, and the {known}; labels and names are of different sets: "
            "check the columns, classes, classes_file and names of the card"
        )
    return places[int(value)]


def _texts(name: str, value: Any) -> tuple[str, ...]:
    """Texts as hub datasets hold them: one, one per line, a list, or a list of records with an ``answer``."""
    items = value.splitlines() if isinstance(value, str) else list(value)
    texts = tuple(str(item["answer"] if isinstance(item, Mapping) else item).strip() for item in items)
    filled = tuple(text for text in texts if text)
    if not filled:
        raise InputError(f"{name}: a sample has no captions or answers, got {value!r}")
    return filled
