"""Readers: one function per source of images, and the verb that loads a dataset by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from radapt.errors import SettingsError, shown
from radapt.numbers import LARGEST_N, flag
from radapt.registry import nearest
from radapt.types import Split

from ._cache import cached
from ._cards import Card, card
from ._dataset import Dataset
from ._mirror import mirrored
from ._naming import chosen_names
from ._order import in_turn, warn_of_order
from ._progress import counted, reading
from ._table import Table
from .shapeworld import ATTRIBUTES, RENDERER, Scene, World, caption, draw, generator, questions, render, stream

__all__ = ["READERS", "load_dataset"]

_CHUNK = 100
_PIXELS, _LARGEST = 48, 1024
_MOST_BYTES = 1 << 38
_EVERYTHING = frozenset(ATTRIBUTES)
# References of one image, from the whole truth to its core; all five are true.
_MENTIONS = tuple(
    _EVERYTHING.difference(left_out.split()) for left_out in ("", "background", "texture", "size", "size texture")
)


def load_dataset(
    name: str | Path,
    *,
    split: Split = "test",
    n: int | None = None,
    size: int | None = None,
    data_root: str | Path | None = None,
    balanced: bool = False,
    quiet: bool = False,
) -> Dataset:
    """Load the first ``n`` samples of a dataset; those of a smaller ``n`` are the beginning of those of a larger one.

    Args:
        name: one of :func:`datasets`, the path of a card of your own, or of a folder with a folder of images for each
            class.
        split: ``train``, ``validation`` or ``test``; they share no image.
        n: number of samples (default: the card's own number, or else the whole split).
        size: height and width of the images, in pixels, as a model takes them (default: the card's own).
        data_root: folder with copies of repositories of the hub, which are read instead of the hub: that of
            ``clip-benchmark/wds_vtab-cifar10`` is its folder ``wds_vtab-cifar10`` (default: the folder that the
            environment variable ``RADAPT_DATA`` names, or else the hub).
        balanced: take one sample of each class, then a second one of each, and so on, in place of the card's order. The
            samples are those of the same split; the name ends in ``-balanced``, as figures on them are others.
        quiet: no progress bar, which what takes seconds to read shows on a terminal.

    Raises:
        SettingsError: an unknown name, split or source, a set that ``data_root`` lacks, the split has fewer than ``n``
            samples, their images are too many or too large to be held, or ``balanced`` for a set without classes or
            one that cannot be read so.
        InputError: the label or text of a sample cannot be read, or more images than not cannot.

    Warns:
        UserWarning: an image cannot be read; its sample is left out, and its number is in ``left_out``. Or the samples
            leave classes out, as those of a set that is sorted by class do, or because fewer were asked for than the
            card says.
    """
    details = mirrored(card(str(name)), data_root)
    flag("balanced", balanced)
    if balanced:
        details = _balanced(details)
    if size is not None:
        details = replace(details, options={**details.options, "size": size})
    if split not in get_args(Split):
        raise SettingsError(f"unknown split {shown(split)}{nearest(split, get_args(Split))}")
    if n is not None and (type(n) is not int or not 1 <= n <= LARGEST_N):
        raise SettingsError(f"n must be a whole number from 1 up, at most {LARGEST_N}, got {shown(n)}")
    pixels, count = details.options.get("size", _PIXELS), n or details.n or 1
    if isinstance(pixels, int) and 3 * pixels**2 * count > _MOST_BYTES >= 3 * pixels**2:
        raise _too_many(details, n, f"at most {_MOST_BYTES // (3 * pixels**2)} of {pixels} pixels a side are allowed")
    try:
        read = READERS.get(details.source)
    except SettingsError as error:
        raise SettingsError(f"dataset {details.name!r}: {error}") from error
    try:
        with reading(quiet):
            data = read(details, split, n)
    except MemoryError as error:
        raise _too_many(details, n, "they do not fit into the memory") from error
    if not isinstance(data, Dataset):
        kind = type(data).__name__
        raise SettingsError(f"dataset {details.name!r}: the reader {details.source!r} must give a Dataset, got {kind}")
    warn_of_order(data, n)
    return data


def _balanced(details: Card) -> Card:
    name = f"dataset {details.name!r}"
    if details.task != "zero-shot":
        raise SettingsError(f"{name}: only zero-shot sets have classes to be balanced; it is a set for {details.task}")
    if details.source not in _OWN:
        raise SettingsError(f"{name}: its source {details.source!r} has no balanced order; leave balanced out")
    return replace(
        details,
        name=f"{details.name}-balanced",
        title=f"{details.title}, balanced",
        options={**details.options, "balanced": True},
    )


def _too_many(details: Card, n: int | None, problem: str) -> SettingsError:
    wanted = f"n={n or details.n or 'the whole split'}"
    return SettingsError(
        f"dataset {details.name!r}: {wanted} images are too many: {problem}; take fewer or smaller ones"
    )


def _options(details: Card, allowed: Sequence[str]) -> dict[str, object]:
    for key in details.options:
        if key not in allowed:
            raise SettingsError(f"dataset {details.name!r}: unknown option {shown(key)}{nearest(key, allowed)}")
    return dict(details.options)


def _shapeworld(details: Card, split: Split, n: int | None) -> Dataset:
    """Read rendered scenes.

    Options: ``label`` (attribute or ``composition``), ``world`` (see ``World.from_dict``), ``size`` (pixels), ``seed``,
    for vqa ``asked`` (``presence``: only whether something is there), and for zero-shot sets ``balanced``, which they
    are unless ``world`` balances something else.
    """
    own = {"vqa": ("asked",), "zero-shot": ("balanced",)}.get(details.task, ())
    options = _options(details, ("label", "world", "size", "seed", *own))
    size, seed = details.whole("size", _PIXELS, 8, _LARGEST), details.whole("seed", 0, 0, 2**32 - 1)
    chosen, label = options.get("world", {}), options.get("label")
    if not isinstance(chosen, Mapping):
        raise SettingsError(f"dataset {details.name!r}: world must be a mapping, got {shown(chosen)}")
    labels = (*ATTRIBUTES, "composition")
    if details.task == "zero-shot" and label not in labels:
        raise SettingsError(f"dataset {details.name!r}: unknown label {shown(label)}{nearest(str(label), labels)}")
    if details.task != "zero-shot" and label is not None:
        raise SettingsError(f"dataset {details.name!r}: a label belongs to zero-shot sets, not to {details.task}")
    if details.flag("balanced") and chosen.get("balance", label) != label:
        raise SettingsError(f"dataset {details.name!r}: its world balances {shown(chosen['balance'])}, not its label")
    n = n or details.n
    if n is None:
        raise SettingsError(f"dataset {details.name!r} has no end: give n, or write it on the card")
    try:
        # The label's classes come in turn, so that they are balanced.
        world = World.from_dict({"balance": label, **chosen} if label else chosen)
    except SettingsError as error:
        raise SettingsError(f"dataset {details.name!r}: {error}") from error
    indices, scenes = _scenes(world, split, n, seed, distinct=details.task == "retrieval")
    images = _rendered(world, split, indices, size, seed)[:n]
    scenes = scenes[:n]
    if details.task == "zero-shot":
        values = world.classes(str(label))
        names = chosen_names(details, [" ".join(value) for value in values])
        numbers = torch.tensor([values.index(scene.describe(str(label))) for scene in scenes], device="cpu")
        return Dataset(card=details, split=split, images=images, labels=numbers, classes=names)
    if details.task == "vqa":
        name = f"{stream(split, seed)}/questions"
        kinds = ("everything", "presence")
        kind = str(options.get("asked", kinds[0]))
        if kind not in kinds:
            raise SettingsError(f"dataset {details.name!r}: unknown asked {shown(kind)}{nearest(kind, kinds)}")
        drawn = (questions(s, generator(name, i)) for i, s in zip(indices, scenes, strict=False))
        asked = tuple(tuple(pair for pair in each if kind == kinds[0] or pair[1] in ("yes", "no")) for each in drawn)
        return Dataset(card=details, split=split, images=images, questions=asked)
    captions = tuple(_captions(scene, details.task) for scene in scenes)
    corpus = captions
    if details.task == "captioning" and details.n is not None and details.n != n:
        corpus = tuple(_captions(scene, details.task) for scene in draw(world, split, range(details.n), seed=seed))
    return Dataset(card=details, split=split, images=images, captions=captions, corpus=corpus)


def _captions(scene: Scene, task: str) -> tuple[str, ...]:
    if task == "retrieval":  # whole descriptions only: a shorter one would be true of several images
        return tuple(f"{start}{caption(scene)}" for start in ("", "a photo of ", "a picture of "))
    return tuple(caption(scene, mention) for mention in _MENTIONS)


def _scenes(world: World, split: str, n: int, seed: int, *, distinct: bool) -> tuple[list[int], list[Scene]]:
    """Indices and scenes of the first ``n`` samples, filled up to whole chunks.

    With ``distinct``, a scene whose description occurred before is skipped: each caption then has one right image.
    """
    wanted = -(-n // _CHUNK) * _CHUNK
    if not distinct:
        return list(range(wanted)), draw(world, split, range(wanted), seed=seed)
    different: dict[str, tuple[int, Scene]] = {}
    most = math.prod(len(getattr(world, name) or values) for name, values in ATTRIBUTES.items())
    if n > most:
        raise SettingsError(f"the world has only about {most} different scenes; ask for fewer than n={n}")
    for index in range(20 * wanted):
        scene = draw(world, split, [index], seed=seed)[0]
        different.setdefault(caption(scene), (index, scene))
        if len(different) == wanted:
            return [i for i, _ in different.values()], [s for _, s in different.values()]
    raise SettingsError(f"the world has only about {len(different)} different scenes; ask for fewer than n={n}")


def _rendered(world: World, split: str, indices: Sequence[int], size: int, seed: int) -> NDArray[np.uint8]:
    """Images from the cache, in chunks of a fixed size, so that datasets of any ``n`` share their files."""

    def chunk(rows: Sequence[int]) -> NDArray[np.uint8]:
        key = {"renderer": RENDERER, "world": asdict(world), "split": split, "seed": seed, "size": size, "rows": rows}
        shape = (len(rows), size, size, 3)
        return cached(key, shape, lambda: render(world, split, rows, size=size, seed=seed)[0])

    starts = counted(range(0, len(indices), _CHUNK), len(indices), "render", size=_CHUNK)
    return np.concatenate([chunk(indices[start : start + _CHUNK]) for start in starts])


def _digits(details: Card, split: Split, n: int | None) -> Dataset:
    """Options: ``size`` (pixels) and ``balanced`` (classes in turn)."""
    from .digits import DIGITS, load_digits  # scikit-learn takes a second to import

    _options(details, ("size", "balanced"))
    if details.task != "zero-shot":
        raise SettingsError(f"dataset {details.name!r}: digits have labels only; the task must be zero-shot")
    images, labels = load_digits(split, details.whole("size", _PIXELS, 8, _LARGEST))
    n = n or details.n or len(images)
    if n > len(images):
        raise SettingsError(f"dataset {details.name!r}: the {split} split has {len(images)} samples, n={n} asked for")
    order = in_turn(labels.tolist()) if details.flag("balanced") else list(range(len(images)))
    images, labels = images[order[:n]], labels[order[:n]]
    names = chosen_names(details, DIGITS)
    return Dataset(card=details, split=split, images=images, labels=torch.from_numpy(labels), classes=names)


def _folder(details: Card, split: Split, n: int | None) -> Dataset:
    """Options: see :func:`read_folder`."""
    from ._folder import read_folder

    _options(details, ("path", "size", "shuffle", "balanced"))
    if details.task != "zero-shot":
        raise SettingsError(f"dataset {details.name!r}: folders give labels only; the task must be zero-shot")
    return read_folder(details, split, n)


def _hub(details: Card, split: Split, n: int | None) -> Dataset:
    """Options: see :func:`read_hub`."""
    from ._hub import OPTIONS, read_hub

    _options(details, OPTIONS[details.task])
    return read_hub(details, split, n)


_OWN: dict[str, Callable[[Card, Split, int | None], Dataset]] = {
    "shapeworld": _shapeworld,
    "digits": _digits,
    "hub": _hub,
    "folder": _folder,
}
READERS = Table("radapt.readers", "source", members=_OWN)
"""The sources of images: functions from a card, a split and a number of samples to a :class:`Dataset`."""
