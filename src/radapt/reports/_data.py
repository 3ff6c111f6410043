"""What the page's controls choose from: numbers that are computed here, and no samples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from radapt.results import WORST_CASE, Comparison
from radapt.results.labels import ball_text

from ._points import Point, every_panel, narrowed, panels_of
from ._sweeps import Sweep
from .table import Table, plain

__all__ = ["data_of"]

_MOST_METHODS = 40
"""With more methods, each is shown beside the first alone: all pairs would be too many to carry."""


def data_of(table: Table, sweeps: Sequence[Sweep], tests: Sequence[Comparison]) -> dict[str, Any]:
    """Plain values for the page.

    Args:
        table: the results, in the order of the page.
        sweeps: what varies.
        tests: comparisons of methods.
    """
    place = {name: at for at, name in enumerate(table.methods)}
    return {
        "methods": list(table.methods),
        "views": _views(table, place),
        "sweeps": [_sweep(each) for each in sweeps],
        "tests": _tests(tests, place, _flagged(table, place)),
    }


def _views(table: Table, place: dict[str, int]) -> list[dict[str, Any]]:
    """The trade-off of every dataset and mean under every threat: of all attacks together, and of each alone."""
    attacks = dict.fromkeys(column.attack for column in table.columns if column.kind != "clean")
    attacks.pop(WORST_CASE, None)
    chosen = [("", table)]
    if len(attacks) > 1:
        chosen += [(attack, narrowed(table, lambda column, name=attack: column.attack == name)) for attack in attacks]  # type: ignore[misc]
    return [
        {
            "dataset": panel.title,
            "threat": panel.threat,
            "attack": attack,
            "noun": panel.noun,
            "total": panel.total,
            "points": [
                [place[point.method], *_values(point), point.over, list(point.marks)]
                for point in panel.points
                if point.transfer or point.white_box
            ],
        }
        for attack, own in chosen
        for panel in every_panel(own)
    ]


def _values(point: Point) -> list[list[float] | None]:
    """Rounded here: JavaScript rounds a half up, and the page's tables to the even digit."""
    ends = (point.clean, point.transfer, point.white_box)
    return [None if end is None else [round(value, 1) for value in end] for end in ends]


def _sweep(sweep: Sweep) -> dict[str, Any]:
    return {
        "name": plain(sweep.name),
        "values": [round(value, 6) for value in sweep.values],
        "charts": [
            {
                "dataset": chart.dataset,
                "threat": plain(chart.threat),
                "noun": chart.noun,
                "lines": [
                    [plain(name), [[round(x, 6), *_values(point), list(point.marks)] for x, point in line]]
                    for name, line in chart.lines.items()
                ],
            }
            for chart in sweep.charts
        ],
    }


def _flagged(table: Table, place: dict[str, int]) -> dict[tuple[str, float], list[int]]:
    """Methods with flags on any dataset, in each ball."""
    flagged: dict[tuple[str, float], set[int]] = defaultdict(set)
    for panel in panels_of(table, mean=True):
        flagged[panel.ball] |= {place[point.method] for point in panel.points if point.marks}
    return {ball: sorted(methods) for ball, methods in flagged.items()}


def _tests(
    tests: Sequence[Comparison], place: dict[str, int], flagged: dict[tuple[str, float], list[int]]
) -> list[dict[str, Any]]:
    """One entry per threat and datasets, with its pairs as rows."""
    families: dict[tuple[Any, ...], list[Any]] = {}
    for each in tests:
        names = plain(each.first), plain(each.second)
        sides = [place.get(name, -1) for name in names]
        if min(sides) == 0 or (min(sides) > 0 and len(place) <= _MOST_METHODS):
            over = each.datasets if len(each.datasets) == 1 else ()
            family = families.setdefault((each.task, over, each.kind, each.norm, each.eps), [])
            numbers = [round(value, 1) for value in (each.difference, each.low, each.high)]
            p = [float(f"{value:.3g}") for value in (each.p, each.p_adjusted)]
            family.append([*sides, each.n, each.only_first, each.only_second, *numbers, *p])
    tasks = {task for task, *_ in families}
    found = []
    for (task, over, kind, norm, eps), pairs in families.items():
        dataset = (
            over[0][0] + (f" ({over[0][1]})" if over[0][1] != "test" else "") if over else "all data sets together"
        )
        threat = "no attack" if kind == "clean" else f"{ball_text(norm, eps)}, white-box, worst case"
        found.append(
            {
                "name": plain(f"{dataset}, {task}" if len(tasks) > 1 else dataset),
                "threat": plain(threat),
                "kind": kind,
                "flagged": flagged.get((norm, eps), []),
                "pairs": pairs,
            }
        )
    return found
