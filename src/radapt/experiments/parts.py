"""The parts of an experiment's file: defences, trained twins, attacks, sweeps, replacements and analyses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, MinLen
from pydantic import BeforeValidator, Discriminator, Strict, Tag

from radapt.adapters import REGISTRY as METHODS
from radapt.adapters import AdapterMethod
from radapt.errors import SettingsError
from radapt.io import fraction
from radapt.schema import STRICT, parse
from radapt.types import Norm, ReplacementOrder

__all__ = [
    "AnalysisSpec",
    "AttackSpec",
    "DefenceSpec",
    "InterpolationSpec",
    "Names",
    "ReplacementSpec",
    "Sweep",
    "TrainingSpec",
    "TwinSpec",
    "collect",
    "listed",
    "names",
    "number_of",
]


def number_of(value: Any) -> Any:
    """A text that is a number or a fraction as that number (YAML reads 3e-4 as a text), anything else as it is."""
    try:
        return fraction(value) if isinstance(value, str) else value
    except SettingsError:
        return value


def listed(value: Any) -> Any:
    """A single value, or a list of them, as a tuple."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def names(value: Any) -> Any:
    """A name, or a list of them, as a tuple of texts."""
    return tuple(str(each) if isinstance(each, int | float) else each for each in listed(value))


def _radii(value: Any) -> Any:
    return tuple(fraction(each) if isinstance(each, str | int | float) else each for each in listed(value))


def _numbers(value: Any) -> Any:
    return tuple(number_of(each) for each in value) if isinstance(value, list) else value


Names = Annotated[tuple[str, ...], BeforeValidator(names)]
"""A name, or a list of names."""
_Radii = Annotated[tuple[float, ...], BeforeValidator(_radii), MinLen(1)]
_Count = Annotated[int, Ge(1)]


def collect(kind: type[Any]) -> BeforeValidator:
    """Puts the keys that are no fields of a part into its ``settings``, with fractions as numbers."""

    def split(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        own = {entry.name for entry in fields(kind)} - {"settings"}
        settings = {key: number_of(item) for key, item in value.items() if key not in own}
        for key in ("eps", "alpha"):
            if key in settings:
                fraction(settings[key])
        return {**{key: item for key, item in value.items() if key in own}, "settings": settings}

    return BeforeValidator(split)


@dataclass(frozen=True, kw_only=True)
class DefenceSpec:
    """How an adapter is made, or one that is there.

    Args:
        method: an adapter method, as in ``radapt adapt``.
        adapter: instead of all else, an adapter that is there: its name or folder.
        guide: the robust twin, for a method that needs one.
        made_on: the model on which the adapter is made, for the towers of others; None: the model itself.
        to: the label of the one model or twin that it is put on, instead of each of the models.
        data, n: for a method that is trained, and an anchor of a mean image: the dataset whose train split is used, or
            several, and how many images of each.
        settings: what else the method takes (``alpha``, ``eps``, ``steps``, ``adversary``...), or ``d0``, the cut-off
            as the paper's D0 at 224 pixels (0: no filter).
    """

    __pydantic_config__: ClassVar = STRICT

    method: str | None = None
    adapter: str | None = None
    guide: str | None = None
    made_on: str | None = None
    to: str | None = None
    data: Names = ()
    n: _Count = 2000
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.method is None) == (self.adapter is None):
            raise SettingsError("a defence has a method, or an adapter that is there")
        if self.method is None:
            if unused := [*self.settings, *(key for key in ("guide", "made_on", "data") if getattr(self, key))]:
                raise SettingsError(f"{self.adapter} is there, and takes no {unused[0]}; give a method instead")
            return
        method: AdapterMethod = METHODS.get(self.method)
        if method.needs_guide != (self.guide is not None):
            raise SettingsError(f"{self.method} " + ("needs a guide" if method.needs_guide else "takes no guide"))
        if method.needs_images and not self.data:
            raise SettingsError(f"{self.method} needs data")
        if self.settings.get("image") == "mean" and not self.data:
            raise SettingsError("the image mean needs data")


