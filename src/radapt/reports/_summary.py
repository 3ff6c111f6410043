"""The results in sentences: what each method keeps under transfer and under a white-box attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from radapt.results import Comparison

from ._points import Panel, Point, panels_of
from ._rank import order_of
from .table import Table, plain

__all__ = ["FALLS", "HOLDS", "LEVEL", "Verdict", "sentences", "verdicts"]

FALLS = 0.1
"""A method falls to an attack that leaves less than this share of its clean result."""
HOLDS = 0.5
"""A method holds against an attack that leaves at least this share of its clean result."""

LEVEL = 0.05
"""Of a test between two methods."""

_Outcome = Literal["holds", "weakened", "flagged", "seems", "falls", "unknown"]
_MEANING: dict[_Outcome, str] = {
    "holds": "Holds against an attacker who knows it (keeps at least half of its clean result)",
    "weakened": "Weakened by an attacker who knows it (keeps a tenth to a half of its clean result)",
    "flagged": "Not to be trusted: it has flags, so the true figure is at most this, and may be far lower",
    "seems": "Only seems to hold: it withstands transferred attacks, and falls to an attacker who knows it",
    "falls": "Falls to an attacker who knows it (keeps less than a tenth of its clean result)",
    "unknown": "Not known: never attacked by one who knows it, so nothing can be claimed",
}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the methods are worth under one threat: a headline, how sure it is, and groups of (outcome, its meaning,
    methods each with a sentence)."""

    headline: str
    certainty: str
    groups: list[tuple[str, str, list[tuple[str, str]]]]


def verdicts(table: Table, tests: Sequence[Comparison] = ()) -> list[Verdict]:
    """Per threat and task, which methods hold white-box, which only seem to, and which figures not to trust.

    Args:
        table: the results.
        tests: comparisons of methods on the same samples, which tell how sure a first place is.
    """
    found = []
    for panel in panels_of(table, mean=True):
        points = [point for point in panel.points if point.transfer or point.white_box]
        points.sort(key=order_of, reverse=True)
        groups: dict[_Outcome, list[tuple[str, str]]] = {outcome: [] for outcome in _MEANING}
        for point in points:
            groups[_outcome(point)].append((point.method, _sentence(panel, point)))
        shown = [(outcome, _MEANING[outcome], methods) for outcome, methods in groups.items() if methods]
        found.append(
            Verdict(headline=_headline(panel, points), certainty=_certainty(panel, points, tests), groups=[*shown])
        )
    return found


def _certainty(panel: Panel, points: Sequence[Point], tests: Sequence[Comparison]) -> str:
    """Which methods the first one can, on the same samples, be told apart from."""
    best = next((point for point in points if point.white_box and not point.marks and point.over == panel.total), None)
    if best is None or best.white_box is None or best.white_box[0] < FALLS * best.clean[0]:
        return ""
    own = [each for each in tests if each.kind == "white-box" and (each.norm, each.eps) == panel.ball]
    own = [each for each in own if len(each.datasets) == panel.total and each.task == panel.task]
    pairs = {plain(each.second if plain(each.first) == best.method else each.first): each for each in own
             if best.method in (plain(each.first), plain(each.second))}  # fmt: skip
    rivals = [point for point in points if point.white_box and not point.marks and point is not best]
    others = [point.method for point in rivals if point.method in pairs]
    if not others:
        return ""
    alike = [name for name in others if pairs[name].p_adjusted >= LEVEL]
    how = f"same samples, {' or '.join(sorted({pairs[name].test for name in others}))} with Holm's correction, p"
    ahead = [each for each in others if each not in alike and not _leads(best.method, pairs[each])]
    if ahead:
        return (
            f"{best.method} leads in the figure that is shown, but on the samples that both were measured on "
            f"{_listed(ahead)} is ahead ({how} < {LEVEL:g}): measure both on the same samples."
        )
    beaten = [name for name in others if name not in alike]
    unknown = [point.method for point in rivals if point.method not in pairs]
    whom = _listed(beaten, "and") if beaten and unknown else "every other method that may be trusted"
    rest = f" It is not compared with {_listed(unknown)}." if unknown else ""
    if not alike:
        return f"{best.method} is better than {whom} ({how} < {LEVEL:g}).{rest}"
    better = f" It is better than {whom} (p < {LEVEL:g})." if beaten else ""
    return f"{best.method} cannot be told apart from {_listed(alike)} ({how} ≥ {LEVEL:g}).{better}{rest}"


