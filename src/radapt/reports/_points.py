"""Points: a method's clean result beside its transfer and white-box results, over the same datasets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from radapt.results.intervals import Interval
from radapt.results.labels import noun
from radapt.results.records import KINDS, Kind

from .table import Cell, Column, Line, Section, Table

__all__ = ["Panel", "Point", "every_panel", "narrowed", "panels_of"]


@dataclass(frozen=True, kw_only=True)
class Point:
    """(percent, low, high) of a method, each the mean over the same ``over`` of ``total`` datasets; ``index`` gives its
    colour.

    ``marks`` are the footnotes of its clean and white-box results: with any, the white-box one is not to be trusted.
    """

    method: str
    index: int
    clean: Interval
    transfer: Interval | None
    white_box: Interval | None
    over: int
    total: int
    marks: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The points of one dataset, or of the mean over ``total`` datasets, under one threat in a ball (norm, radius)."""

    title: str
    threat: str
    ball: tuple[str, float]
    task: str
    noun: str
    total: int
    points: tuple[Point, ...]


def panels_of(table: Table, *, mean: bool) -> list[Panel]:
    """One panel per threat and task (``mean``; a lone dataset is its own mean) or per threat and dataset.

    Where several attacks or sources share a ball, the lowest result of each dataset counts. Where a method's
    results cover different datasets, only those that all of them cover count, so that differences are meaningful.
    """
    panels = []
    threats = {column.threat: column.group.split(",")[0] for column in table.columns if column.kind != "clean"}
    for threat, text in threats.items():
        for task in dict.fromkeys(section.task for section in table.sections):
            sections = [part for part in table.sections if part.task == task and not part.mean and part.main]
            if not sections:
                continue
            titles = [section.title for section in table.sections if section.task == task]
            for title, chosen in [(titles[0], sections)] if mean else [(part.title, [part]) for part in sections]:
                points = tuple(filter(None, (_point(table, name, threat, chosen) for name in table.methods)))
                if any(point.transfer or point.white_box for point in points):
                    size = len(chosen)
                    panels.append(
                        Panel(
                            title=title,
                            threat=text,
                            ball=threat,
                            task=task,
                            noun=noun(task),
                            total=size,
                            points=points,
                        )
                    )
    return panels


def every_panel(table: Table) -> list[Panel]:
    """The panels of the means, and after them, where there are several, those of the datasets."""
    means = panels_of(table, mean=True)
    return [*means, *(panels_of(table, mean=False) if any(panel.total > 1 for panel in means) else [])]


def narrowed(table: Table, keep: Callable[[Column], bool]) -> Table:
    """The table with its clean columns and those of the others that are to be kept."""
    kept = [at for at, column in enumerate(table.columns) if column.kind == "clean" or keep(column)]
    sections = tuple(
        replace(
            section,
            lines=tuple(replace(line, cells=tuple(line.cells[at] for at in kept)) for line in section.lines),
        )
        for section in table.sections
    )
    return replace(table, columns=tuple(table.columns[at] for at in kept), sections=sections)


def _point(table: Table, name: str, threat: tuple[str, float], sections: Sequence[Section]) -> Point | None:
    lines = [line for section in sections for line in section.lines if line.method == name]
    places = [part.place for part in sections for line in part.lines if line.method == name and part.place is not None]
    cells = {kind: [_lowest(table, line, kind, threat) for line in lines] for kind in KINDS}
    kinds = [kind for kind, measured in cells.items() if any(measured)]
    common = [at for at in range(len(lines)) if all(cells[kind][at] for kind in kinds)]
    if "clean" not in kinds or not common:
        return None
    means = {
        kind: table.shared.mean([(places[at], cell.interval, cell.n) for at in common if (cell := cells[kind][at])])
        for kind in kinds
    }
    # The checks of the model itself are on the clean result.
    judged = [cells[kind][at] for kind in ("clean", "white-box") for at in common]
    return Point(
        method=name,
        index=table.methods.index(name),
        clean=means["clean"],
        transfer=means.get("transfer"),
        white_box=means.get("white-box"),
        over=len(common),
        total=len(sections),
        marks=tuple(sorted({mark for cell in judged if cell for mark in cell.marks})),
    )


def _lowest(table: Table, line: Line, kind: Kind, threat: tuple[str, float]) -> Cell | None:
    cells = [
        cell
        for column, cell in zip(table.columns, line.cells, strict=True)
        if cell and column.kind == kind and (kind == "clean" or column.threat == threat)
    ]
    # Of equal ones that with flags: the worst case has those of every attack in it.
    return min(cells, key=lambda cell: (cell.percent, not cell.marks), default=None)