@dataclass(frozen=True, kw_only=True)
class InterpolationSpec:
    """The first model on the way to a twin; see :func:`radapt.models.interpolated`.

    Args:
        twin: the name of the twin.
        weights: how far, in all, or by part: ``{"embedding": 1, "block:0-2": 0.5}``.
    """

    __pydantic_config__: ClassVar = STRICT

    twin: str
    weights: float | Mapping[str, float]


TwinSpec = Annotated[
    Annotated[str, Tag("name")] | Annotated[InterpolationSpec, Tag("interpolation")],
    Discriminator(lambda value: "name" if isinstance(value, str) else "interpolation"),
]
"""The name of a fine-tuned model, or a model on the way to one."""


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """How a twin is trained.

    Args:
        method: a method of fine-tuning.
        data, n: the dataset whose train split is used, or several, and how many images of each.
        settings: what else ``radapt.finetune`` takes (``layers``, ``eps``, ``steps``, ``batch_size``, ``lr``...).
    """

    __pydantic_config__: ClassVar = STRICT

    method: str
    data: Annotated[Names, MinLen(1)]
    n: _Count = 2000
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AttackSpec:
    """An attack at some radii, from some sources; white-box is always among them."""

    __pydantic_config__: ClassVar = STRICT

    attack: str
    eps: _Radii
    norm: Norm = "linf"
    source: Names = ("undefended", "self")
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "self" not in self.source:
            raise SettingsError("source must name self, too: no result by transfer without its white-box one")


_SWEPT: Mapping[str, Any] = {
    "data": Annotated[Names, MinLen(1)],
    "n": Annotated[_Count, Strict()],
    "guide": str,
    "made_on": str,
}
"""What the values of a sweep over a field of the defences may be."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Every defence, once with each value of a setting; or every model, once under each of some options of the attack.

    Args:
        over: ``alpha``, ``d0``, ``mix`` (changed on the adapter as it was made), another setting of the defences (made
            again: ``n``, ``image``, ``block``...), or ``attack`` for the entries of ``attacks``.
        values: the values; for ``attack`` the places of the entries on the axis.
        label: name of the axis.

    Raises:
        SettingsError: two values have one place on the axis, or one is of the wrong kind.
    """

    __pydantic_config__: ClassVar = STRICT

    over: str
    values: Annotated[tuple[Any, ...], BeforeValidator(_numbers), MinLen(1)]
    label: str

    def __post_init__(self) -> None:
        places, ticks = self.axis
        if double := [place for place, times in Counter(ticks or places).items() if times > 1]:
            raise SettingsError(f"values: {double[0]} stands twice, and each has a place of its own on the axis")
        for value in self.values:
            if self.over in ("d0", "alpha") and not isinstance(value, int | float):
                raise SettingsError(f"the values of a sweep over {self.over} must be numbers, got {value!r}")
            if self.over in _SWEPT:
                parse(_SWEPT[self.over], value, where=f"values of a sweep over {self.over}")

    @property
    def axis(self) -> tuple[list[float], tuple[str, ...]]:
        """Places of the values, and their names where they are no numbers."""
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.values):
            return [float(value) for value in self.values], ()
        return [float(at) for at in range(len(self.values))], tuple(map(str, self.values))


@dataclass(frozen=True, kw_only=True)
class ReplacementSpec:
    """The model with more and more of its twins' weights.

    Args:
        twins: the twins, by label: names of models.
        order: ``progressive``, ``single``, ``reverse`` or ``interpolation``, or several of them, a diagram for each.
    """

    __pydantic_config__: ClassVar = STRICT

    twins: Annotated[Mapping[str, str], MinLen(1)]
    order: Annotated[tuple[ReplacementOrder, ...], BeforeValidator(listed), MinLen(1)] = ("progressive",)


@dataclass(frozen=True, kw_only=True)
class AnalysisSpec:
    """An analysis of the first model and its twins.

    Args:
        analysis: its name, as in ``radapt analyze``.
        data, n: the dataset whose test split is shown, and how many of its images.
        options: what else the analysis takes.
    """

    __pydantic_config__: ClassVar = STRICT

    analysis: str
    data: str = "objects"
    n: _Count = 1000
    options: Mapping[str, Any] = field(default_factory=dict)
