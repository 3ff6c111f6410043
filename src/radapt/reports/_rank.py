"""The order of methods: what is left against an attacker who knows them, the most first."""

from __future__ import annotations

from dataclasses import replace

from ._points import Point, panels_of
from .table import Table

__all__ = ["order_of", "ranked"]


def order_of(point: Point) -> tuple[bool, bool, bool, float]:
    """What may be trusted first, then what was measured at all, and on all datasets, the highest worst case first."""
    measured = bool(point.white_box)
    return measured and not point.marks, measured, point.over == point.total, (point.white_box or (0.0,))[0]


def ranked(table: Table) -> Table:
    """The table with its methods by their white-box result, the highest first.

    What counts is the mean over the datasets of the first task in the smallest ball, or that in the next one where a
    method has none; flagged results come after those that are not, and methods without any keep their order at the end.
    """
    best: dict[str, tuple[bool, bool, bool, float]] = {}
    for panel in panels_of(table, mean=True):
        for point in panel.points:
            if point.white_box:
                best.setdefault(point.method, order_of(point))
    methods = sorted(table.methods, key=lambda name: best.get(name, (False, False, False, 0.0)), reverse=True)
    place = {name: at for at, name in enumerate(methods)}
    sections = tuple(
        replace(section, lines=tuple(sorted(section.lines, key=lambda line: place[line.method])))
        for section in table.sections
    )
    return replace(table, methods=tuple(methods), sections=sections)
