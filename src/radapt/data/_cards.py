"""Cards: one YAML file says all there is to know about one data set."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from radapt.errors import SettingsError
from radapt.find import nearest

from ._plain import plain

__all__ = ["METRICS", "PROMPTS", "Card", "card", "datasets"]

METRICS = {
    "zero-shot": ("top-1", "mean-per-class"),
    "retrieval": ("recall@1",),
    "captioning": ("CIDEr",),
    "vqa": ("accuracy", "F1"),
}
"""The tasks, and the metrics that a data set of each may be scored by."""

PROMPTS = {
    "captioning": "Provide a short caption for this image.",
    "vqa": "{q} Answer the question using a single word or phrase.",
}
"""What generative models are asked, unless a card says otherwise: the prompts of LLaVA 1.5 (arXiv:2310.03744)."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a data set is, where it comes from and how it is scored.

    Args:
        name: as written on the command line; the name of the card's file.
        title: as written in tables.
        task: ``zero-shot``, ``retrieval``, ``captioning`` or ``vqa``.
        source: name of the reader that fetches the samples (``shapeworld``, ``digits``).
        metric: ``top-1`` or ``mean-per-class`` for zero-shot sets, ``accuracy`` or (questions of yes and no) ``F1`` for
            vqa; one per task otherwise.
        licence: terms of the pictures and annotations.
        citation: where they come from.
        description: what the pictures show.
        tests: the cue (low or high spatial frequency) or the shift that the set puts to the test, in one line.
        options: settings of the reader.
        classes: class names in label order (empty: the source knows them).
        templates: sentences with ``{c}`` for the class name or ``{a c}`` for the name after "a" or "an".
        prompt: what a generative model is asked; ``{q}`` stands for the question. Empty: see ``PROMPTS``.
        n: number of samples used unless asked otherwise (None: the whole split).
    """

    name: str
    title: str
    task: str
    source: str
    metric: str
    licence: str
    citation: str
    description: str
    tests: str
    options: Mapping[str, object] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    prompt: str = ""
    n: int | None = None

    def __post_init__(self) -> None:
        for entry in fields(self):
            if entry.type == "str" and entry.name != "prompt":
                text = getattr(self, entry.name).strip()
                if not text or "\n" in text:
                    raise self._error(f"{entry.name} must be one line of text (fold it with '>-'), got {text!r}")
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.name):
            raise self._error(f"name must be small letters, digits and hyphens, got {self.name!r}")
        if self.task not in METRICS:
            raise self._error(f"unknown task {self.task!r}{nearest(self.task, METRICS)}")
        metrics = METRICS[self.task]
        if self.metric not in metrics:
            raise self._error(f"unknown metric {self.metric!r} of {self.task}{nearest(self.metric, metrics)}")
        if self.n is not None and self.n <= 0:
            raise self._error(f"n must be 1 or more, or left out for the whole split, got {self.n}")
        self._check_prompts()

    def _check_prompts(self) -> None:
        if self.prompt and self.task not in PROMPTS:
            raise self._error(f"a prompt belongs to {' and '.join(PROMPTS)}, not to {self.task}")
        if self.prompt and self.task == "vqa" and "{q}" not in self.prompt:
            raise self._error(f"prompt {self.prompt!r} has no place for the question; write {{q}}")
        for key in ("classes", "templates"):
            texts = getattr(self, key)
            if len(set(texts)) < len(texts) or "" in texts:
                raise self._error(f"{key} must be different and not empty, got {texts!r}")
        for template in self.templates:
            if "{c}" not in template and "{a c}" not in template:
                raise self._error(f"template {template!r} has no place for the class name; write {{c}} or {{a c}}")
        if self.task == "zero-shot" and not self.templates:
            raise self._error("a zero-shot set needs templates")
        if self.task != "zero-shot" and (self.templates or self.classes):
            raise self._error(f"templates and classes belong to zero-shot sets, not to {self.task}")

    def _error(self, problem: str) -> SettingsError:
        return SettingsError(f"card {self.name!r}: {problem}")

    @classmethod
    def of(cls, content: object, *, where: str = "card") -> Card:
        """Build a card from plain YAML values.

        Args:
            content: a mapping with the fields above; lists for ``classes`` and ``templates``.
            where: what to call the card in error messages, usually its file.

        Raises:
            SettingsError: for an unknown or missing key or a wrong value.
        """
        if not isinstance(content, Mapping):
            raise SettingsError(f"{where}: must be a mapping of keys to values, got {type(content).__name__}")
        hints = {entry.name: str(entry.type) for entry in fields(cls)}
        for key in content:
            if key not in hints:
                raise SettingsError(f"{where}: unknown key {key!r}{nearest(key, hints)}")
        required = [e.name for e in fields(cls) if e.default is MISSING and e.default_factory is MISSING]
        missing = [name for name in required if name not in content]
        if missing:
            raise SettingsError(f"{where}: missing {', '.join(missing)}")
        values: dict[str, Any] = {key: plain(f"{where}: {key}", hints[key], value) for key, value in content.items()}
        return cls(**values)


def datasets() -> list[str]:
    """Names of the data sets that come with the library, sorted."""
    return sorted(Path(file.name).stem for file in (files(__package__) / "cards").iterdir() if _is_card(file.name))


def card(name: str) -> Card:
    """The card of a data set.

    Args:
        name: one of :func:`datasets`, or the path of a card of your own (``birds.yaml``).

    Raises:
        SettingsError: when there is no such data set, or when the card is wrong.
    """
    if _is_card(name):
        return _read(Path(name))
    key = name.strip().lower().replace("_", "-")
    if key not in datasets():
        raise SettingsError(f"unknown data set {name!r}{nearest(key, datasets())} (or the path of a .yaml card)")
    return _shipped(key)


@cache
def _shipped(name: str) -> Card:
    return _parse((files(__package__) / "cards" / f"{name}.yaml").read_text(encoding="utf-8"), f"{name}.yaml")


def _is_card(file: str) -> bool:
    return file.endswith((".yaml", ".yml"))


def _read(path: Path) -> Card:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the card {path}: {error}") from error
    return _parse(text, str(path))


def _parse(text: str, file: str) -> Card:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"{file}: not valid YAML: {error}") from error
    result = Card.of(content, where=file)
    if result.name != Path(file).stem:
        raise SettingsError(f"{file}: its name is {result.name!r}; call the file {result.name}.yaml or change the name")
    return result
