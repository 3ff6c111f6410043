"""The results in sentences: what each method keeps under transfer and under a white-box attack."""

from __future__ import annotations

from ._points import Panel, Point, panels_of
from .table import Table

__all__ = ["FALLS", "sentences"]

FALLS = 0.1
"""A method falls to an attack that leaves less than this share of its clean result."""


def sentences(table: Table) -> list[tuple[str, list[tuple[str, str]]]]:
    """Per threat and task a headline, then (method, what happened to it), the highest white-box result first."""
    summary = []
    for panel in panels_of(table, mean=True):
        points = sorted(panel.points, key=_order, reverse=True)
        outcomes = [(point.method, _sentence(panel, point)) for point in points if point.transfer or point.white_box]
        summary.append((_headline(panel, points), outcomes))
    return summary


def _order(point: Point) -> tuple[bool, bool, float]:
    """What may be trusted first, then what was measured at all, the highest first."""
    return bool(point.white_box) and not point.marks, bool(point.white_box), (point.white_box or (0.0,))[0]


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
        return f"{where}: the sanity checks raise flags on every white-box result, so none is to be trusted."
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
