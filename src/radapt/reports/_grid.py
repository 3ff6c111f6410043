"""Heat maps of method by dataset, as tables whose cells are coloured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import matplotlib as mpl
from matplotlib.colors import to_hex

from radapt.results.labels import noun

from ._style import luminance
from .table import Cell, Table

__all__ = ["Grid", "grids_of", "shades"]

_SHADES = 20


@dataclass(frozen=True, kw_only=True)
class Grid:
    """One column of the table over all datasets: ``rows`` are methods with a cell and its shade (0 to 20) for each."""

    title: str
    robust: bool
    datasets: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[Cell, int] | None, ...]], ...]


@cache
def shades() -> list[tuple[str, str]]:
    """Colour and ink of each shade, from none to all; black or white, whichever stands out more."""
    colours = [mpl.colormaps["viridis"](at / _SHADES)[:3] for at in range(_SHADES + 1)]
    return [(to_hex(colour), "#fff" if luminance(colour) < 0.179 else "#000") for colour in colours]


def grids_of(table: Table) -> list[Grid]:
    """A heat map for every column of the table, where there are several datasets.

    Accuracies are coloured from 0 to 100 %, the scores of a dataset by another metric from 0 to their largest.
    """
    sections = [section for section in table.sections if not section.mean and section.main]
    if len(sections) < 2:
        return []
    tops = [
        100.0
        if noun(section.task) == "accuracy"
        else max([cell.percent for line in section.lines for cell in line.cells if cell] + [1.0])
        for section in sections
    ]
    lines = [{line.method: line.cells for line in section.lines} for section in sections]
    grids = []
    for at, column in enumerate(table.columns):
        rows = []
        for method in table.methods:
            cells = [own[method][at] if method in own else None for own in lines]
            if any(cells):
                shades = [
                    (cell, round(_SHADES * min(1.0, max(0.0, cell.percent / top)))) if cell else None
                    for cell, top in zip(cells, tops, strict=True)
                ]
                rows.append((method, tuple(shades)))
        titles = tuple(section.title for section in sections)
        grids.append(Grid(title=column.title, robust=column.robust, datasets=titles, rows=tuple(rows)))
    return grids
