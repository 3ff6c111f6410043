"""Datasets of the Hugging Face hub, or of a folder in one of its formats (Parquet, webdataset, image folders)."""

from __future__ import annotations

import lzma
import re
import sys
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from radapt.errors import InputError, SettingsError, shown
from radapt.hub import network_errors
from radapt.registry import nearest
from radapt.types import Split

from ._archives import check_archives
from ._cards import Card
from ._dataset import Dataset
from ._naming import NAMING, class_names, no_column, with_templates
from ._order import in_turn
from ._pixels import LARGEST, PIXELS, Squares
from ._progress import counted, told
from ._truth import label_of, question_of, texts_of

__all__ = ["OPTIONS", "read_hub"]

_READING = ("repository", "configuration", "files", "splits", "columns", "size", "shuffle")
_COLUMNS = {
    "zero-shot": ("image", "label"),
    "retrieval": ("image", "captions"),
    "captioning": ("image", "captions"),
    "vqa": ("image", "question", "answers"),
}
OPTIONS = {task: (*_READING, *((*NAMING, "balanced") if task == "zero-shot" else ("field",))) for task in _COLUMNS}
"""What a card of each task may say under ``options``."""
_IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp")
_BROKEN = (OSError, ValueError, RuntimeError, EOFError, LookupError, tarfile.TarError, zlib.error, lzma.LZMAError)
"""What the libraries underneath raise, besides their own, for files that are not there or damaged."""
_SLICE = re.compile(r"(.+)\[([0-9]{0,15}):([0-9]{0,15})\]")


def read_hub(details: Card, split: Split, n: int | None) -> Dataset:
    """The first ``n`` rows of a split; images are resized (bicubic, shorter side) and cropped in the middle.

    Options of the card: ``repository`` (owner/name, or a folder), ``configuration``, ``files`` (those of one split, as
    in ``{split}/*.tar``), ``splits`` (ours to theirs, or to some rows of theirs: ``test[1000:]``, ``test[:1000]``),
    ``columns`` (``image``, and ``label``, ``captions``, or ``question`` and ``answers``, to theirs; an image is looked
    for under the usual names), ``size`` (pixels) and ``shuffle`` (a seed: the rows are taken in the order of a
    permutation of their whole split, which is downloaded for it; ``splits`` count in that order). Zero-shot sets also
    take ``balanced`` (classes in turn, within the rows that ``splits`` gives the split, so that no row changes its
    split) and the options of :func:`radapt.data._naming.class_names`, the others ``field`` (that of records with
    a text, see :func:`radapt.data._truth.texts_of`). The word weights of CIDEr come of the captions of the card's own
    number of rows, or of the whole split where it has none, whatever ``n`` is.

    Raises:
        SettingsError: wrong options, no such split, column or file, no class names, too few rows, or the library
            ``datasets`` is missing.
        InputError: a label or a text that cannot be read, a label without a class name, or more images that cannot be
            read than ones that can.

    Warns:
        UserWarning: of each image that cannot be read; its sample is left out.
    """
    name = f"dataset {details.name!r}"
    repository, size = details.options.get("repository"), details.options.get("size", PIXELS)
    if not isinstance(repository, str) or type(size) is not int or not 8 <= size <= LARGEST:
        raise SettingsError(f"{name}: the options need a repository and a size from 8 to {LARGEST} pixels")
    splits = _names(details, "splits", get_args(Split))
    columns = _names(details, "columns", _COLUMNS[details.task])
    part, wanted = splits.get(split, split), n or details.n
    _check_apart(name, split, part, splits, details.options.get("files"))
    classes: dict[int, str] = {}
    with _reading(name, repository, f"split {part!r}"):
        whole = _open(details, _bounds(part)[0])
        if details.task == "zero-shot":
            details, classes = with_templates(details), class_names(details, whole, columns.get("label", "label"))
        whole = _undecoded(details, columns, whole)
    corpus = details.n if details.task == "captioning" else wanted
    most = None if corpus is None or wanted is None else max(corpus, wanted)
    places = {label: place for place, label in enumerate(sorted(classes))}
    images, truths = Squares(name, size), []
    label = columns.get("label", "label") if details.task == "zero-shot" and details.flag("balanced") else None
    for at, row in enumerate(counted(_rows(details, whole, part, most, label), most, f"read {details.name}")):
        found = _found(details, columns, row)
        if wanted is None or at < wanted:
            images.add(row[found["image"]])
        truths.append(_truth(details, at, found, row, places))
    count = len(truths) if wanted is None else min(len(truths), wanted)
    if not count or (wanted is not None and count < wanted):
        where = "" if part == split else f"; it is {part!r} of {repository}"
        raise SettingsError(f"{name}: the {split} split has {count} samples, n={wanted} asked for{where}")
    stacked, left_out = images.stacked(), images.left_out
    fields = _fields(details, truths, [at for at in range(count) if at not in left_out], classes)
    return Dataset(card=details, split=split, images=stacked, left_out=left_out, **fields)


