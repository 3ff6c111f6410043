"""Curves of a results file: figures over a setting that was swept, such as alpha or the number of replaced stages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from radapt._interval import mean_interval
from radapt.errors import ResultsError
from radapt.plots import Curves, Line
from radapt.report._tasks import noun, places_of, title_of
from radapt.report.table import ball_text
from radapt.results import Figure

__all__ = ["curves"]

_Place = tuple[str, str, str]
_Threat = tuple[str, float, str]
_Interval = tuple[float, float, float]
_KINDS = ("clean", "transfer", "white-box")


@dataclass(frozen=True)
class _Spot:
    """Where a figure stands: its method, kind and threat (norm, eps, attack; None for clean)."""

    method: str
    kind: str
    threat: _Threat | None


def curves(
    figures: Iterable[Figure],
    *,
    where: Mapping[str, tuple[str, float]],
    title: str,
    x_label: str,
    ticks: Sequence[str] = (),
) -> list[Curves]:
    """A diagram for each attack and data set, and before those of several data sets one of their mean.

    Clean, transfer and white-box figures of a line stand in the same diagram, with their 95 % intervals; the name of a
    line whose transfer figures lack white-box partners says so. Only the main metric of a task is drawn. Where an
    attack was run from several sources, or with several settings, the lowest figure of each data set counts. The mean
    is over the data sets that have every figure of the diagram, so that neighbouring points can be compared.

    Args:
        figures: the figures of a results file; those of other methods are left out.
        where: for each method, the line it belongs to and its place on it; a line named "" lends its points to
            all others (the model before anything was replaced).
        title: what was swept.
        x_label: name of what was swept, with its unit.
        ticks: names of the places 0, 1, 2... where these are no numbers.

    Raises:
        ResultsError: none of the figures is of these methods, two methods have the same place, or the figures of one
            method are of several models.
    """
    _check(where)
    chosen = [figure for figure in figures if figure.main and figure.setting.method in where]
    if not chosen:
        raise ResultsError(f"{title}: there are no figures of {', '.join(where) or 'any method'}; evaluate them first")
    cells = _lowest(chosen)
    attacked = dict.fromkeys(spot.threat for found in cells.values() for spot in found if spot.threat)
    attacks = {threat[2] for threat in attacked}
    threats: list[_Threat | None] = [*sorted(attacked, key=lambda threat: threat[:2])] or [None]
    tasks = dict.fromkeys(place[0] for place in cells)
    result = []
    for threat in threats:
        for task in tasks:
            parts = {
                place: {spot: cell for spot, cell in found.items() if spot.threat in (threat, None)}
                for place, found in cells.items()
                if place[0] == task and (threat is None or any(spot.threat == threat for spot in found))
            }
            named = {title_of(place, list(cells)): found for place, found in parts.items()}
            if len(parts) > 1:
                named = _mean(list(parts.values()), f", {task}" if len(tasks) > 1 else "") | named
            ball = "" if threat is None else f", {ball_text(*threat[:2])}"
            ball += f", {threat[2]}" if threat and len(attacks) > 1 else ""
            result += [
                Curves(
                    title=f"{title}: {name}{ball}",
                    x_label=x_label,
                    y_label=f"{noun(task)} (%)",
                    lines=tuple(_lines(found, where)),
                    ticks=tuple(ticks),
                )
                for name, found in named.items()
            ]
    return result


def _check(where: Mapping[str, tuple[str, float]]) -> None:
    taken: dict[tuple[str, float], str] = {}
    lent = {x: method for method, (line, x) in where.items() if not line}
    for method, (line, x) in where.items():
        other = taken.setdefault((line, x), method if not line else lent.get(x, method))
        if other != method:
            raise ResultsError(f"{method} and {other} have the same place, {x:g} of {line!r}; give each its own")


def _lowest(figures: Sequence[Figure]) -> dict[_Place, dict[_Spot, _Interval]]:
    """For each data set the figure at each spot; the last one registered replaces older versions of itself."""
    places = places_of([figure.setting for figure in figures])
    latest: dict[tuple[object, ...], tuple[_Place, _Spot, _Interval]] = {}
    models: dict[tuple[str, str], tuple[str, str]] = {}
    for place, figure in zip(places, figures, strict=True):
        setting = figure.setting
        model = (setting.model, setting.adapter)
        if models.setdefault((setting.method, place[0]), model) != model:
            raise ResultsError(
                f"the figures of {setting.method} are of several models or adapters, so they make no line; "
                "write each run to a results file of its own"
            )
        threat = None if figure.kind == "clean" else (setting.norm, setting.eps, setting.attack)
        spot = _Spot(setting.method, figure.kind, threat)
        key = (place, spot, setting.source, repr(sorted(setting.options.items())), setting.seed)
        latest[key] = place, spot, (figure.percent, figure.low, figure.high)
    found: dict[_Place, dict[_Spot, _Interval]] = {}
    for place, spot, cell in latest.values():
        here = found.setdefault(place, {})
        here[spot] = min(cell, here.get(spot, cell))
    return found


def _mean(parts: Sequence[Mapping[_Spot, _Interval]], task: str) -> dict[str, dict[_Spot, _Interval]]:
    """The mean over the data sets that have all figures; empty where none has."""
    spots = dict.fromkeys(spot for part in parts for spot in part)
    whole = [part for part in parts if len(part) == len(spots)]
    if not whole:
        return {}
    over = f"{len(whole)}" if len(whole) == len(parts) else f"{len(whole)} of {len(parts)}"
    return {
        f"mean over {over} data sets{task}": {spot: mean_interval([part[spot] for part in whole]) for spot in spots}
    }


def _lines(found: Mapping[_Spot, _Interval], where: Mapping[str, tuple[str, float]]) -> list[Line]:
    names = list(dict.fromkeys(name for name, _ in where.values() if name)) or [""]
    result = []
    for name in names:
        points: dict[str, list[tuple[float, _Interval]]] = {kind: [] for kind in _KINDS}
        for spot, cell in found.items():
            line, x = where[spot.method]
            if line in (name, ""):
                points[spot.kind].append((x, cell))
        own = any(where[spot.method][0] == name for spot in found)
        label = name + _unpaired([x for x, _ in points["transfer"]], [x for x, _ in points["white-box"]])
        for kind, ends in points.items():
            ordered = sorted(ends)
            if ordered and own:
                xs, cells = zip(*ordered, strict=True)
                y, low, high = zip(*cells, strict=True)
                result.append(Line(name=label, kind=kind, x=xs, y=y, low=low, high=high))
    return result


def _unpaired(transfer: Sequence[float], white_box: Sequence[float]) -> str:
    """What a line's name says where transfer figures have no white-box partner."""
    paired = sum(x in white_box for x in transfer)
    if paired == len(transfer):
        return ""
    return f" (white-box measured at {paired} of {len(transfer)})" if paired else " (white-box not measured)"
