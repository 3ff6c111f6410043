"""Pictures that people choose: those that come with the library, and their own."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import RLock

from torch import Tensor

from radapt.data import Dataset, load_dataset
from radapt.errors import InputError
from radapt.images import open_image
from radapt.models import VLM
from radapt.registry import nearest

__all__ = ["CLASS_SETS", "FIRST", "MOST_BYTES", "QUESTION_SETS", "Picture", "built_in", "example_set", "uploaded"]

CLASS_SETS = ("shapes", "colours", "textures", "backgrounds", "compositions", "digits")
"""The sets that are offered for models that tell classes apart."""
QUESTION_SETS = ("shapeworld-vqa",)
"""Those for models that answer questions."""
MOST_BYTES, _MOST_PIXELS = 10 * 2**20, 25_000_000
_N = 12
FIRST = 3
"""The picture of a set that is chosen first: one of which the micro models know what it is."""
_lock = RLock()


@dataclass(frozen=True)
class Picture:
    """A picture that somebody has chosen.

    Args:
        title: what the page calls it.
        pixels: as each model gets it, by name of the model, 3 x height x width in [0, 1].
        right: the right class; empty where it is not known.
        questions: questions about it, with their right answers.
        note: what there is to know about how it was read.
        own: whether it is somebody's own.
    """

    title: str
    pixels: Mapping[str, Tensor] = field(default_factory=dict)
    right: str = ""
    questions: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    own: bool = False


@cache
def _read(name: str, side: int) -> Dataset:
    return load_dataset(name, n=_N, size=side, quiet=True)


def example_set(name: str, side: int) -> Dataset:
    """The first samples of one of the sets, at a size in pixels.

    Raises:
        InputError: there is no such set here.
        SettingsError: it needs something that is not installed.
    """
    if name not in CLASS_SETS + QUESTION_SETS:
        raise InputError(f"there is no set {name!r} here{nearest(name, CLASS_SETS + QUESTION_SETS)}")
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # twelve samples leave classes out
        return _read(name, side)


def built_in(models: Mapping[str, VLM], name: str, position: int) -> Picture:
    """A sample of one of the sets.

    Raises:
        InputError: there is no such set or sample.
    """
    pixels = {}
    if not 0 <= position < _N:
        raise InputError(f"a set has the pictures 1 to {_N} here, got {position + 1}")
    for title, model in models.items():
        data = example_set(name, model.image_size[0])
        pixels[title] = data.pixels([position])[0]
    right = data.classes[int(data.labels[position])] if data.classes else ""
    questions = {question: answers[0] for question, *answers in data.questions[position]} if data.questions else {}
    return Picture(f"{name}, picture {position + 1}", pixels, right, questions)


def uploaded(models: Mapping[str, VLM], file: str | Path) -> Picture:
    """A picture of somebody's own.

    Raises:
        InputError: it is too large, or no picture.
    """
    path = Path(file)
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise InputError(f"the file has {size / 2**20:.1f} MiB; at most {MOST_BYTES // 2**20} MiB are allowed")
    content = path.read_bytes()
    with _lock, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        image = open_image(content, max_pixels=_MOST_PIXELS)
    pixels = {title: model.preprocess(image) for title, model in models.items()}
    width, height = image.size
    note = "; ".join(str(each.message) for each in told)
    return Picture(f"your picture, {width} x {height} pixels", pixels, note=note, own=True)