def _names(details: Card, key: str, allowed: Sequence[str]) -> dict[str, str]:
    name, value = f"dataset {details.name!r}", details.options.get(key, {})
    if not isinstance(value, Mapping) or not all(isinstance(each, str) for pair in value.items() for each in pair):
        raise SettingsError(f"{name}: {key} must be a mapping of names to names, got {shown(value)}")
    for ours in value:
        if ours not in allowed:
            raise SettingsError(f"{name}: {key} has no {shown(ours)}{nearest(ours, allowed)}")
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
    except (*_BROKEN, *network_errors(), datasets.exceptions.DatasetsError) as error:
        first: BaseException = error
        while isinstance(first, datasets.exceptions.DatasetGenerationError) and first.__cause__ is not None:
            first = first.__cause__  # which says what is wrong, where the outer one says that something is
        reason = str(first).strip().splitlines()[0] if str(first).strip() else type(first).__name__
        local = "check the files of the folder"
        folder = repository.rpartition("/")[2]
        remote = f"Without network, put a copy into a folder {folder!r}, and name the one around it in --data-root or "
        remote += "RADAPT_DATA; "
        advice = local if Path(repository).is_dir() else f"{remote}for a gated one set HF_TOKEN"
        raise SettingsError(f"{name}: cannot read {shown(repository)}, {part}: {reason}. {advice}") from error


def _bounds(part: str) -> tuple[str, int, int | None]:
    """A split of theirs, and the first row and the end of the rows that are meant."""
    match = _SLICE.fullmatch(part)
    return (match[1], int(match[2] or 0), int(match[3]) if match[3] else None) if match else (part, 0, None)


def _check_apart(name: str, split: str, part: str, splits: Mapping[str, str], files: object) -> None:
    """Refuse a split that shares rows with another one: what is chosen on it would be chosen on test.

    Where ``files`` has no place for the split, all splits are of the same files, whatever they are called.

    Raises:
        SettingsError: it does.
    """
    own, first, last = _bounds(part)
    alike = isinstance(files, str) and "{split}" not in files
    if alike and split != "test" and not splits:
        raise SettingsError(
            f"{name}: the files {files!r} are the same for every split, so that there is test alone; write "
            "'{split}' for the name of the split, or give splits rows of their own, as in {validation: 'test[:1000]', "
            "test: 'test[1000:]'}"
        )
    for other, rows in splits.items():
        theirs, begins, ends = _bounds(rows)
        overlap = begins < (last or sys.maxsize) and first < (ends or sys.maxsize)
        if other != split and (alike or own == theirs) and overlap:
            said = "" if split in splits else ", which splits does not name,"
            raise SettingsError(
                f"{name}: the {split} split{said} is {part!r}, and would share rows with {other}, {rows!r}; give both "
                "rows of their own in splits, as in 'test[:1000]' and 'test[1000:]'"
            )


def _open(details: Card, split: str) -> Any:
    """A split of theirs: a stream, or with ``shuffle`` a table on the disk."""
    import datasets

    (datasets.enable_progress_bars if told() else datasets.disable_progress_bars)()
    name = f"dataset {details.name!r}"
    repository, files, seed = (details.options.get(key) for key in ("repository", "files", "shuffle"))
    if files is not None and not isinstance(files, str):
        raise SettingsError(f"{name}: files must be a pattern such as '{{split}}/*.tar', got {shown(files)}")
    if seed is not None and (type(seed) is not int or not 0 <= seed < 2**32):
        raise SettingsError(f"{name}: shuffle must be a seed from 0 to 2**32 - 1, got {shown(seed)}")
    for key in ("configuration", "field"):
        if not isinstance(details.options.get(key, ""), str):
            raise SettingsError(f"{name}: {key} must be a name, got {shown(details.options[key])}")
    # The pattern keeps other splits from being downloaded, and a text file beside a single archive (nshards.txt) from
    # being taken for the data.
    chosen = {} if files is None else {"data_files": {split: files.replace("{split}", split)}}
    configuration = details.options.get("configuration")
    if Path(str(repository)).is_dir():
        builder = datasets.load_dataset_builder(repository, configuration, **chosen)
        check_archives(name, (builder.config.data_files or {}).get(split, ()))
    return datasets.load_dataset(repository, configuration, split=split, streaming=seed is None, **chosen)


