"""Data sets of the Hugging Face hub, or of a folder in one of its formats (Parquet, webdataset, picture folders)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from radapt._picture import open_picture
from radapt.errors import InputError, SettingsError
from radapt.find import nearest

from ._cards import Card
from ._dataset import Dataset

__all__ = ["OPTIONS", "read_hub"]

OPTIONS = ("repository", "configuration", "splits", "columns", "size")
_COLUMNS = {
    "zero-shot": ("image", "label"),
    "retrieval": ("image", "captions"),
    "captioning": ("image", "captions"),
    "vqa": ("image", "question", "answers"),
}
_PICTURES = ("image", "jpg", "jpeg", "png", "webp")
_PIXELS = 224
_SLICE = re.compile(r"(.+)\[(\d+):\]")


def read_hub(details: Card, split: str, n: int | None) -> Dataset:
    """The first ``n`` rows of a split; pictures are resized (bicubic, shorter side) and cropped in the middle.

    Options of the card: ``repository`` (owner/name, or a folder), ``configuration``, ``splits`` (ours to theirs, the
    first rows left out as in ``test[1000:]``), ``columns`` (``image``, and ``label``, ``captions``, or ``question`` and
    ``answers``, to theirs; a picture is looked for under the usual names) and ``size`` (pixels).

    Raises:
        SettingsError: wrong options, no such split or column, too few rows, or the library ``datasets`` is missing.
        InputError: a picture or a label that cannot be read.
    """
    name = f"data set {details.name!r}"
    repository, size = details.options.get("repository"), details.options.get("size", _PIXELS)
    if not isinstance(repository, str) or type(size) is not int or size < 8:
        raise SettingsError(f"{name}: the options need a repository and a size from 8 pixels up")
    splits, columns = (_names(name, key, details.options.get(key, {})) for key in ("splits", "columns"))
    wanted = n or details.n
    rows = _rows(name, repository, details.options.get("configuration"), splits.get(split, split), wanted)
    if not rows or (wanted is not None and len(rows) < wanted):
        raise SettingsError(f"{name}: the {split} split has {len(rows)} samples, n={wanted} asked for")
    usual = next((column for column in _PICTURES if column in rows[0]), "image")
    theirs = {ours: columns.get(ours, usual if ours == "image" else ours) for ours in _COLUMNS[details.task]}
    for ours, column in theirs.items():
        if column not in rows[0]:
            near = nearest(column, list(rows[0]))
            raise SettingsError(f"{name}: there is no column {column!r} for {ours}{near}; write it under columns")
    values = {ours: [row[column] for row in rows] for ours, column in theirs.items()}
    images = np.stack([_square(name, at, picture, size) for at, picture in enumerate(values["image"])])
    return Dataset(card=details, split=split, images=images, **_truth(details, values))


def _names(name: str, key: str, value: object) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(each, str) for pair in value.items() for each in pair):
        raise SettingsError(f"{name}: {key} must be a mapping of names to names, got {value!r}")
    return dict(value)


def _rows(name: str, repository: str, configuration: object, split: str, n: int | None) -> list[dict[str, Any]]:
    try:
        import datasets
    except ImportError as error:
        raise SettingsError(f'{name} comes from the hub; install what reads it: pip install "radapt[hub]"') from error
    datasets.disable_progress_bars()
    try:
        found = _SLICE.fullmatch(split)
        plain, first = (found[1], int(found[2])) if found else (split, 0)
        stream = datasets.load_dataset(repository, configuration, split=plain, streaming=True).skip(first)
        return list(stream if n is None else stream.take(n))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SettingsError(
            f"{name}: cannot read {repository!r}, split {split!r}: {reason}. Without network, put its files into a "
            "folder and write that as repository on a card of your own; for a gated one set HF_TOKEN"
        ) from error


def _square(name: str, at: int, picture: Any, size: int) -> NDArray[np.uint8]:
    if not isinstance(picture, Image.Image):
        raise InputError(f"{name}: sample {at} holds {type(picture).__name__} where a picture is expected")
    try:
        upright = open_picture(picture)
    except InputError as error:
        raise InputError(f"{name}: sample {at}: {error}") from error
    scale = size / min(upright.size)
    width, height = (max(size, round(side * scale)) for side in upright.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = upright.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + size, top + size)), dtype=np.uint8)


def _truth(details: Card, values: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Labels, captions or questions in the form of a :class:`Dataset`."""
    name = f"data set {details.name!r}"
    if details.task == "zero-shot":
        if not details.classes:
            raise SettingsError(f"{name}: the card must list the classes, in label order")
        return {"labels": torch.tensor([int(label) for label in values["label"]]), "classes": details.classes}
    if details.task == "vqa":
        pairs = zip(values["question"], values["answers"], strict=True)
        return {"questions": tuple(((str(question).strip(), *_texts(name, given)),) for question, given in pairs)}
    captions = tuple(_texts(name, given) for given in values["captions"])
    return {"captions": captions, "corpus": captions}


def _texts(name: str, value: Any) -> tuple[str, ...]:
    """Texts as hub data sets hold them: one, one per line, a list, or a list of records with an ``answer``."""
    items = value.splitlines() if isinstance(value, str) else list(value)
    texts = tuple(str(item["answer"] if isinstance(item, Mapping) else item).strip() for item in items)
    kept = tuple(text for text in texts if text)
    if not kept:
        raise InputError(f"{name}: a sample has no captions or answers, got {value!r}")
    return kept
