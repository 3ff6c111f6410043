"""The Dataset noun: images with labels, captions or questions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from radapt.errors import InputError
from radapt.io import digest_of
from radapt.types import Index, Labels, Pixels, Split

from ._cards import PROMPTS, Card, TaskName, alike
from .shapeworld import article

__all__ = ["Dataset", "fill"]

_TRUTH: dict[TaskName, str] = {
    "zero-shot": "labels",
    "retrieval": "captions",
    "captioning": "captions",
    "vqa": "questions",
}

# What a card says about what is asked; where its samples come from shows in the samples.
_ASKED = ("name", "task", "metric", "templates")


def fill(template: str, name: str) -> str:
    """Fill a class name into a template.

    ``{c}`` becomes the name; ``{a c}`` becomes the name after "an" where it begins with a vowel letter and after "a"
    elsewhere. Everything else stays as it is.
    """
    return template.replace("{a c}", f"{article(name)} {name}").replace("{c}", name)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """The first samples of one split of a dataset; what its task does not have is empty.

    Args:
        card: what the dataset is.
        split: ``train``, ``validation`` or ``test``.
        images: 8-bit images, N x height x width x 3.
        labels: classes of a zero-shot set, int64, N.
        classes: class names of a zero-shot set, in label order.
        captions: the true captions of each image.
        questions: the questions of each image, each followed by its right answers (those of several people).
        corpus: captions of the card's own number of images, whatever ``n`` is: what CIDEr takes word weights from.
        left_out: numbers of the samples whose images could not be read, in the order of the source: the first of those
            that are there may be its sample 1.
    """

    card: Card
    split: Split
    images: NDArray[np.uint8]
    labels: Labels = field(default_factory=lambda: torch.empty(0, dtype=torch.int64, device="cpu"))
    classes: tuple[str, ...] = ()
    captions: tuple[tuple[str, ...], ...] = ()
    questions: tuple[tuple[tuple[str, ...], ...], ...] = ()
    corpus: tuple[tuple[str, ...], ...] = ()
    left_out: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[3] != 3:
            got = f"{self.images.dtype} of shape {self.images.shape}"
            raise InputError(f"images must be uint8, N x height x width x 3, got {got}")
        for name in ("labels", "captions", "questions"):
            expected = len(self) if name == _TRUTH[self.card.task] else 0
            count = len(getattr(self, name))
            if count != expected:
                task = f"{self.card.task} with {len(self)} images"
                raise InputError(f"{self.name}: {task} needs {expected} {name}, got {count}")
        if double := alike(self.classes):
            raise InputError(f"{self.name}: classes must have different names, and {double}")
        if self.labels.dtype != torch.int64:
            raise InputError(f"{self.name}: labels must be int64, got {self.labels.dtype}")
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.classes):
            got = f"{int(self.labels.min())} to {int(self.labels.max())}"
            raise InputError(f"{self.name}: labels must be 0 to {len(self.classes) - 1}, got {got}")

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return self.card.name

    def prompt(self, question: str = "") -> str:
        """What a generative model is asked, with the question filled in."""
        template = PROMPTS[self.card.task] if self.card.prompt is None else self.card.prompt
        return template.replace("{q}", question)

    @property
    def templates(self) -> tuple[str, ...]:
        """Sentences with a place for the class name; see :func:`fill`."""
        return self.card.templates

    @cached_property
    def prompts(self) -> tuple[tuple[str, ...], ...]:
        """For each class, all templates filled in."""
        return tuple(tuple(fill(template, name) for template in self.templates) for name in self.classes)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Names of the samples, ``name/split/number in the source``, for random numbers drawn per sample."""
        numbers = (number for number in range(len(self) + len(self.left_out)) if number not in self.left_out)
        return tuple(f"{self.name}/{self.split}/{number}" for number in islice(numbers, len(self)))

    @property
    def digests(self) -> tuple[str, ...]:
        """Hashes of each sample as it is now, ``IMAGE.SAMPLE``: of its image, and of image and truth, so that results
        know which samples are of one image, in a dataset and in several."""
        truths = self.labels.tolist() or self.captions or self.questions
        images = [[hashlib.sha256(image.tobytes()).hexdigest(), image.shape] for image in self.images]
        both = zip(images, truths, strict=True)
        return tuple(f"{digest_of(image)}.{digest_of([*image, truth])}" for image, truth in both)

    @cached_property
    def content(self) -> str:
        """Hash of what all samples share: what the card says about what is asked, the classes, the corpus."""
        corpus = self.corpus if self.card.task == "captioning" else ()
        prompt = self.card.prompt or PROMPTS.get(self.card.task)
        return digest_of([[getattr(self.card, name) for name in _ASKED], prompt, self.classes, corpus])

    @property
    def repeated(self) -> int:
        """Number of samples of an image that an earlier sample is of, too."""
        return len(self) - len({digest.partition(".")[0] for digest in self.digests})

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images, in pixels."""
        return self.images.shape[1], self.images.shape[2]

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        height, width = self.image_size
        classes = f", {len(self.classes)} classes" if self.classes else ""
        count = f"n={len(self)}" + (f" ({len(self.left_out)} left out)" if self.left_out else "")
        return f"Dataset({self.name!r}, {self.split}, {count}, {height} x {width} px, {self.card.task}{classes})"

    def pixels(self, positions: Sequence[int] | Index) -> Pixels:
        """Images at some positions, float32 in [0, 1], in the order asked for.

        Raises:
            InputError: when a position is outside 0 to N - 1.
        """
        rows = np.asarray(positions, dtype=np.int64).reshape(-1)
        outside = rows[(rows < 0) | (rows >= len(self))]
        if outside.size:
            raise InputError(f"{self.name}: no sample {outside[0]}; positions are 0 to {len(self) - 1}")
        return torch.from_numpy(self.images[rows]).permute(0, 3, 1, 2).contiguous().float() / 255
