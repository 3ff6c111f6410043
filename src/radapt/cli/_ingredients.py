"""The parts of an experiment's file: defences, trained twins, attacks, sweeps, replacements and analyses."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from radapt.errors import SettingsError
from radapt.find import nearest

from ._shared import fraction
from .adapt import METHODS

__all__ = [
    "Analysis",
    "Attack",
    "Defence",
    "Replacement",
    "Sweep",
    "Training",
    "check_settings",
    "fields_of",
    "mapping",
    "names",
    "number_of",
]


def number_of(value: Any) -> Any:
    """A text that is a number or a fraction as that number (YAML reads 3e-4 as a text), anything else as it is."""
    try:
        return fraction(value) if isinstance(value, str) else value
    except SettingsError:
        return value


def mapping(where: str, value: object) -> dict[str, Any]:
    """A mapping of names, as a dictionary."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise SettingsError(f"{where} must be a mapping of names, got {value!r}")
    return dict(value)


def fields_of(kind: Any, where: str, value: object) -> dict[str, Any]:
    """The keys of a part of the file, all of them known, none of them missing."""
    found, known = mapping(where, value), {entry.name: entry for entry in fields(kind)}
    for key in found:
        if key not in known:
            raise SettingsError(f"{where}: unknown key {key!r}{nearest(key, known)}")
    needed = [n for n, e in known.items() if e.default is MISSING and e.default_factory is MISSING and n not in found]
    if needed:
        raise SettingsError(f"{where}: missing {', '.join(needed)}")
    return found


def names(where: str, value: object) -> tuple[str, ...]:
    """A name, or a list of names, as texts."""
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(each, str | int | float) for each in values):
        raise SettingsError(f"{where} must be a name or a list of names, got {value!r}")
    return tuple(str(each) for each in values)


def check_settings(where: str, function: Callable[..., Any], settings: Mapping[str, Any]) -> None:
    """Refuse settings that a function does not take, and values of another kind than its own defaults.

    Raises:
        SettingsError: an unknown setting, or a text where a number belongs, or nothing where it may not be missing.
    """
    taken = inspect.signature(function).parameters
    known = {name: each for name, each in taken.items() if each.kind is inspect.Parameter.KEYWORD_ONLY}
    for name, value in settings.items():
        if name not in known:
            raise SettingsError(f"{where}: unknown setting {name!r}{nearest(name, known)}")
        default, none = known[name].default, value is None and "None" in str(known[name].annotation)
        if isinstance(default, int | float) and not isinstance(value, int | float) and not none:
            raise SettingsError(f"{where}: {name} must be a number, got {value!r}")


def _whole(where: str, value: object) -> int:
    if type(value) is not int or value < 1:
        raise SettingsError(f"{where} must be a whole number from 1 up, got {value!r}")
    return value


def _split(kind: Any, where: str, value: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keys of a part's own, and its further settings, with fractions as numbers."""
    given = mapping(where, value)
    own = {entry.name for entry in fields(kind)} - {"settings"}
    settings = {key: number_of(item) for key, item in given.items() if key not in own}
    for key in ("eps", "alpha"):
        if key in settings:
            fraction(str(settings[key]))
    made = fields_of(kind, where, {key: item for key, item in given.items() if key in own})
    if "n" in made:
        _whole(f"{where}: n", made["n"])
    return made, settings


@dataclass(frozen=True, kw_only=True)
class Defence:
    """How an adapter is made.

    Args:
        method: ``training-free``, ``model-guided`` or ``data-driven``.
        guide: model-guided: the robust twin.
        on: the model on which the adapter is made, for the towers of others; empty: the model itself.
        data, n: data-driven, and an anchor of a mean image: the data set whose train split is used, and how many of its
            images.
        settings: what else the method takes (``alpha``, ``eps``, ``steps``, ``adversary``...), or ``d0``, the cut-off
            as the paper's D0 at 224 pixels (0: no filter).
    """

    method: str
    guide: str = ""
    on: str = ""
    data: str = ""
    n: int = 2000
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, where: str, value: object) -> Defence:
        """Read it, with ``where`` for messages."""
        own, settings = _split(cls, where, value)
        made = cls(**own, settings=settings)
        if made.method not in METHODS:
            raise SettingsError(f"{where}: unknown method {made.method!r}{nearest(made.method, METHODS)}")
        if (made.method == "model-guided") != bool(made.guide):
            raise SettingsError(f"{where}: guide belongs to model-guided, and model-guided needs it")
        if made.method == "data-driven" and not made.data:
            raise SettingsError(f"{where}: data-driven needs data")
        if settings.get("image") == "mean" and not made.data:
            raise SettingsError(f"{where}: the image mean needs data")
        return made


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a twin is trained.

    Args:
        method: a method of fine-tuning.
        data, n: the data set whose train split is used, and how many of its images.
        settings: what else ``radapt.finetune.finetune`` takes (``layers``, ``eps``, ``steps``, ``batch``, ``lr``...).
    """

    method: str
    data: str
    n: int = 2000
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, where: str, value: object) -> Training:
        """Read it, with ``where`` for messages."""
        own, settings = _split(cls, where, value)
        return cls(**own, settings=settings)


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
        """Read it, with ``where`` for messages."""
        given = fields_of(cls, where, value)
        given["eps"] = tuple(fraction(each) for each in names(f"{where}: eps", given["eps"]))
        given["source"] = names(f"{where}: source", given.get("source", ["undefended", "self"]))
        if "self" not in given["source"]:
            raise SettingsError(f"{where}: source must name self, too: no figure by transfer without its white-box one")
        given["options"] = mapping(f"{where}: options", given.get("options", {}))
        return cls(**given)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Every defence, once with each value of a setting; or every model, once under each of some options of the attack.

    Args:
        over: ``alpha``, ``d0``, ``mix`` (changed on the adapter as it was made), another setting of the defences (made
            anew: ``n``, ``image``, ``block``...), or ``attack`` for the entries of ``attacks``.
        values: the values; for ``attack`` the places of the entries on the axis.
        label: name of the axis.
    """

    over: str
    values: Sequence[Any]
    label: str

    @classmethod
    def of(cls, where: str, value: object) -> Sweep:
        """Read it, with ``where`` for messages."""
        given = fields_of(cls, where, value)
        if not isinstance(given["values"], list) or not given["values"]:
            raise SettingsError(f"{where}: values must be a list of at least one, got {given['values']!r}")
        return cls(**{**given, "values": tuple(number_of(each) for each in given["values"])})


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """The model with more and more of its twins' weights.

    Args:
        twins: the twins, by label: names of models.
        order: ``progressive``, ``single`` or ``reverse``.
    """

    twins: Mapping[str, str]
    order: str = "progressive"

    @classmethod
    def of(cls, where: str, value: object) -> Replacement:
        """Read it, with ``where`` for messages."""
        given = fields_of(cls, where, value)
        given["twins"] = {key: str(item) for key, item in mapping(f"{where}: twins", given["twins"]).items()}
        if not given["twins"]:
            raise SettingsError(f"{where}: twins is empty; name at least one")
        return cls(**given)


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """A look into the models.

    Args:
        analysis: its name, as in ``radapt analyze``.
        data, n: the data set whose test split is shown, and how many of its images.
        options: what else the analysis takes.
    """

    analysis: str
    data: str = "objects"
    n: int = 1000
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, where: str, value: object) -> Analysis:
        """Read it, with ``where`` for messages."""
        given = fields_of(cls, where, value)
        if "n" in given:
            _whole(f"{where}: n", given["n"])
        given["options"] = mapping(f"{where}: options", given.get("options", {}))
        return cls(**given)
