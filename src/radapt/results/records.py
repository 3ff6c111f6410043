"""The records of a results file: settings, samples, example images, and the results that are computed from them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

from radapt.io import digest_of

from .signs import Sign

__all__ = [
    "CHECKS",
    "KINDS",
    "LEFT_OUT",
    "PLACES",
    "Example",
    "Kind",
    "Result",
    "Sample",
    "Setting",
    "image_hash",
    "image_of",
    "other_scores",
    "row_of",
    "sample_of",
]

Kind = Literal["clean", "transfer", "white-box"]
"""Whether there was an attack, and whether it was made on the evaluated model itself (white-box) or on another."""

KINDS: tuple[Kind, ...] = ("clean", "transfer", "white-box")
"""All kinds, in the order of tables and legends."""

CHECKS = "sanity checks"
"""Stands for the name of the attack in settings under which samples lie that the sanity checks fooled."""

LEFT_OUT = "left out"
"""Name under ``Setting.depends`` of the samples whose images could not be read: their numbers, as ``3, 17``."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Everything that one result depends on.

    Texts that do not apply are empty and not None: they are part of ``key``, under which results are stored.

    Args:
        method: name of the defended model in reports (``R-Adapt_CLIP``).
        model: name or path of the model.
        adapter: fingerprint of the attached adapter; empty for none.
        task, dataset, split, n: what was asked, on which samples (the first ``n`` of the split).
        metric: what the score of a sample, and so the result, measures.
        attack: name of the attack; ``none`` for the clean result.
        norm, eps: the ball, eps in pixel units (4/255 = 0.0157); empty and 0 for the clean result.
        source: on which model the attack was made: ``self`` (white-box), ``undefended`` (transfer from the model
            without its defence, or the one that was named as undefended), the label of another candidate; empty for
            the clean result.
        options: the attack's other settings.
        seed: seed of the per-sample random numbers.
        chunk_size: samples that are measured together; a result is the same bit for bit whatever the order of its
            chunks and whoever measures them.
        version: version of the library.
        depends: what else the result depends on, by name: hashes of the ``model`` (weights, configuration,
            normalisation, tokenizer), of that of the ``source`` where it is another, and of the ``content`` of the
            dataset that all samples share (its card, classes and prompts); the versions of what computes it; and, where
            images cannot be read, which samples were left out (:data:`LEFT_OUT`).
    """

    method: str
    model: str
    adapter: str = ""
    task: str = "zero-shot"
    dataset: str
    split: str = "test"
    n: int
    metric: str = "top-1"
    attack: str = "none"
    norm: str = ""
    eps: float = 0.0
    source: str = ""
    options: Mapping[str, object] = field(default_factory=dict)
    seed: int = 0
    chunk_size: int = 128
    version: str
    depends: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """Hash of the setting without its label, its ``n`` and its metric: more samples extend a result."""
        return self._digest("method", "n", "metric")

    @cached_property
    def question(self) -> str:
        """Hash of what was asked: of several results that answer one question, the last that was asked for counts.

        Unlike ``key``, it leaves out what may have changed in between: weights, the content of a card, versions, the
        size of the chunks.
        """
        return self._digest("n", "metric", "chunk_size", "version", "depends")

    @property
    def candidate(self) -> tuple[object, ...]:
        """What tells a candidate from others, whatever its label: its model, its weights and its adapter."""
        return self.model, self.depends.get("model"), self.adapter

    @property
    def place(self) -> tuple[object, ...]:
        """Which candidate was asked, by its names, and about what."""
        return self.method, self.model, self.adapter, self.task, self.dataset, self.split

    @property
    def state(self) -> tuple[object, ...]:
        """What stands behind the names, as it was: the weights of the candidate, the content of the dataset, the code
        of the task, and which samples are missing."""
        return tuple(self.depends.get(name) for name in ("model", "content", "task", LEFT_OUT))

    @property
    def ball(self) -> tuple[object, ...]:
        """What results under several attacks must share for a worst case over them: candidate, dataset and ball, all as
        they were."""
        return *self.place, self.norm, self.eps, *self.state

    @property
    def left_out(self) -> tuple[int, ...]:
        """Numbers of the samples that are missing because their images cannot be read."""
        return tuple(int(number) for number in self.depends.get(LEFT_OUT, "").split(", ") if number)

    @property
    def planned(self) -> int:
        """Number of samples that would have been measured, had all images been readable."""
        return self.n + len(self.left_out)

    def _digest(self, *without: str) -> str:
        return digest_of({name: value for name, value in asdict(self).items() if name not in without})

    @property
    def kind(self) -> Kind:
        """``clean``, ``white-box`` or ``transfer``, by the source of the attack."""
        if not self.source:
            return "clean"
        return "white-box" if self.source == "self" else "transfer"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What was measured on one sample under one setting.

    Args:
        position: its place in the split, from 0.
        label, prediction: the true and the predicted class, or what stands for them in the task.
        score: by the setting's metric.
        also: scores by other metrics, by their names.
        answer: what the model said; empty where it gives no text.
        loss: the attack's loss; None without an attack.
        iterations, forwards, backwards: of the attack: its steps and the passes of the model.
        distance: size of the perturbation in the setting's norm, in pixel units.
        signs: what is odd about it (:data:`radapt.results.Sign`); flags of a result follow from those of its samples.
        data: hash of the image and of what is true of it: when either changes, the sample is measured again. That of a
            question begins with the hash of the image alone and a dot.
    """

    position: int
    label: int
    prediction: int
    score: float
    also: Mapping[str, float] = field(default_factory=dict)
    answer: str = ""
    loss: float | None = None
    iterations: int = 0
    forwards: int = 0
    backwards: int = 0
    distance: float = 0.0
    signs: tuple[Sign, ...] = ()
    data: str = ""


