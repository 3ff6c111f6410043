"""Datasets and threats by name or as objects, one or several."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from radapt.attacks import Attack
from radapt.data import Dataset, card, load_dataset
from radapt.errors import SettingsError
from radapt.io import fraction
from radapt.models import VLM, DualEncoder, common_image_size
from radapt.registry import nearest
from radapt.types import Norm, Split

from ._task import Task
from ._threat import Threat

__all__ = ["DEFAULT_ATTACK", "DataLike", "check_names", "datasets_of", "listed", "size_of_data", "threats_of"]

DataLike = str | Path | Dataset | Task
"""A dataset by name, as the path of a card, or as an object; or a task on one."""

DEFAULT_ATTACK = "apgd-ensemble"
_EPS, _SOURCES = 4 / 255, ("undefended", "self")
_NORM: Norm = "linf"
"""What :func:`evaluate` takes unless told otherwise."""


def listed(given: Any) -> list[Any]:
    """One thing, or several, as a list."""
    return [given] if isinstance(given, str | float | int | Path | Dataset | Task) or given is None else list(given)


def check_names(datasets: Sequence[DataLike]) -> None:
    """Find the card of every dataset by name, before anything is loaded.

    Raises:
        SettingsError: there is none.
    """
    for each in datasets:
        if isinstance(each, str | Path):
            card(str(each))


def size_of_data(datasets: Sequence[DataLike]) -> tuple[int, int] | None:
    """Height and width of the images of the first dataset that is an object; else those of the first by name."""
    objects = [each.data if isinstance(each, Task) else each for each in datasets if isinstance(each, Dataset | Task)]
    if objects:
        return objects[0].image_size
    names = [each for each in datasets if isinstance(each, str | Path)]
    return load_dataset(names[0], n=1, quiet=True).image_size if names else None


def datasets_of(
    given: Sequence[DataLike], *, n: int | None, split: Split, balanced: bool, quiet: bool, models: Sequence[VLM]
) -> list[Dataset | Task]:
    """Datasets, those by name with images of the size that the models take.

    Raises:
        SettingsError: an unknown name, too few samples, models that take images of different sizes, or two datasets of
            one name with different samples, prompts or classes, whose results would be one.

    Warns:
        UserWarning: images that are given as an object have another size than a model's.
    """
    size = common_image_size(models)
    sets: list[Dataset | Task] = []
    known: dict[tuple[str, str], Dataset] = {}
    for each in given:
        if isinstance(each, str | Path):
            each = load_dataset(each, split=split, n=n, size=size, balanced=balanced, quiet=quiet)
        sets.append(each)
        data = each.data if isinstance(each, Task) else each
        other = known.setdefault((data.name, data.split), data)
        same = data is other or data.digests[: len(other)] == other.digests[: len(data)]
        if not same or data.content != other.content:
            what = "other prompts, classes or metrics" if same else "different samples"
            raise SettingsError(
                f"two datasets with {what} are called {data.name!r}, so that their results would be one; "
                "give one of the cards or folders another name"
            )
        for model in models:
            if isinstance(model, DualEncoder) and data.image_size != model.image_size:
                warnings.warn(
                    f"{data.name} has images of {data.image_size}, and {model.name} was made for {model.image_size}: "
                    "between its positions it is interpolated, and so another model; read the dataset with "
                    f"size={model.image_size[0]}",
                    stacklevel=2,
                )
    return sets


def threats_of(
    attack: str | Attack | Sequence[str | Attack] | None,
    eps: float | str | Sequence[float | str] | None,
    norm: Norm | None,
    source: str | Sequence[str] | None,
    options: Mapping[str, object] | None,
    threats: Sequence[Threat] | None,
) -> list[Threat]:
    """Every attack at every radius from every source, or the threats that are given; none without an attack.

    Raises:
        SettingsError: an unknown attack or option, a value out of range, or settings beside an attack that has its own
            or beside threats.
    """
    given = {"eps": eps, "norm": norm, "options": options or None}
    if threats is not None:
        named = None if attack == DEFAULT_ATTACK else attack or "none"
        _refuse({"attack": named, "source": source, **given}, "threats=")
        return list(threats)
    if attack is None:
        return []
    attacks = [attack] if isinstance(attack, str | Attack) else list(attack)
    if attacks in ([], ["none"]):
        return []
    if "none" in attacks:
        raise SettingsError("'none' stands for clean results only; leave it out beside other attacks")
    sources = _SOURCES if source is None else listed(source)
    radii = [fraction(each) for each in listed(_EPS if eps is None else eps)]
    own = _options_of([each for each in attacks if isinstance(each, str)], options or {})
    found = list[Threat]()
    for each in attacks:
        if isinstance(each, str):
            ball: dict[str, Any] = {"norm": _NORM if norm is None else norm, "options": own[each]}
            found += [Threat(attack=each, eps=radius, source=who, **ball) for radius in radii for who in sources]
        else:
            said: dict[str, object] = {"eps": [each.eps], "norm": each.norm}
            values = {**given, "eps": None if eps is None else radii}
            other = {name: value for name, value in values.items() if value != said.get(name)}
            _refuse(other, f"the attack {type(each).__name__}, which has its own")
            found += [Threat(attack=each, source=who) for who in sources]
    return found


def _options_of(attacks: Sequence[str], options: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """The options of each attack: those without a name in front are for all, ``square.steps`` is for one of them.

    Raises:
        SettingsError: an option names an attack that is not among them.
    """
    own: dict[str, dict[str, object]] = {name: {} for name in attacks}
    for key, value in sorted(options.items(), key=lambda pair: "." in str(pair[0])):
        name, dot, option = str(key).partition(".")
        if dot and name not in own:
            raise SettingsError(f"the option {key} is for {name!r}, which is not among the attacks{nearest(name, own)}")
        for each in [name] if dot else own:
            own[each][option if dot else key] = value
    return own


def _refuse(given: Mapping[str, object], who: str) -> None:
    """Refuse what is said in a call although something else says it.

    Raises:
        SettingsError: it is given.
    """
    for name, value in given.items():
        if value is not None:
            raise SettingsError(f"{name} is given twice: in the call, and by {who}; leave it out of the call")
