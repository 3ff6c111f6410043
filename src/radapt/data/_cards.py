"""Cards: one YAML file says all there is to know about one dataset."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import ClassVar, Literal, get_args

from radapt.errors import SettingsError, shown
from radapt.io import expanded
from radapt.numbers import LARGEST_N
from radapt.registry import key_of, nearest
from radapt.schema import STRICT, parse, read_yaml

from ._table import Table

__all__ = ["METRICS", "PROMPTS", "REGISTRY", "Card", "TaskName", "alike", "card", "datasets"]

TaskName = Literal["zero-shot", "retrieval", "captioning", "vqa"]
"""What the models have to do on a dataset."""

METRICS: dict[TaskName, tuple[str, ...]] = {
    "zero-shot": ("top-1", "mean-per-class"),
    "retrieval": ("recall@1",),
    "captioning": ("CIDEr",),
    "vqa": ("accuracy", "F1"),
}
"""The metrics that a dataset of each task may be scored by."""

PROMPTS = {
    "captioning": "Provide a short caption for this image.",
    "vqa": "{q} Answer the question using a single word or phrase.",
}
"""What generative models are asked, unless a card says otherwise: the prompts of LLaVA 1.5 (arXiv:2310.03744)."""

_FOLDER = Path(str(files(__package__))) / "cards"
_LONGEST_NAME = 100
REGISTRY = Table("radapt.data", "dataset", members={file.stem: file for file in _FOLDER.glob("*.yaml")})
"""The cards of this package and of others: each a :class:`Card`, a mapping, or the path of a YAML file."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a dataset is, where it comes from and how it is scored.

    Args:
        name: as written on the command line; the name of the card's file.
        title: as written in tables.
        task: ``zero-shot``, ``retrieval``, ``captioning`` or ``vqa``.
        source: name of the reader that fetches the samples (``shapeworld``, ``digits``, ``hub``, ``folder``).
        metric: ``top-1`` or ``mean-per-class`` for zero-shot sets, ``accuracy`` or (questions of yes and no) ``F1`` for
            vqa; one per task otherwise.
        licence: terms of the images and annotations.
        citation: where they come from.
        description: what the images show.
        tests: the cue (low or high spatial frequency) or the shift that the set puts to the test, in one line.
        options: settings of the reader.
        classes: class names in label order (empty: the source knows them).
        templates: sentences with ``{c}`` for the class name or ``{a c}`` for the name after "a" or "an".
        prompt: what a generative model is asked; ``{q}`` stands for the question. None: see ``PROMPTS``.
        n: number of samples used unless asked otherwise (None: the whole split).

    Raises:
        SettingsError: a value is wrong.
    """

    __pydantic_config__: ClassVar = STRICT

    name: str
    title: str
    task: TaskName
    source: str
    metric: str
    licence: str
    citation: str
    description: str
    tests: str
    options: Mapping[str, object] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    prompt: str | None = None
    n: int | None = None

    def __post_init__(self) -> None:
        for entry in fields(self):
            if entry.type == "str":
                text = getattr(self, entry.name).strip()
                if not text or "\n" in text:
                    raise self._error(f"{entry.name} must be one line of text (fold it with '>-'), got {shown(text)}")
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.name) or len(self.name) > _LONGEST_NAME:
            problem = f"name must be lower case letters, digits and hyphens, at most {_LONGEST_NAME}"
            raise self._error(f"{problem}, got {shown(self.name)}")
        if self.task not in get_args(TaskName):
            raise self._error(f"unknown task {shown(self.task)}{nearest(str(self.task), get_args(TaskName))}")
        metrics = METRICS[self.task]
        if self.metric not in metrics:
            raise self._error(f"unknown metric {shown(self.metric)} of {self.task}{nearest(self.metric, metrics)}")
        if self.n is not None and not 1 <= self.n <= LARGEST_N:
            raise self._error(
                f"n must be 1 or more, at most {LARGEST_N}, or left out for the whole split, got {shown(self.n)}"
            )
        self._check_prompts()

    def _check_prompts(self) -> None:
        if self.prompt is not None:
            if self.task not in PROMPTS:
                raise self._error(f"a prompt belongs to {' and '.join(PROMPTS)}, not to {self.task}")
            if not self.prompt.strip():
                raise self._error(f"prompt must not be empty, got {shown(self.prompt)}")
            if self.task == "vqa" and "{q}" not in self.prompt:
                raise self._error(f"prompt {shown(self.prompt)} has no place for the question; write {{q}}")
        for key in ("classes", "templates"):
            texts = getattr(self, key)
            if len(set(texts)) < len(texts) or "" in texts:
                raise self._error(f"{key} must be different and not empty, got {shown(texts)}")
        if double := alike(self.classes):
            raise self._error(f"classes must be different, and {double}")
        for template in self.templates:
            if "{c}" not in template and "{a c}" not in template:
                raise self._error(f"template {shown(template)} has no place for the class name; write {{c}} or {{a c}}")
        if self.task == "zero-shot" and not self.templates:
            raise self._error("a zero-shot set needs templates")
        if self.task != "zero-shot" and (self.templates or self.classes):
            raise self._error(f"templates and classes belong to zero-shot sets, not to {self.task}")

    def _error(self, problem: str) -> SettingsError:
        return SettingsError(f"card {shown(self.name)}: {problem}")

    def whole(self, key: str, default: int, low: int, high: int) -> int:
        """A whole number from the options.

        Raises:
            SettingsError: it is none, or outside ``low`` to ``high``.
        """
        value = self.options.get(key, default)
        if type(value) is not int or not low <= value <= high:
            problem = f"{key} must be a whole number from {low} up, at most {high}, got {shown(value)}"
            raise SettingsError(f"dataset {self.name!r}: {problem}")
        return value

    def flag(self, key: str) -> bool:
        """True or false from the options; false where nothing is said.

        Raises:
            SettingsError: it is neither.
        """
        value = self.options.get(key, False)
        if type(value) is not bool:
            raise SettingsError(f"dataset {self.name!r}: {key} must be true or false, got {shown(value)}")
        return value

    @classmethod
    def from_dict(cls, content: object, *, where: str = "card") -> Card:
        """Build a card from plain YAML values.

        Args:
            content: a mapping with the fields above; lists for ``classes`` and ``templates``.
            where: what to call the card in error messages, usually its file.

        Raises:
            SettingsError: an unknown or missing key, or a wrong value.
        """
        result: Card = parse(cls, content, where=where)
        return result


def alike(names: Sequence[str]) -> str:
    """Which two classes have one name, for a message; empty where none have.

    White space, Unicode forms and capitals aside: tokenizers of CLIP and SigLIP do not tell them apart.
    """
    first: dict[str, int] = {}
    for at, name in enumerate(names):
        before = first.setdefault(" ".join(unicodedata.normalize("NFC", name).casefold().split()), at)
        if before != at:
            return f"the classes {before} and {at} are both called {shown(name)}, so that neither can be told apart"
    return ""


def datasets() -> list[str]:
    """Names of the datasets that come with the library or with other packages, sorted."""
    return REGISTRY.names()


def card(name: str) -> Card:
    """The card of a dataset.

    Args:
        name: one of :func:`datasets`, the path of a card of your own (``birds.yaml``), or that of a folder
            with a folder of images for each class.

    Raises:
        SettingsError: there is no such dataset, or the card is wrong.
    """
    if name.endswith((".yaml", ".yml")):
        return _read(Path(name))
    key = key_of(name)
    if key in REGISTRY.members:
        return _shipped(key)
    added = REGISTRY.added()
    if key not in added:
        if name.strip() and os.path.isdir(expanded(name)):  # noqa: PTH112 - Path.is_dir fails on names too long
            return _of_folder(expanded(name))
        raise SettingsError(
            f"unknown dataset {shown(name)}{nearest(key, datasets())} (or the path of a .yaml card or of a folder of "
            "images)"
        )
    return _added(key, REGISTRY.get(key), f"dataset {key!r} of {added[key].value}")


@cache
def _shipped(key: str) -> Card:
    return _read(REGISTRY.get(key))


def _added(key: str, content: object, where: str) -> Card:
    """The card of another package, from what its entry point loads."""
    if isinstance(content, str | Path):
        result = _read(Path(content))
    elif isinstance(content, Card):
        result = content
    elif isinstance(content, Mapping):
        result = Card.from_dict(content, where=where)
    else:
        kind = type(content).__name__
        raise SettingsError(f"{where}: must be a Card, a mapping or the path of a YAML file, got {kind}")
    if result.name != key:
        raise SettingsError(f"{where}: its name is {result.name!r}; entry point and card must have the same name")
    return result


def _of_folder(folder: Path) -> Card:
    """The card of a folder with images, which lie in a folder for each class."""
    name = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower())[:_LONGEST_NAME].strip("-") or "images"
    if name in datasets():  # figures on a set of the library and on a folder never share a name
        name = f"{name[: _LONGEST_NAME - 7]}-folder"
    return Card(
        name=name,
        title=name,
        task="zero-shot",
        source="folder",
        metric="top-1",
        licence="unknown",
        citation="A folder of images.",
        description="Images of a folder, in a folder for each class.",
        tests="Unknown.",
        options={"path": str(folder), "shuffle": 0},
        templates=("a photo of a {c}.",),
    )


def _read(path: Path) -> Card:
    content = read_yaml(path, what="card")
    result = Card.from_dict(content, where=str(path))
    if result.name != path.stem:
        raise SettingsError(f"{path}: its name is {result.name!r}; call the file {result.name}.yaml or change the name")
    return result