@dataclass(frozen=True, kw_only=True)
class Example:
    """An image before and after the attack, with what the model made of it.

    Args:
        position: its place in the split, from 0.
        clean, adversarial: the images, as PNG.
        truth: the true answer.
        before, after: the model's answers without the attack and under it.
        attention_before, attention_after: where the model's first block looks in either, as a grey PNG with a pixel per
            patch, each stretched from black to white; empty where the model gives no attention maps.
    """

    position: int
    clean: bytes
    adversarial: bytes
    truth: str
    before: str
    after: str
    attention_before: bytes = b""
    attention_after: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One number and the setting that it depends on; see :func:`radapt.results.summarise`.

    Args:
        setting: what was measured, and how.
        n: number of samples that were measured; less than ``setting.n`` while a run is unfinished.
        percent: the result in per cent: an accuracy, or the mean score by another metric (CIDEr x 100).
        low, high: limits of its 95 % interval, in per cent.
        seconds: time that the samples took, over all runs that added some.
        forwards, backwards: passes of the model, summed over the samples.
        flags: what the sanity checks found, by their names; empty when nothing is wrong.
        checked: whether the sanity checks ran on all of these samples; without them, no flags mean nothing.
        main: whether the metric is the setting's own; False for one that was measured beside it, which
            ``setting.metric`` then names.
    """

    setting: Setting
    n: int
    percent: float
    low: float
    high: float
    seconds: float
    forwards: int
    backwards: int
    flags: Mapping[str, object]
    checked: bool = False
    main: bool = True

    @property
    def kind(self) -> Kind:
        """``clean``, ``transfer`` or ``white-box``; only a white-box result is a robust accuracy."""
        return self.setting.kind

    def row(self) -> dict[str, object]:
        """The result as one flat JSON object."""
        setting = asdict(self.setting)
        texts = {name: json.dumps(setting.pop(name), sort_keys=True) for name in ("options", "depends")}
        numbers = {"percent": self.percent, "low": self.low, "high": self.high, "n": self.n, "main": self.main}
        passes = {"seconds": self.seconds, "forwards": self.forwards, "backwards": self.backwards}
        flags = "; ".join(f"{name}: {value}" for name, value in self.flags.items())
        signs = {"flags": flags, "checked": self.checked}
        return {**setting, "kind": self.kind, **numbers, **passes, **texts, **signs}


def image_hash(data: str) -> str:
    """Hash of the image of a sample, by its ``data``; that of one image whatever dataset it is in, empty if unknown."""
    image, dot, _ = data.partition(".")
    return image if dot else ""


def image_of(data: str, position: int) -> str | int:
    """What tells the image of a sample from others, by its ``data``: its hash, or its own position if unknown."""
    return image_hash(data) or position


PLACES = {column.name: place for place, column in enumerate(fields(Sample))}
"""Where each column of a sample is in its row of the file."""


def row_of(sample: Sample) -> tuple[object, ...]:
    """The columns of a sample, as SQLite gives them back: NaN as nothing, and -0.0, which it does not know, as 0.0."""
    row = {**vars(sample), "also": json.dumps(dict(sample.also)), "signs": ",".join(sample.signs)}
    row |= {name: float(row[name]) + 0.0 for name in ("score", "distance")}
    row["loss"] = None if sample.loss is None or math.isnan(sample.loss) else float(sample.loss) + 0.0
    return tuple(row.values())


def sample_of(row: Sequence[Any]) -> Sample:
    """The sample of a row."""
    values = dict(zip(PLACES, row, strict=True))
    signs = tuple(values["signs"].split(",")) if values["signs"] else ()
    return Sample(**{**values, "also": other_scores(values["also"]), "signs": signs})


def other_scores(text: str) -> dict[str, float]:
    """Scores by other metrics, as they lie in a row."""
    return {} if text == "{}" else dict(json.loads(text))
