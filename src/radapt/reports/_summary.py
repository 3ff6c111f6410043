"""The results in sentences: what each method keeps under transfer and under a white-box attack."""

from __future__ import annotations

from ._points import Panel, Point, panels_of
from .table import Table

__all__ = ["FALLS", "sentences"]

FALLS = 0.1
"""A method falls to an attack that leaves less than this share of its clean result."""


def sentences(table: Table) -> list[tuple[str, list[tuple[str, str]]]]:
    """Per threat and task a headline, then (method, what happened to it), the largest loss first."""
    summary = []
    for panel in panels_of(table, mean=True):
        points = sorted(panel.points, key=_loss, reverse=True)
        outcomes = [(point.method, _sentence(panel, point)) for point in points if point.transfer or point.white_box]
        summary.append((_headline(panel, points), outcomes))
    return summary


def _loss(point: Point) -> float:
    return point.transfer[0] - point.white_box[0] if point.transfer and point.white_box else -1000.0


def _headline(panel: Panel, points: list[Point]) -> str:
    """The highest white-box result, of methods measured on every dataset."""
    measured = [(point.white_box[0], point) for point in points if point.white_box and point.over == panel.total]
    where = f"{panel.threat}, {panel.title}"
    if not measured:
        return f"{where}: no method has a white-box result on every data set, so none can be called robust."
    percent, best = max(measured, key=lambda pair: pair[0])
    if percent < FALLS * best.clean[0]:
        return f"{where}: every method that was attacked white-box falls."
    few = "" if len(measured) > 1 else ", the only one measured"
    return f"{where}: {best.method} has the highest white-box {panel.noun}, {percent:.1f} %{few}."


def _sentence(panel: Panel, point: Point) -> str:
    where = "" if point.over == panel.total else f" (on the {point.over} of {panel.total} data sets with all results)"
    start = f"{point.clean[0]:.1f} % clean{where}, "
    if point.white_box is None:
        transfer = f"{point.transfer[0]:.1f} %" if point.transfer else "unknown"
        return (
            f"{start}{transfer} against transferred attacks; white-box not measured, so this says nothing about an "
            "attacker who knows the defence."
        )
    falls = point.white_box[0] < FALLS * point.clean[0]
    if point.transfer is None:
        end = f"{point.white_box[0]:.1f} % against a white-box attack"
        return f"{start}{end}{': it falls' if falls else ''}."
    drop = round(point.transfer[0], 1) - round(point.white_box[0], 1)  # as the reader would subtract
    end = (
        f"{point.transfer[0]:.1f} % against transferred attacks, {point.white_box[0]:.1f} % against a white-box attack"
    )
    if point.white_box[1] > point.transfer[2]:
        return (
            f"{start}{end}: the white-box attack is weaker than the transferred one, a sign of masked gradients or of "
            "an attack that has not converged; do not trust the white-box result."
        )
    if falls:
        return f"{start}{end}: it falls to an attacker who knows it ({drop:.1f} points lost)."
    if point.white_box[2] < point.transfer[1]:
        return f"{start}{end}: {drop:.1f} points less."
    return f"{start}{end}: no difference beyond the intervals."
