"""Experiments: YAML files that say which models, defences, data sets and attacks make a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from radapt.errors import SettingsError
from radapt.find import nearest

from ._shared import fraction
from .adapt import METHODS

__all__ = ["Attack", "Defence", "Experiment", "Profile", "experiments", "read"]

_FRACTIONS = ("eps", "alpha")


def _mapping(where: str, value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise SettingsError(f"{where} must be a mapping of names, got {value!r}")
    return dict(value)


def _fields(kind: Any, where: str, value: object) -> dict[str, Any]:
    """The keys of a part of the file, all of them known, none of them missing."""
    found, known = _mapping(where, value), {entry.name: entry for entry in fields(kind)}
    for key in found:
        if key not in known:
            raise SettingsError(f"{where}: unknown key {key!r}{nearest(key, known)}")
    needed = [n for n, e in known.items() if e.default is MISSING and e.default_factory is MISSING and n not in found]
    if needed:
        raise SettingsError(f"{where}: missing {', '.join(needed)}")
    return found


def _names(where: str, value: object) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(each, str | int | float) for each in values):
        raise SettingsError(f"{where} must be a name or a list of names, got {value!r}")
    return tuple(str(each) for each in values)


@dataclass(frozen=True, kw_only=True)
class Defence:
    """How an adapter is made.

    Args:
        method: ``training-free``, ``model-guided`` or ``data-driven``.
        guide: model-guided: the robust twin.
        on: the model on which the adapter is made, for the towers of others; empty: the model itself.
        data, n: data-driven: the data set whose train split is used, and how many of its images.
        settings: what else the method takes (``alpha``, ``eps``, ``steps``, ``adversary``...).
    """

    method: str
    guide: str = ""
    on: str = ""
    data: str = ""
    n: int = 2000
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, where: str, value: object) -> Defence:
        given = _mapping(where, value)
        own = {entry.name for entry in fields(cls)} - {"settings"}
        settings = {key: item for key, item in given.items() if key not in own}
        settings |= {key: fraction(str(settings[key])) for key in _FRACTIONS if key in settings}
        made = cls(**_fields(cls, where, {key: item for key, item in given.items() if key in own}), settings=settings)
        if made.method not in METHODS:
            raise SettingsError(f"{where}: unknown method {made.method!r}{nearest(made.method, METHODS)}")
        for method, key in (("model-guided", "guide"), ("data-driven", "data")):
            if (made.method == method) != bool(getattr(made, key)):
                raise SettingsError(f"{where}: {key} belongs to {method}, and {method} needs it")
        return made


@dataclass(frozen=True, kw_only=True)
class Attack:
    """An attack at some radii, from some sources; white-box is always among them."""

    attack: str
    eps: Sequence[float]
    norm: str = "linf"
    source: Sequence[str] = ("undefended", "self")
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, where: str, value: object) -> Attack:
        given = _fields(cls, where, value)
        given["eps"] = tuple(fraction(each) for each in _names(f"{where}: eps", given["eps"]))
        given["source"] = _names(f"{where}: source", given.get("source", ["undefended", "self"]))
        if "self" not in given["source"]:
            raise SettingsError(f"{where}: source must name self, too: no figure by transfer without its white-box one")
        return cls(**given)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One size of an experiment.

    Args:
        models: the undefended models, by label.
        defences: adapters put on each of them, by label.
        twins: fine-tuned models, by label, whose undefended model is the first of ``models``.
        data: names of data sets.
        n: samples of each.
        attacks: the attacks.
        dtype: of the weights.
    """

    models: Mapping[str, str]
    data: Sequence[str]
    n: int
    attacks: Sequence[Attack]
    defences: Mapping[str, Defence] = field(default_factory=dict)
    twins: Mapping[str, str] = field(default_factory=dict)
    dtype: str = "float32"

    @classmethod
    def of(cls, where: str, value: object) -> Profile:
        given = _fields(cls, where, value)
        if type(given["n"]) is not int or given["n"] < 1:
            raise SettingsError(f"{where}: n must be a whole number from 1 up, got {given['n']!r}")
        for key in ("models", "twins"):
            given[key] = {k: str(v) for k, v in _mapping(f"{where}: {key}", given.get(key, {})).items()}
        if not given["models"]:
            raise SettingsError(f"{where}: models is empty; name at least one")
        made = _mapping(f"{where}: defences", given.get("defences", {}))
        given["defences"] = {name: Defence.of(f"{where}: {name}", part) for name, part in made.items()}
        given["data"] = _names(f"{where}: data", given["data"])
        if not isinstance(given["attacks"], list) or not given["attacks"]:
            raise SettingsError(f"{where}: attacks must be a list of at least one, got {given['attacks']!r}")
        given["attacks"] = tuple(
            Attack.of(f"{where}: attack {at}", part) for at, part in enumerate(given["attacks"], 1)
        )
        return cls(**given)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table or figure: what it shows, what the paper reports, and how it is made, by profile."""

    title: str
    description: str
    published: str
    profiles: Mapping[str, Profile]

    @classmethod
    def of(cls, where: str, value: object) -> Experiment:
        given = _fields(cls, where, value)
        for key in ("title", "description", "published"):
            if not isinstance(given[key], str) or not given[key].strip():
                raise SettingsError(f"{where}: {key} must be a text, got {given[key]!r}")
        parts = _mapping(f"{where}: profiles", given["profiles"])
        given["profiles"] = {name: Profile.of(f"{where}: {name}", part) for name, part in parts.items()}
        return cls(**given)


def _folder() -> Path:
    """Where the experiments lie: in an installed package, or beside the sources."""
    package = Path(str(files("radapt")))
    return next(folder for folder in (package / "experiments", package.parents[1] / "experiments") if folder.is_dir())


def experiments() -> dict[str, Path]:
    """The experiments that come with the library, by name."""
    return {path.stem: path for path in sorted(_folder().glob("*.yaml"))}


def read(name: str) -> Experiment:
    """An experiment by name, or the path of a YAML file of your own.

    Raises:
        SettingsError: there is no such experiment, or its file is wrong.
    """
    known = experiments()
    path = Path(name) if name.endswith((".yaml", ".yml")) else known.get(name)
    if path is None:
        raise SettingsError(f"unknown experiment {name!r}{nearest(name, known)} (or the path of a .yaml file)")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the experiment {path}: {error}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: not valid YAML: {error}") from error
    return Experiment.of(path.name, content)