def _leads(method: str, pair: Comparison) -> bool:
    """Whether a method is ahead on the samples that it shares with another one."""
    return pair.difference > 0 if plain(pair.first) == method else pair.difference < 0


def _listed(names: Sequence[str], word: str = "or") -> str:
    """Names in a row, as after "apart from"."""
    return f"{'; '.join(names[:-1])} {word} {names[-1]}" if len(names) > 1 else names[0]


def _outcome(point: Point) -> _Outcome:
    clean = point.clean[0]
    if point.white_box is None:
        return "unknown"
    if point.white_box[0] < FALLS * clean or not clean:
        return "seems" if point.transfer and clean and point.transfer[0] >= FALLS * clean else "falls"
    if point.marks:
        return "flagged"
    return "holds" if point.white_box[0] >= HOLDS * clean else "weakened"


def sentences(table: Table) -> list[tuple[str, list[tuple[str, str]]]]:
    """Per threat and task a headline, then (method, what happened to it), the highest white-box result first."""
    summary = []
    for panel in panels_of(table, mean=True):
        points = sorted(panel.points, key=order_of, reverse=True)
        outcomes = [(point.method, _sentence(panel, point)) for point in points if point.transfer or point.white_box]
        summary.append((_headline(panel, points), outcomes))
    return summary


def _headline(panel: Panel, points: list[Point]) -> str:
    """The highest white-box result without a flag, of methods measured on every dataset."""
    where = f"{panel.threat}, {panel.title}"
    measured = [(point.white_box[0], point) for point in points if point.white_box and point.over == panel.total]
    if not measured:
        return f"{where}: no method has a white-box result on every data set, so none can be called robust."
    trusted = [(percent, point) for percent, point in measured if not point.marks]
    flagged = [point.method for _, point in measured if point.marks]
    left_out = f" Flagged, and so not compared: {', '.join(flagged)}." if flagged else ""
    if not trusted:
        return f"{where}: there are flags on every white-box result, so none is to be trusted."
    percent, best = max(trusted, key=lambda pair: pair[0])
    if percent < FALLS * best.clean[0]:
        several = "every method that was attacked white-box falls" if len(trusted) > 1 else f"{best.method} falls"
        return f"{where}: {several}.{left_out}"
    few = "" if len(measured) > 1 else ", the only one measured"
    return f"{where}: {best.method} has the highest white-box {panel.noun}, {percent:.1f} %{few}.{left_out}"


def _sentence(panel: Panel, point: Point) -> str:
    where = "" if point.over == panel.total else f" (on the {point.over} of {panel.total} data sets with all results)"
    start = f"{point.clean[0]:.1f} % clean{where}, "
    if point.white_box is None:
        transfer = f"{point.transfer[0]:.1f} %" if point.transfer else "unknown"
        return (
            f"{start}{transfer} against transferred attacks; white-box not measured, so this says nothing about an "
            "attacker who knows the defence."
        )
    against = f"{point.transfer[0]:.1f} % against transferred attacks, " if point.transfer else ""
    end = f"{start}{against}{point.white_box[0]:.1f} % against white-box attacks"
    # Rounded first, as the reader would subtract.
    lost = round(point.clean[0], 1) - round(point.white_box[0], 1)
    if point.white_box[0] < FALLS * point.clean[0]:
        return f"{end}: it falls to an attacker who knows it ({lost:.1f} of {point.clean[0]:.1f} points lost)."
    if point.marks:
        notes = ", ".join(f"[{mark}]" for mark in point.marks)
        return f"{end}, with flags {notes}: the true figure may be far lower; do not trust it."
    if point.transfer is None:
        return f"{end}: {lost:.1f} of {point.clean[0]:.1f} points lost."
    if point.white_box[2] < point.transfer[1]:
        drop = round(point.transfer[0], 1) - round(point.white_box[0], 1)
        return (
            f"{end}: {lost:.1f} of {point.clean[0]:.1f} points lost, {drop:.1f} more than against transferred attacks."
        )
    return f"{end}: {lost:.1f} of {point.clean[0]:.1f} points lost, no more than against transferred attacks."
