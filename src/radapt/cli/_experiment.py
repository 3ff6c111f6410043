"""Experiments: YAML files that say which models, defences, data sets and attacks make a table or a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import yaml

from radapt.errors import SettingsError
from radapt.find import nearest

from ._ingredients import Analysis, Attack, Defence, Replacement, Sweep, Training, fields_of, mapping, names

__all__ = ["Experiment", "Profile", "experiments", "read"]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One size of an experiment: a table or curves (``data``, ``n`` and ``attacks``), or looks into the models.

    Args:
        models: the undefended models, by label.
        twins: fine-tuned models, by label, whose undefended model is the first of ``models``.
        trained: twins that are trained on the first of ``models``, by label.
        defences: adapters put on each of the models, by label.
        sweep: makes lines of a diagram out of the defences, or of the attacks.
        replacement: adds the first model with the stages of its twins replaced, as lines of a diagram.
        data: names of data sets.
        n: samples of each.
        attacks: the attacks.
        analyses: looks into the first model and its twins.
        dtype: of the weights.
        sanity: whether the checks of the attacks run along; they take longer than small experiments themselves.
    """

    models: Mapping[str, str]
    twins: Mapping[str, str] = field(default_factory=dict)
    trained: Mapping[str, Training] = field(default_factory=dict)
    defences: Mapping[str, Defence] = field(default_factory=dict)
    sweep: Sweep | None = None
    replacement: Replacement | None = None
    data: Sequence[str] = ()
    n: int = 0
    attacks: Sequence[Attack] = ()
    analyses: Sequence[Analysis] = ()
    dtype: str = "float32"
    sanity: bool = True

    @classmethod
    def of(cls, where: str, value: object) -> Profile:
        """Read it, with ``where`` for messages."""
        given = fields_of(cls, where, value)
        for key in ("models", "twins"):
            given[key] = {k: str(v) for k, v in mapping(f"{where}: {key}", given.get(key, {})).items()}
        if not given["models"]:
            raise SettingsError(f"{where}: models is empty; name at least one")
        for key, part in (("trained", Training), ("defences", Defence)):
            made = mapping(f"{where}: {key}", given.get(key, {}))
            given[key] = {name: part.of(f"{where}: {name}", item) for name, item in made.items()}
        if given.get("sweep") is not None:
            given["sweep"] = Sweep.of(f"{where}: sweep", given["sweep"])
        if given.get("replacement") is not None:
            given["replacement"] = Replacement.of(f"{where}: replacement", given["replacement"])
        table = {"data", "n", "attacks"} & set(given)
        if table:
            _table(where, given)
        listed = given.get("analyses", [])
        if not isinstance(listed, list) or not (listed or table):
            raise SettingsError(f"{where}: give data, n and attacks for a table, or analyses as a list; got {listed!r}")
        given["analyses"] = tuple(Analysis.of(f"{where}: analysis {at}", part) for at, part in enumerate(listed, 1))
        return cls(**given)


def _table(where: str, given: dict[str, object]) -> None:
    """Read what a table needs: data, n and attacks, in place."""
    n, attacks = given.get("n"), given.get("attacks")
    if type(n) is not int or n < 1:
        raise SettingsError(f"{where}: n must be a whole number from 1 up, got {n!r}")
    given["data"] = names(f"{where}: data", given.get("data"))
    if not isinstance(attacks, list) or not attacks:
        raise SettingsError(f"{where}: attacks must be a list of at least one, got {attacks!r}")
    made = [Attack.of(f"{where}: attack {at}", part) for at, part in enumerate(attacks, 1)]
    sweep = given.get("sweep")
    if isinstance(sweep, Sweep) and sweep.over == "attack":
        if len(sweep.values) != len(made):
            raise SettingsError(f"{where}: a sweep over attacks needs one value for each of the {len(made)} attacks")
        if len({(each.attack, each.norm, tuple(each.eps)) for each in made}) > 1 or len(made[0].eps) > 1:
            raise SettingsError(f"{where}: the attacks of a sweep differ in options alone, and have one eps")
    given["attacks"] = tuple(made)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table or figure: what it shows, what the paper reports, and how it is made, by profile.

    Args:
        title: what it is about, in a line.
        description: what is compared, and how.
        published: what the paper reports.
        profiles: its sizes.
        place: which table or figure of the paper it is; empty for one that the paper does not have.
    """

    title: str
    description: str
    published: str
    profiles: Mapping[str, Profile]
    place: str = ""

    @classmethod
    def of(cls, where: str, value: object) -> Experiment:
        """Read it, with ``where`` for messages."""
        given = fields_of(cls, where, value)
        for key in ("title", "description", "published", *(["place"] if "place" in given else [])):
            if not isinstance(given[key], str) or not given[key].strip():
                raise SettingsError(f"{where}: {key} must be a text, got {given[key]!r}")
        parts = mapping(f"{where}: profiles", given["profiles"])
        given["profiles"] = {name: Profile.of(f"{where}: {name}", part) for name, part in parts.items()}
        return cls(**given)


def _folder() -> Path:
    """Where the experiments lie: in an installed package, or beside the sources."""
    package = Path(str(files("radapt")))
    return next(folder for folder in (package / "experiments", package.parents[1] / "experiments") if folder.is_dir())


def experiments() -> dict[str, Path]:
    """The files of the experiments that come with the library, by name."""
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
