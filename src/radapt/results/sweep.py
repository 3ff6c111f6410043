"""Curves: results over a setting that was swept, such as alpha or the number of replaced stages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from radapt.errors import ResultsError

from .intervals import Interval
from .labels import ball_text, noun, places_of, title_of
from .plots import Curves, Line
from .records import KINDS, Kind, Result
from .shared import INDEPENDENT, Place, Shared
from .worst_case import WORST_CASE

__all__ = ["Position", "curves"]

_Threat = tuple[str, float, str]
_Cell = tuple[Interval, int]
"""A result, and its number of samples."""


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where the results of a method stand in a diagram; a method may have several positions.

    Args:
        method: the method.
        line: the line that it belongs to; None: it lends its points to all lines (the model before anything was
            replaced).
        x: its place on the axis.
        attack: what its results under attack must have been measured with (``attack``, ``norm``, ``eps`` and any other
            settings of the attack), where the axis is the attack; None: all of them count.
    """

    method: str
    line: str | None
    x: float
    attack: Mapping[str, object] | None = None

    def holds(self, result: Result) -> bool:
        """Whether a result stands here."""
        setting = result.setting
        if setting.method != self.method or self.attack is None or result.kind == "clean":
            return setting.method == self.method
        measured = {**setting.options, "attack": setting.attack, "norm": setting.norm, "eps": setting.eps}
        return all(measured.get(name) == value for name, value in self.attack.items())


@dataclass(frozen=True)
class _Point:
    """A position with the kind and the threat (norm, eps, attack; None for clean) of a result there."""

    position: int
    kind: Kind
    threat: _Threat | None


def curves(
    results: Iterable[Result],
    positions: Sequence[Position],
    *,
    title: str,
    x_label: str,
    ticks: Sequence[str] = (),
    shared: Shared = INDEPENDENT,
) -> list[Curves]:
    """A diagram for each attack and dataset, and before those of several datasets one of their mean.

    Clean, transfer and white-box results of a line are drawn in the same diagram, with their 95 % intervals; where
    transfer results lack white-box partners, the line's name says so. Only the main metric of a task is drawn. Where an
    attack was run from several sources, or with several settings, the lowest result of each dataset counts. The mean
    is over the datasets that have every point of the diagram, so that neighbouring points can be compared.

    Args:
        results: those of a results file; methods without a position are left out.
        positions: where the methods stand.
        title: what was swept.
        x_label: name of what was swept, with its unit.
        ticks: names of the x values 0, 1, 2... where these are not numbers.
        shared: which datasets share images; see :func:`radapt.results.shared.shared_images`.

    Raises:
        ResultsError: none of the results has a position, two methods have the same one, or the results of one method
            are of several models.
    """
    _check(positions)
    methods = {position.method for position in positions}
    chosen = [result for result in results if result.main and result.setting.method in methods]
    if not chosen:
        names = ", ".join(dict.fromkeys(position.method for position in positions)) or "any method"
        raise ResultsError(f"{title}: there are no results of {names}; evaluate them first")
    cells = _lowest(chosen, positions)
    attacked = dict.fromkeys(point.threat for points in cells.values() for point in points if point.threat)
    attacks = {threat[2] for threat in attacked}
    threats: list[_Threat | None] = [*sorted(attacked, key=lambda threat: threat[:2])] or [None]
    tasks = dict.fromkeys(place[0] for place in cells)
    diagrams = []
    for threat in threats:
        for task in tasks:
            parts = {
                place: {point: cell for point, cell in points.items() if point.threat in (threat, None)}
                for place, points in cells.items()
                if place[0] == task and (threat is None or any(point.threat == threat for point in points))
            }
            named = {
                title_of(place, list(cells)): {point: interval for point, (interval, _) in points.items()}
                for place, points in parts.items()
            }
            if len(parts) > 1:
                named = _mean(parts, f", {task}" if len(tasks) > 1 else "", shared) | named
            ball = "" if threat is None else f", {ball_text(*threat[:2])}"
            ball += f", {threat[2]}" if threat and len(attacks) > 1 else ""
            diagrams += [
                Curves(
                    title=f"{title}: {name}{ball}",
                    x_label=x_label,
                    y_label=f"{noun(task)} (%)",
                    lines=tuple(_lines(points, positions)),
                    ticks=tuple(ticks),
                )
                for name, points in named.items()
            ]
    return diagrams


