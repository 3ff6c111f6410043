"""Experiments: YAML files that say which models, defences, datasets and attacks make a table or a figure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Annotated, ClassVar

from annotated_types import Ge, MinLen

from radapt.errors import SettingsError
from radapt.evaluation import RESERVED, Threat
from radapt.io import digest_of, expanded
from radapt.registry import nearest
from radapt.schema import STRICT, parse, read_yaml

from .parts import (
    AnalysisSpec,
    AttackSpec,
    DefenceSpec,
    Names,
    ReplacementSpec,
    Sweep,
    TrainingSpec,
    TwinSpec,
    collect,
)

__all__ = ["Experiment", "Profile", "experiments", "read"]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One size of an experiment: a table or curves (``data``, ``n`` and ``attacks``), or analyses.

    Args:
        models: the undefended models, by label.
        twins: fine-tuned models, by label, whose undefended model is the first of ``models``: names, or ``{twin: NAME,
            weights: 0.5}`` for a model on the way to one.
        trained: twins that are trained on the first of ``models``, by label.
        defences: adapters put on each of the models, or on one model or twin, by label.
        sweep: makes lines of a diagram out of the defences, or of the attacks.
        replacement: adds the first model with the stages of its twins replaced, as lines of a diagram.
        data: names of datasets.
        n: samples of each.
        attacks: the attacks.
        analyses: analyses of the first model and its twins.
        dtype: of the weights.
        sanity: whether the checks of the attacks run; they take longer than small experiments themselves.

    Raises:
        SettingsError: there is nothing to make, a label stands twice or is that of a source, a sweep does not match the
            attacks, or a defence is put on a model that is none of these.
    """

    __pydantic_config__: ClassVar = STRICT

    models: Annotated[Mapping[str, str], MinLen(1)]
    twins: Mapping[str, TwinSpec] = field(default_factory=dict)
    trained: Mapping[str, Annotated[TrainingSpec, collect(TrainingSpec)]] = field(default_factory=dict)
    defences: Mapping[str, Annotated[DefenceSpec, collect(DefenceSpec)]] = field(default_factory=dict)
    sweep: Sweep | None = None
    replacement: ReplacementSpec | None = None
    data: Names = ()
    n: Annotated[int, Ge(1)] | None = None
    attacks: tuple[AttackSpec, ...] = ()
    analyses: tuple[AnalysisSpec, ...] = ()
    dtype: str = "float32"
    sanity: bool = True

    def __post_init__(self) -> None:
        table = (bool(self.data), self.n is not None, bool(self.attacks))
        if any(table) != all(table) or not (any(table) or self.analyses):
            raise SettingsError("give data, n and attacks for a table, or analyses")
        labels = [*self.models, *self.twins, *self.trained]
        _check_labels([*labels, *self.defences])
        for title, defence in self.defences.items():
            if defence.to is not None and defence.to not in labels:
                raise SettingsError(f"{title}: unknown model {defence.to!r}{nearest(defence.to, labels)}")
        if self.sweep is not None and self.sweep.over == "attack":
            _check_attacks(self.sweep, self.attacks)

    def threats(self) -> list[Threat]:
        """The attacks at each radius, from each source.

        Raises:
            SettingsError: an attack or an option of it is unknown.
        """
        return [
            Threat(attack=part.attack, eps=eps, norm=part.norm, source=source, options=part.options)
            for part in self.attacks
            for eps in part.eps
            for source in part.source
        ]


def _check_labels(labels: Sequence[str]) -> None:
    """Each label is one line of the table: of two, one would take the place of the other."""
    for at, label in enumerate(labels):
        if label in labels[:at]:
            raise SettingsError(f"{label!r} is the label of two of models, twins, trained and defences; rename one")
        if label in RESERVED:
            raise SettingsError(f"{label!r} is a source of attacks, and no label; give it another name")


def _check_attacks(sweep: Sweep, attacks: Sequence[AttackSpec]) -> None:
    if len(sweep.values) != len(attacks):
        raise SettingsError(f"a sweep over attacks needs one value for each of the {len(attacks)} attacks")
    if len({(each.attack, each.norm, each.eps) for each in attacks}) > 1 or len(attacks[0].eps) > 1:
        raise SettingsError("the attacks of a sweep differ in options alone, and have one eps")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table or figure: what it shows, what the paper reports, and how it is made, by profile.

    Args:
        title: what it is about, in a line.
        description: what is compared, and how.
        published: what the paper reports.
        profiles: its sizes.
        place: which table or figure of the paper it is; None for one that the paper does not have.
    """

    __pydantic_config__: ClassVar = {**STRICT, "str_strip_whitespace": True, "str_min_length": 1}

    title: str
    description: str
    published: str
    profiles: Mapping[str, Profile]
    place: str | None = None

    @property
    def slug(self) -> str:
        """A name for the folder of one that is in no file: of its title, and of all that it says."""
        words = re.sub(r"\W+", "-", self.title.lower()).strip("-")[:40]
        return f"{words or 'experiment'}-{digest_of(asdict(self), length=6, default=str)}"


def experiments() -> dict[str, Path]:
    """The files of the experiments that come with the library, by name."""
    folder = Path(str(files("radapt.experiments"))) / "paper"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read(name: str | Path) -> Experiment:
    """An experiment by name, or the path of a YAML file of your own.

    Raises:
        SettingsError: there is no such experiment, or its file is wrong.
    """
    known = experiments()
    path = expanded(name) if str(name).endswith((".yaml", ".yml")) else known.get(str(name))
    if path is None:
        raise SettingsError(f"unknown experiment {name!r}{nearest(str(name), known)} (or the path of a .yaml file)")
    content = read_yaml(path, what="experiment")
    experiment: Experiment = parse(Experiment, content, where=path.name)
    return experiment