def _undecoded(details: Card, columns: Mapping[str, str], whole: Any) -> Any:
    """The columns that the task needs alone, with images as the bytes of their files, for :func:`open_image`."""
    import datasets

    if not whole.features:
        return whole
    found = _found(details, columns, dict.fromkeys(whole.features, ""))
    several = () if "image" in columns else (each for each in _IMAGE_COLUMNS if each in whole.features)
    rows = whole.select_columns(list(dict.fromkeys([*found.values(), *several])))
    for column, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
    return rows


def _rows(details: Card, whole: Any, part: str, n: int | None, label: str | None) -> Iterator[dict[str, Any]]:
    """The first ``n`` rows of a part; with the column ``label``, its classes in turn."""
    _, first, end = _bounds(part)
    name, repository, at = f"dataset {details.name!r}", str(details.options["repository"]), 0
    seed: Any = details.options.get("shuffle")
    if label is not None and seed is None:
        raise SettingsError(f"{name}: balanced needs the whole split; write 'shuffle: 0' under the options of its card")
    if n is not None and label is None:
        end = first + n if end is None else min(end, first + n)
    with _reading(name, repository, f"split {part!r}"):
        if seed is None:
            rest = whole.skip(first)
            rows = iter(rest if end is None else rest.take(max(0, end - first)))
        else:  # the legacy generator: NumPy promises that its permutations never change
            order = np.random.RandomState(seed).permutation(len(whole))[first:end]
            if label is not None:
                order = order[in_turn([str(each) for each in whole.select_columns([label]).select(order)[label]])][:n]
            rows = iter(whole.select(order))
    while True:
        with _reading(name, repository, f"split {part!r}, sample {at}"):
            row = next(rows, None)
            if row is None:
                return
            row = {column: _content(value) for column, value in row.items()}
        yield row
        at += 1


def _content(value: Any) -> Any:
    """The bytes of an image's file, where a row names the file only."""
    if not isinstance(value, Mapping) or set(value) != {"bytes", "path"}:
        return value
    if value["bytes"] is not None or value["path"] is None:
        return value["bytes"]
    from datasets.utils.file_utils import xopen

    with xopen(value["path"], "rb") as stream:
        return stream.read()


def _found(details: Card, columns: Mapping[str, str], row: Mapping[str, Any]) -> dict[str, str]:
    """The column of each thing that the task needs."""
    there = [column for column in _IMAGE_COLUMNS if column in row]  # several, where files are of several formats
    usual = next((column for column in there if row[column] is not None), (there or ["image"])[0])
    found = {ours: columns.get(ours, usual if ours == "image" else ours) for ours in _COLUMNS[details.task]}
    for ours, column in found.items():
        if column not in row:
            raise no_column(details, ours, column, row)
    return found


def _truth(details: Card, at: int, found: Mapping[str, str], row: Mapping[str, Any], places: Mapping[int, int]) -> Any:
    """The label, the captions, or the question and its answers, of one row."""

    def read(ours: str) -> tuple[str, str, Any]:
        return f"dataset {details.name!r}: sample {at}", found[ours], row[found[ours]]

    field: Any = details.options.get("field")
    if details.task == "zero-shot":
        return label_of(*read("label"), places)
    if details.task == "vqa":
        return ((question_of(*read("question")), *texts_of(*read("answers"), field)),)
    return tuple(text for text in texts_of(*read("captions"), field) if text)


def _fields(details: Card, truths: Sequence[Any], rows: Sequence[int], classes: Mapping[int, str]) -> dict[str, Any]:
    """The truths of the samples in some rows, in the form of a :class:`Dataset`."""
    own = [truths[row] for row in rows]
    if details.task == "zero-shot":
        labels = torch.tensor(own, dtype=torch.int64, device="cpu")
        return {"labels": labels, "classes": tuple(classes[label] for label in sorted(classes))}
    if details.task == "vqa":
        return {"questions": tuple(own)}
    corpus = truths[: details.n] if details.task == "captioning" else truths
    return {"captions": tuple(own), "corpus": tuple(corpus)}