def _check(positions: Sequence[Position]) -> None:
    """Refuse two methods that stand in one place of one line."""
    shared = {position.x: position for position in positions if position.line is None}
    taken: dict[tuple[str | None, float], Position] = {}
    for position in positions:
        lent = None if position.line is None else shared.get(position.x)
        other = lent or taken.setdefault((position.line, position.x), position)
        if other is not position:
            where = f"{position.x:g} of {'all lines' if position.line is None else repr(position.line)}"
            raise ResultsError(f"{position.method} and {other.method} have the same place, {where}; give each its own")


def _lowest(results: Sequence[Result], positions: Sequence[Position]) -> dict[Place, dict[_Point, _Cell]]:
    """For each dataset the result at each point; the last one registered replaces older versions of itself."""
    places = places_of([result.setting for result in results])
    latest: dict[tuple[object, ...], tuple[Place, _Point, _Cell]] = {}
    models: dict[tuple[str, str], tuple[object, ...]] = {}
    for place, result in zip(places, results, strict=True):
        setting = result.setting
        if models.setdefault((setting.method, place[0]), setting.candidate) != setting.candidate:
            raise ResultsError(
                f"the results of {setting.method} are of several models, adapters or weights, so they make no line; "
                "write each run to a results file of its own"
            )
        threat = None if result.kind == "clean" else (setting.norm, setting.eps, setting.attack)
        for number, position in enumerate(positions):
            if position.holds(result):
                point = _Point(number, result.kind, threat)
                key = (place, point, setting.source, repr(sorted(setting.options.items())), setting.seed)
                latest[key] = place, point, ((result.percent, result.low, result.high), result.n)
    lowest: dict[Place, dict[_Point, _Cell]] = {}
    for place, point, cell in latest.values():
        cells = lowest.setdefault(place, {})
        cells[point] = min(cell, cells.get(point, cell))
    threats = {point.threat for cells in lowest.values() for point in cells if point.threat}
    balls = {threat[:2] for threat in threats if threat[2] == WORST_CASE}
    for cells in lowest.values():
        known = list(cells)
        for point in known:  # where one attack is all that is known in a ball, it is the worst case
            if point.kind == "white-box" and point.threat and point.threat[:2] in balls:
                worst = _Point(point.position, point.kind, (*point.threat[:2], WORST_CASE))
                if worst not in known:
                    cells[worst] = min(cells[point], cells.get(worst, cells[point]))
    return lowest


def _mean(
    parts: Mapping[Place, Mapping[_Point, _Cell]], task: str, shared: Shared
) -> dict[str, dict[_Point, Interval]]:
    """The mean over the datasets that have all points; empty where none has."""
    points = dict.fromkeys(point for part in parts.values() for point in part)
    whole = {place: part for place, part in parts.items() if len(part) == len(points)}
    if not whole:
        return {}
    over = f"{len(whole)}" if len(whole) == len(parts) else f"{len(whole)} of {len(parts)}"
    return {
        f"mean over {over} data sets{task}": {
            point: shared.mean([(place, *part[point]) for place, part in whole.items()]) for point in points
        }
    }


def _lines(cells: Mapping[_Point, Interval], positions: Sequence[Position]) -> list[Line]:
    named = dict.fromkeys(position.line for position in positions if position.line is not None)
    names: list[str | None] = [*named] or [None]
    lines = []
    for name in names:
        points: dict[Kind, list[tuple[float, Interval]]] = {kind: [] for kind in KINDS}
        for point, cell in cells.items():
            position = positions[point.position]
            if position.line in (name, None):
                points[point.kind].append((position.x, cell))
        own = any(positions[point.position].line == name for point in cells)
        label = (name or "") + _unpaired([x for x, _ in points["transfer"]], [x for x, _ in points["white-box"]])
        for kind, ends in points.items():
            ordered = sorted(ends)
            if ordered and own:
                xs, intervals = zip(*ordered, strict=True)
                y, low, high = zip(*intervals, strict=True)
                lines.append(Line(name=label, kind=kind, x=xs, y=y, low=low, high=high))
    return lines


def _unpaired(transfer: Sequence[float], white_box: Sequence[float]) -> str:
    """What a line's name says where transfer results have no white-box partner."""
    paired = sum(x in white_box for x in transfer)
    if paired == len(transfer):
        return ""
    return f" (white-box measured at {paired} of {len(transfer)})" if paired else " (white-box not measured)"
