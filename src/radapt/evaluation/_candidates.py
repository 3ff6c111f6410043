"""What is evaluated: candidates, a model each, with or without a defence; by name or as objects."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from radapt.adapters import Adapter, micro_adapters
from radapt.errors import CheckError, ModelError, SettingsError, UnknownModelError, shown
from radapt.io import expanded
from radapt.models import VLM, ClassifierModel, load, micro_models, supports
from radapt.registry import nearest

from ._defence import Defence, InputDefence

__all__ = ["Candidate", "CandidateLike", "ModelLike", "Models", "candidates_of", "defence_of", "split_candidate"]

ModelLike = str | Path | VLM | nn.Module | Callable[..., Any]
"""A model by name, as an object, or any classifier from pixels to logits."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """One line of a report: a defended (or undefended) model.

    Args:
        method: its name in reports.
        model: the model, without a defence.
        adapter: the adapter, or any other defence, that is put on it; None for nothing.

    Raises:
        SettingsError: what is given is not loaded, but the name of a model or an adapter, say.
    """

    method: str
    model: VLM
    adapter: Defence | None = None

    def __post_init__(self) -> None:
        for what, kind, given in (("model", VLM, self.model), ("adapter", Defence | None, self.adapter)):
            if not isinstance(given, kind):
                raise SettingsError(
                    f"the {what} of the candidate {shown(self.method)} is {shown(given)}, not a loaded one; load it, "
                    f"or give evaluate names: {{{shown(self.method)}: ('micro/clip', 'my-adapter')}}"
                )

    @contextmanager
    def defended(self) -> Iterator[None]:
        """The candidate with its defence, for the time of a ``with`` block.

        Raises:
            CheckError: something else was put on the model or taken off it meanwhile, by another thread, say.
        """
        before = self.model.attachments
        with nullcontext() if self.adapter is None else self.adapter.attach(self.model):
            there = self.model.attachments
            yield
            if before != (None, None) or any(a is not b for a, b in zip(there, self.model.attachments, strict=True)):
                raise CheckError(
                    f"something was put on {self.model.name} or taken off it while {self.method} was measured; give "
                    "every thread a model of its own: radapt.load, or copy.deepcopy"
                )


CandidateLike = Candidate | ModelLike | tuple[ModelLike, "str | Path | Defence | Callable[..., Any]"]
"""A candidate, a model, or a model and what defends it."""


class Models:
    """Loads models by name, each once.

    Args:
        settings: what else :func:`radapt.load` takes (``device``, ``dtype``...).
        image_size: of classifiers that are given as functions or modules, or how to find it out when the first of them
            appears; None: not known.
        before: called with the name of a model before it is loaded.
    """

    def __init__(
        self,
        settings: Mapping[str, Any] | None = None,
        *,
        image_size: tuple[int, int] | Callable[[], tuple[int, int] | None] | None = None,
        before: Callable[[str], None] | None = None,
    ) -> None:
        self.settings, self.image_size, self._before = dict(settings or {}), image_size, before
        self._loaded: dict[str, VLM] = {}
        self._wrapped: dict[int, tuple[object, VLM]] = {}  # with what is wrapped, which keeps its number

    def get(self, model: ModelLike, label: str | None = None) -> VLM:
        """A model, loaded or wrapped where it is not one yet.

        Args:
            model: the model.
            label: name of a classifier of your own.

        Raises:
            ModelError, UnknownModelError: it cannot be loaded.
        """
        if isinstance(model, VLM):
            return model
        if isinstance(model, str | Path):
            name = str(model)
            if name not in self._loaded:
                if self._before is not None:
                    self._before(name)
                self._loaded[name] = load(name, **self.settings)
            return self._loaded[name]
        if id(model) not in self._wrapped:
            self._wrapped[id(model)] = model, self._wrap(model, label)
        return self._wrapped[id(model)][1]

    def _wrap(self, model: nn.Module | Callable[..., Any], label: str | None) -> VLM:
        if isinstance(model, nn.Module) and supports(model):
            return load(model)
        size = self.image_size() if callable(self.image_size) else self.image_size
        if size is None:
            raise ModelError(
                "the size of the images is not known; wrap the classifier: "
                "radapt.models.ClassifierModel(name, model, image_size=(height, width))"
            )
        name = label or str(getattr(model, "__name__", type(model).__name__))
        return ClassifierModel(name, model, image_size=size)


def candidates_of(
    given: Sequence[CandidateLike] | Mapping[str, CandidateLike] | CandidateLike,
    models: Models,
) -> list[Candidate]:
    """Candidates from names and objects.

    Args:
        given: one of them, a list, or a mapping by label. A text is ``[LABEL=]MODEL[+ADAPTER]``, as on the command
            line; a tuple is a pair of a model and its defence: an adapter, the folder of one, a :class:`Defence`, or a
            function or module that maps images to images.
        models: loads the models.

    Raises:
        SettingsError: nothing is given, or a text is not of that form.
        RadaptError: a model or an adapter cannot be loaded.
    """
    if isinstance(given, Mapping):
        return [_candidate(each, label, models) for label, each in given.items()]
    if isinstance(given, Sequence) and not isinstance(given, str):
        pair = isinstance(given, tuple) and not all(isinstance(each, Candidate) for each in given)
        return [_candidate(each, None, models) for each in ([given] if pair else given)]
    return [_candidate(given, None, models)]


def _candidate(given: Any, label: str | None, models: Models) -> Candidate:
    if isinstance(given, Candidate):
        return given if label is None else Candidate(method=label, model=given.model, adapter=given.adapter)
    if isinstance(given, str) and label is None:
        label, model, folder = split_candidate(given)
        adapter = None if folder is None else Adapter.from_pretrained(folder)
        return Candidate(method=label, model=models.get(model), adapter=adapter)
    pair = given if isinstance(given, tuple) else (given, None)
    if len(pair) != 2:
        raise SettingsError(f"a candidate is a model, or a pair of a model and its defence; got {len(pair)} objects")
    model, defence = pair
    vlm = models.get(model, label)
    return Candidate(method=label or vlm.name, model=vlm, adapter=defence_of(defence))


def split_candidate(text: str) -> tuple[str, str, str | None]:
    """Label, model and adapter of ``[LABEL=]MODEL[+ADAPTER]``; the label is the text where it has none.

    Paths may contain ``=`` and ``+``: of all ways to read the text, the one counts whose model and adapter are there.
    Where none is, the first ``=`` ends the label, and the first ``+`` behind it the model. A label does not begin with
    ``/``, ``./``, ``../`` or ``~``. In a path ``~`` stands for the user's home.

    Raises:
        SettingsError: a part is empty, the text can be read in several ways whose paths are there, or names no model.
    """
    if text.count("=") + text.count("+") > _SIGNS:
        raise SettingsError(f"a candidate is written [LABEL=]MODEL[+ADAPTER], got {text.count('=')} = in {shown(text)}")
    readings = [
        (label, name, folder)
        for label, rest in (*_splits(text, "="), (None, text))
        for name, folder in (*((before, after) for before, after in _splits(rest, "+")), (rest, None))
        if name.strip() and folder != "" and (label is None or _is_label(label))
    ]
    adapters = [None, *micro_adapters()]
    whole = [each for each in readings if _there(each[1]) and (each[2] in adapters or _there(str(each[2])))]
    found = whole or [each for each in readings if _there(each[1])]
    if len(found) > 1:
        raise SettingsError(
            f"{text!r} can be read as {'; or as '.join(_described(*each) for each in found)}. Write ./ before a path "
            "with = in it, =./ behind a label and +./ before an adapter, or give a folder another name"
        )
    if not found:
        found = [_usual(text)]
        if found[0] not in readings:
            raise SettingsError(f"a candidate is written [LABEL=]MODEL[+ADAPTER], got {shown(text)}")
        name = found[0][1]
        if len(readings) > 1 and not _HUB.fullmatch(name):
            ways = "; or as ".join(_described(*each) for each in readings[:4])
            near = nearest(name, micro_models())
            raise UnknownModelError(f"unknown model {shown(name)}: {shown(text)} was read as {ways}{near}")
    label, name, folder = found[0]
    return text if label is None else label, _home(name), None if folder is None else _home(folder)


_SIGNS = 32
_HUB = re.compile(r"(hf-hub:)?[\w.-]+/[\w.-]+")


def _usual(text: str) -> tuple[str | None, str, str | None]:
    label, equals, rest = text.partition("=")
    if not equals or (label and not _is_label(label)):
        label, rest = "", text
    name, plus, folder = rest.partition("+")
    return label if equals and rest != text else None, name, folder if plus else None


def _splits(text: str, sign: str) -> list[tuple[str, str]]:
    """A text cut at each place of a sign."""
    return [(text[:at], text[at + 1 :]) for at, letter in enumerate(text) if letter == sign]


def _is_label(text: str) -> bool:
    return bool(text.strip()) and not text.startswith(("/", "./", "../", "~"))


def _there(name: str) -> bool:
    return name in micro_models() or os.path.exists(_home(name))  # noqa: PTH110 - Path.exists fails on names too long


def _home(name: str) -> str:
    return str(expanded(name)) if name.startswith("~") else name


def _described(label: str | None, name: str, folder: str | None) -> str:
    parts = [f"the model {name!r}"] + [f"the adapter {folder!r}"] * (folder is not None)
    return " with ".join([*parts, *([f"the label {label!r}"] if label is not None else [])])


def defence_of(given: object) -> Defence | None:
    """A defence from an object, or from the folder or hub name of an adapter.

    Raises:
        SettingsError: it is none.
        AdapterError: there is no adapter there.
    """
    if given is None or isinstance(given, Defence):
        return given
    if isinstance(given, str | Path):
        return Adapter.from_pretrained(given)
    if callable(given):
        return InputDefence(given)
    raise SettingsError(
        f"a defence is an adapter, the folder of one, an object with `fingerprint` and `attach`, or a function of "
        f"images; got {type(given).__name__}"
    )
