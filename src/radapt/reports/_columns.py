"""The columns of the table: one per threat, told apart by no more than they need; and which of them are robust."""

from __future__ import annotations

import json
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from radapt.results import WORST_CASE, Setting
from radapt.results.labels import ABANDONED, attack_text, ball_text, names_of, noun
from radapt.results.records import KINDS, Kind

__all__ = ["Column", "Threat", "columns_of", "identify", "options_text", "ordered", "plain", "worst_of"]

Threat = tuple[Any, ...]
"""Kind, source, norm, radius and attack of a column, and what else tells it from others."""


def plain(text: object) -> str:
    """Text that every format can hold: control characters and lone surrogates become a visible replacement."""
    return "".join(
        "\ufffd" if unicodedata.category(character) in ("Cc", "Cs") else character for character in str(text)
    )


@dataclass(frozen=True, kw_only=True)
class Column:
    """``group`` names the threat (empty for the clean column), ``name`` the column within its group; ``robust`` marks
    the one white-box column of a ball whose results are robust accuracies; ``numbers`` are the settings of the attack
    that are numbers, where all results of the column share its settings, and ``words`` the others, as JSON."""

    kind: Kind
    norm: str = ""
    eps: float = 0.0
    attack: str = ""
    group: str = ""
    name: str
    robust: bool = False
    numbers: Mapping[str, float] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)

    @property
    def threat(self) -> tuple[str, float]:
        """The ball that both partners, transfer and white-box, share."""
        return self.norm, self.eps

    @property
    def title(self) -> str:
        """Full title, for formats with a single line of headings."""
        if not self.group:
            return self.name
        name, bracket, rest = self.name.partition(" (") if self.robust else (self.name, "", "")
        return f"{name}, {self.group}{bracket}{rest}"


def _refine(names: Sequence[Any], others: Sequence[Any], values: Sequence[str]) -> list[Any]:
    """Lengthen each name under which two values would share a place."""
    values_at = defaultdict(set)
    for name, other, value in zip(names, others, values, strict=True):
        values_at[name, other].add(value)
    clashing = {name for (name, _), different in values_at.items() if len(different) > 1}
    return [(*name, value) if name in clashing else name for name, value in zip(names, values, strict=True)]


def identify(settings: Sequence[Setting], places: Sequence[tuple[str, ...]]) -> tuple[list[str], list[Any]]:
    """Line and column of each result: the candidate, and what tells its threat from others at the same place."""
    lines = names_of(settings)
    threats: list[Any] = [
        (setting.kind, setting.source, setting.norm, setting.eps, attack_text(setting) if setting.source else "")
        for setting in settings
    ]
    for values in ([options_text(s.options) for s in settings], [f"seed={s.seed}" for s in settings]):
        threats = _refine(threats, list(zip(places, lines, strict=True)), values)
    return lines, threats


def worst_of(threat: Threat) -> Threat:
    """The worst case in the ball of a threat."""
    return ("white-box", "self", *threat[2:4], WORST_CASE)


def ordered(threats: Sequence[Threat]) -> list[Threat]:
    """Each threat once, with the worst case of every ball in which there are several white-box attacks, in the order of
    the columns."""
    once = list(dict.fromkeys(threats))
    white = [worst_of(threat) for threat in once if threat[0] == "white-box"]
    every = list(dict.fromkeys([*once, *(worst for worst in white if white.count(worst) > 1)]))
    return sorted(every, key=lambda threat: _rank(threat, every))


def options_text(options: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={json.dumps(value, sort_keys=True)}" for name, value in sorted(options.items()))


def _rank(threat: Threat, threats: Sequence[Threat]) -> Threat:
    """Clean first; then by ball, by attack as they were registered, transfer before white-box."""
    kind, _, norm, eps, attack, *extra = threat
    attacks = list(dict.fromkeys(other[4] for other in threats))
    last = attack == WORST_CASE
    return kind != "clean", norm, eps, last, attacks.index(attack), extra, KINDS.index(kind), threats.index(threat)


def columns_of(order: Sequence[Threat], tasks: set[str]) -> tuple[Column, ...]:
    several = len({attack for kind, _, _, _, attack, *_ in order if kind != "clean"} - {WORST_CASE}) > 1
    accuracy = "accuracy" if all(noun(task) == "accuracy" for task in tasks) else "score"
    columns = []
    for threat in order:
        kind, source, norm, eps, attack, *extra = threat
        extra_text = "".join(f", {part or 'default options'}" for part in extra)
        ball = ball_text(norm, eps)
        # Of several attacks in a ball, none alone gives the robust accuracy.
        robust = kind == "white-box" and (attack == WORST_CASE or worst_of(threat) not in order)
        robust &= not extra
        name = {
            "clean": "clean" + extra_text,
            "transfer": f"transfer from {source}",
            "white-box": attack if attack == WORST_CASE else "white-box",
        }[kind] + f" (robust {accuracy})" * robust
        named = attack != WORST_CASE and (several or attack.endswith(ABANDONED))
        group = "" if kind == "clean" else ball + f", {attack}" * named + extra_text
        columns.append(
            Column(
                kind=kind,
                norm=norm,
                eps=eps,
                attack=plain(attack),
                group=plain(group),
                name=plain(name),
                robust=robust,
            )
        )
    return tuple(columns)
