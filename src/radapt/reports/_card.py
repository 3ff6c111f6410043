"""The format of result cards, and how others' are read: what a candidate keeps under one threat, as a JSON file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from radapt.errors import ResultsError, SettingsError, shown
from radapt.numbers import LARGEST_N, number, whole
from radapt.schema import STRICT, parse, read_json, read_yaml

__all__ = ["FORMAT", "LONGEST", "About", "Attacked", "CardResult", "ResultCard", "Score", "read_about", "read_cards"]

_LARGEST = 1 << 20
FORMAT = 1
"""Version of the format."""
LONGEST = 300
"""Characters of a name, at most."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """A figure in per cent, the limits of its 95 % interval, and its number of samples."""

    __pydantic_config__: ClassVar = STRICT

    percent: float
    low: float
    high: float
    n: int

    def __post_init__(self) -> None:
        for name in ("percent", "low", "high"):
            number(name, getattr(self, name), -1e6, 1e6)
        whole("n", self.n, 1, LARGEST_N)
        if not self.low <= self.percent <= self.high:
            raise SettingsError(
                f"percent must lie in its interval, got {self.percent:g} in [{self.low:g}, {self.high:g}]"
            )


@dataclass(frozen=True, kw_only=True)
class Attacked(Score):
    """What one attack alone leaves; ``source`` is whose gradients made it: ``self`` (white-box) or another model."""

    attack: str
    source: str
    options: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("attack", "source"):
            _check_text(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class CardResult:
    """What a candidate keeps on one dataset.

    Args:
        task, dataset, split, metric: what was asked.
        planned: number of samples that were asked for.
        clean: right without an attack; None: not measured.
        robust: right under every attack that is known, the worst case of each sample; None: never attacked white-box.
        attacks: the white-box attacks, each alone.
        transfer: attacks that were made on another model: no robustness, whatever they leave.
        flags: what the sanity checks found wrong, by their names.
        checked: whether they ran on all samples.
    """

    __pydantic_config__: ClassVar = STRICT

    task: str
    dataset: str
    split: str
    metric: str
    planned: int
    clean: Score | None
    robust: Score | None
    attacks: tuple[Attacked, ...]
    transfer: tuple[Attacked, ...]
    flags: Mapping[str, str]
    checked: bool

    def __post_init__(self) -> None:
        for name in ("task", "dataset", "split", "metric"):
            _check_text(name, getattr(self, name))
        whole("planned", self.planned, 1, LARGEST_N)
        if self.robust is None and self.attacks:
            raise SettingsError("robust is missing, though there are white-box attacks")
        if self.robust is not None and not self.attacks:
            raise SettingsError("attacks must name the white-box attacks that the robust figure is over, got none")
        for each in self.attacks:
            if each.source != "self":
                raise SettingsError(f"attacks has {shown(each.attack)} from {shown(each.source)}: that is transfer")
        for each in self.transfer:
            if each.source == "self":
                raise SettingsError(f"transfer has {shown(each.attack)} from 'self': that is white-box")
        for each in (*self.attacks, *self.transfer) if self.robust else ():
            if self.robust and each.n == self.robust.n and each.percent < self.robust.percent - 1e-6:
                raise SettingsError(
                    f"robust must be the worst case over all attacks, got {self.robust.percent:g}, but "
                    f"{shown(each.attack)} from {shown(each.source)} leaves {each.percent:g} of the same samples"
                )

    @property
    def place(self) -> tuple[str, str, str, str]:
        """What figures must share to be compared, the ball apart."""
        return self.task, self.dataset, self.split, self.metric

    @property
    def autoattack(self) -> Attacked | None:
        """What AutoAttack alone leaves, where it ran white-box."""
        return next((each for each in self.attacks if each.attack.startswith("autoattack")), None)

    @property
    def doubts(self) -> list[str]:
        """What speaks against the robust figure, in few words; empty: nothing."""
        if self.robust is None:
            return ["never attacked white-box"]
        found = [f"flag: {name}" for name in self.flags]
        found += [] if self.checked else ["the sanity checks did not run"]
        return found + ([f"{self.robust.n} of {self.planned} samples"] if self.robust.n < self.planned else [])


@dataclass(frozen=True, kw_only=True)
class About:
    """What no results file knows of a candidate.

    Args:
        paper, authors, venue, link: where it was published; empty for nothing.
        changed: share of the vision encoder's weights that it changes, in [0, 1]; None: not known.
    """

    __pydantic_config__: ClassVar = STRICT

    paper: str = ""
    authors: str = ""
    venue: str = ""
    link: str = ""
    changed: float | None = None

    def __post_init__(self) -> None:
        for name in ("paper", "authors", "venue", "link"):
            _check_text(name, getattr(self, name), empty=True)
        if self.link and not re.match(r"https?://[^\s/]", self.link):
            raise SettingsError(f"link must begin with https:// or http://, got {shown(self.link)}")
        if self.changed is not None:
            number("changed", self.changed, 0, 1)


@dataclass(frozen=True, kw_only=True)
class ResultCard:
    """A candidate, a model or a model with its defence, under one threat.

    Args:
        card: version of the format.
        name, model, adapter: name of the candidate, its model, and the fingerprint of its adapter (empty for none).
        settings: of the adapter, as far as the results file notes them.
        about: where it was published, and what it changes.
        norm, eps: the ball, eps in pixel units.
        source: whose gradients made the attacks that the robust figures are over, besides those that transferred.
        results: by dataset.
        versions: of what computed the results, by name.
        commands: what measured them; empty for calls from Python.
        date: of the last of these calls; empty where it is not known.
    """

    __pydantic_config__: ClassVar = STRICT

    card: int = FORMAT
    name: str
    model: str
    adapter: str = ""
    settings: Mapping[str, float | str] = field(default_factory=dict)
    about: About = field(default_factory=About)
    norm: str
    eps: float
    source: Literal["self"] = "self"
    results: tuple[CardResult, ...]
    versions: Mapping[str, str] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    date: str = ""

    def __post_init__(self) -> None:
        if self.card != FORMAT:
            raise SettingsError(f"card must be {FORMAT}, the format that this version reads, got {self.card}")
        for name in ("name", "model", "norm"):
            _check_text(name, getattr(self, name))
        number("eps", self.eps, 0, 1e6, above=True)
        places = [each.place for each in self.results]
        if not places or len(set(places)) < len(places):
            raise SettingsError("results must have one entry for each dataset, none twice, and at least one")


def _check_text(name: str, text: str, *, empty: bool = False) -> None:
    if len(text) > LONGEST or not (empty or text.strip()):
        raise SettingsError(f"{name} must be a text of at most {LONGEST} characters, got {shown(text)}")


def read_about(given: str | Path | Mapping[str, About | Mapping[str, object]] | None) -> dict[str, About]:
    """What is told of candidates, by their names: from plain values, or from a YAML file.

    Raises:
        SettingsError: the file cannot be read, or says something that :class:`About` does not have.
    """
    if given is None:
        return {}
    if isinstance(given, Mapping):
        plain = {name: asdict(told) if isinstance(told, About) else told for name, told in given.items()}
        return parse(dict[str, About], plain, where="about")
    return parse(dict[str, About], read_yaml(given, what="file about candidates"), where=str(given))


def read_cards(paths: str | Path | Iterable[str | Path]) -> dict[str, ResultCard]:
    """The cards of folders (every ``.json`` file in them) and of single files, by the paths of their files.

    Cards may be others': a key that is unknown is refused, as a misspelt one would hide what it was to say, and so is a
    robust figure above what an attack on the card leaves.

    Raises:
        ResultsError: there is no card, or one is not of the format; the message names its file and what is wrong.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    files: list[Path] = []
    for each in map(Path, given):
        files += sorted(each.glob("*.json")) if each.is_dir() else [each]
    if not files:
        where = ", ".join(map(str, given)) or "nothing"
        raise ResultsError(f"there is no result card in {where}: `radapt report --cards FOLDER` writes some")
    return {
        str(file): parse(
            ResultCard,
            read_json(file, what="result card", error=ResultsError, largest=_LARGEST),
            where=str(file),
            error=ResultsError,
        )
        for file in dict.fromkeys(files)
    }
