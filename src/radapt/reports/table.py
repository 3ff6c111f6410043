"""The table: one line per method, one section per dataset, one column per clean, transfer or white-box result."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import or_
from typing import Any, cast

from radapt.errors import ResultsError
from radapt.results import WORST_CASE, Result, Setting
from radapt.results.intervals import Interval
from radapt.results.labels import attack_text, places_of, title_of
from radapt.results.shared import INDEPENDENT, Place, Shared
from radapt.results.worst_case import Attacks, attacks_of, fewer_attacks, in_one_ball

from ._columns import Column, columns_of, identify, ordered, plain, worst_of
from ._remarks import remarks

__all__ = ["Cell", "Column", "Line", "Section", "Table", "plain", "rows", "tabulate"]

_At = tuple[Any, Any, Any]
"""Place, line and threat of a result."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A result in its place.

    Args:
        percent, low, high: the result and its 95 % interval.
        n: number of samples; of all datasets together in a mean.
        partial: what is missing (``37 of 100 samples``, ``3 of 10 datasets``); empty for nothing.
        unpaired: for a transfer result, what is missing of its white-box partner; empty for nothing.
        marks: numbers of the footnotes that belong to it: a result with one is not to be trusted.
        checked: whether the sanity checks ran on it.
    """

    percent: float
    low: float
    high: float
    n: int
    partial: str = ""
    unpaired: str = ""
    marks: tuple[int, ...] = ()
    checked: bool = False

    @property
    def interval(self) -> Interval:
        """(percent, low, high)."""
        return self.percent, self.low, self.high


@dataclass(frozen=True, kw_only=True)
class Line:
    """A method and its cells, one per column; None where nothing was measured."""

    method: str
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True, kw_only=True)
class Section:
    """The lines of one dataset, or of the mean over those of a task (``place`` None), by its main metric or by another;
    ``n`` None: it differs."""

    title: str
    place: Place | None
    task: str
    n: int | None
    lines: tuple[Line, ...]
    main: bool = True

    @property
    def mean(self) -> bool:
        """Whether it is the mean over the datasets of its task."""
        return self.place is None


@dataclass(frozen=True, kw_only=True)
class Table:
    """Sections of equal columns, and numbered footnotes (``notes[0]`` is footnote 1).

    ``carriers`` are model and adapter of the methods, as far as a method has one of each; ``shared`` says which
    datasets share images.
    """

    columns: tuple[Column, ...]
    sections: tuple[Section, ...]
    methods: tuple[str, ...]
    notes: tuple[str, ...]
    remarks: tuple[str, ...]
    carriers: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    shared: Shared = INDEPENDENT


def rows(results: Iterable[Result]) -> list[dict[str, object]]:
    """The results as a flat list of JSON objects."""
    return [result.row() for result in results]


def tabulate(results: Sequence[Result], shared: Shared = INDEPENDENT) -> Table:
    """Arrange results in a table.

    Where several attacks are known in a ball, their worst case (see ``with_worst_cases``) is the robust accuracy, and
    no attack alone is called that. One over fewer white-box attacks than that of another line has a footnote. A
    method's name is split by model, adapter and weights where it has several (see
    :func:`radapt.results.labels.names_of`), and a column by the attack's options and seed where two results would
    otherwise share a cell. The mean over datasets weighs them equally; see
    :meth:`radapt.results.shared.Shared.mean`.

    Args:
        results: what ``with_worst_cases`` gave.
        shared: which datasets share images; see :func:`radapt.results.shared.shared_images`.

    Raises:
        ResultsError: there are no results.
    """
    if not results:
        raise ResultsError("there are no results to report: the results file is empty; fill it with `radapt evaluate`")
    settings = [result.setting for result in results]
    places = places_of(settings)
    lesser = {place for place, result in zip(places, results, strict=True) if not result.main}
    lines, threats = identify(settings, places)
    grid: dict[_At, Result] = {}
    for place, line, threat, result in zip(places, lines, threats, results, strict=True):
        known = grid.get((place, line, threat))
        # The last one registered wins, and of several worst cases the lowest.
        if known is None or result.setting.attack != WORST_CASE or result.percent < known.percent:
            grid[place, line, threat] = result
    order = ordered(threats)
    # Where one attack is all there is, it is the worst case; of several that have none, the lowest.
    for (place, line, threat), result in sorted(grid.items(), key=lambda entry: entry[1].percent):
        if threat[0] == "white-box" and worst_of(threat) in order:
            grid.setdefault((place, line, worst_of(threat)), result)
    fewer = _fewer(grid, order, results)
    columns = _numbered(columns_of(order, {place[0] for place in places}), order, threats, settings)
    names = {line: plain(line) for line in dict.fromkeys(lines)}
    notes: dict[str, int] = {}
    sections: list[Section] = []
    for task in dict.fromkeys(place[0] for place in places):
        measured: dict[Place, Section] = {}
        for place in [place for place in dict.fromkeys(places) if place[0] == task]:
            blocks = {
                name: _pair(
                    columns, [_cell(grid.get(at := (place, line, threat)), notes, fewer.get(at)) for threat in order]
                )
                for line, name in names.items()
            }
            section = _section(plain(title_of(place, places)), place, task, blocks)
            measured[place] = replace(section, main=place not in lesser)
        sections += [_mean(measured, columns, task, places, shared)] if len(measured) > 1 else []
        sections += measured.values()
    carriers = defaultdict(set)
    for line, setting in zip(lines, settings, strict=True):
        carriers[names[line]].add((setting.model, setting.adapter))
    return Table(
        columns=columns,
        sections=tuple(sections),
        methods=tuple(names.values()),
        notes=tuple(notes),
        remarks=tuple(remarks(results, list(grid.values()), columns, order, threats, shared)),
        carriers={name: carrier for name, (carrier, *others) in carriers.items() if not others},
        shared=shared,
    )


def _numbered(
    columns: Sequence[Column], order: Sequence[Any], threats: Sequence[Any], settings: Sequence[Setting]
) -> tuple[Column, ...]:
    """The columns with the settings of their attacks, as far as all results of a column share them."""
    options: dict[Any, list[dict[str, object]]] = defaultdict(list)
    for threat, setting in zip(threats, settings, strict=True):
        options[threat].append({name: each for name, each in setting.options.items() if name != "dtype"})
    return tuple(_with(column, options[threat]) for column, threat in zip(columns, order, strict=True))


def _with(column: Column, options: Sequence[Mapping[str, object]]) -> Column:
    texts = [{name: json.dumps(each, sort_keys=True) for name, each in own.items()} for own in options]
    differs = {name for own in texts for name in own if any(other.get(name) != own[name] for other in texts)}
    if not options or differs - {"source_model"}:  # each may have an undefended model of its own
        return column
    numbers = {name: each for name, each in options[0].items() if type(each) in (int, float)}
    words = {name: each for name, each in texts[0].items() if name not in numbers and name not in differs}
    return replace(column, numbers=cast("dict[str, float]", numbers), words=words)


def _fewer(grid: Mapping[_At, Result], order: Sequence[Any], results: Sequence[Result]) -> dict[_At, str]:
    """Of the robust figures those over fewer white-box attacks than others at their place have, and what they lack."""
    balls = {(group[0].setting.ball, group[0].setting.metric): group for group in in_one_ball(results)}
    found: dict[Any, dict[_At, Attacks]] = defaultdict(dict)
    for at, shown in grid.items():
        place, _, threat = at
        if threat[0] == "white-box" and (threat[4] == WORST_CASE or worst_of(threat) not in order):
            own = [each.setting for each in balls[shown.setting.ball, shown.setting.metric]]
            if shown.setting.attack == WORST_CASE:  # of images that were replaced since, an attack says nothing
                named = cast("Sequence[str]", shown.setting.options["attacks"])
                own = [each for each in own if f"{attack_text(each)} from self" in named]
            found[place, threat[2:4]][at] = attacks_of(own)
    texts = dict[_At, str]()
    for beside in found.values():
        every = reduce(or_, beside.values())
        texts |= {at: text for at, own in beside.items() if (text := fewer_attacks(own, every))}
    return texts


def _cell(result: Result | None, notes: dict[str, int], fewer: str | None) -> Cell | None:
    if result is None:
        return None
    texts = [plain(f"{name}: {value}") for name, value in result.flags.items()] + ([plain(fewer)] if fewer else [])
    return Cell(
        percent=result.percent,
        low=result.low,
        high=result.high,
        n=result.n,
        partial=f"{result.n} of {planned} samples" if result.n < (planned := result.setting.planned) else "",
        marks=tuple(notes.setdefault(text, len(notes) + 1) for text in texts),
        checked=result.checked,
    )


def _pair(columns: Sequence[Column], cells: Sequence[Cell | None]) -> tuple[Cell | None, ...]:
    """Mark the transfer results of one line that have no white-box result in the same ball."""
    pairs = list(zip(columns, cells, strict=True))
    measured = {column.threat for column, cell in pairs if cell and column.kind == "white-box"}
    return tuple(
        replace(cell, unpaired="white-box not measured")
        if cell and column.kind == "transfer" and column.threat not in measured
        else cell
        for column, cell in pairs
    )


def _section(title: str, place: Place | None, task: str, blocks: Mapping[str, tuple[Cell | None, ...]]) -> Section:
    lines = tuple(Line(method=name, cells=cells) for name, cells in blocks.items() if any(cells))
    sizes = {cell.n for line in lines for cell in line.cells if cell}
    return Section(title=title, place=place, task=task, n=sizes.pop() if len(sizes) == 1 else None, lines=lines)


def _mean(
    sections: Mapping[Place, Section], columns: Sequence[Column], task: str, places: Sequence[Any], shared: Shared
) -> Section:
    blocks: dict[str, tuple[Cell | None, ...]] = {}
    for name in dict.fromkeys(line.method for section in sections.values() for line in section.lines):
        lines = {at: line for at, section in sections.items() for line in section.lines if line.method == name}
        cells = [
            _mean_cell({at: cell for at, line in lines.items() if (cell := line.cells[index])}, len(sections), shared)
            for index in range(len(columns))
        ]
        blocks[name] = _pair(columns, cells)
    tasks = {place[0] for place in places}
    title = f"mean over {len(sections)} data sets" + (f", {plain(task)}" if len(tasks) > 1 else "")
    return _section(title, None, task, blocks)


def _mean_cell(of: Mapping[Place, Cell], total: int, shared: Shared) -> Cell | None:
    cells = list(of.values())
    if not cells:
        return None
    percent, low, high = shared.mean([(place, cell.interval, cell.n) for place, cell in of.items()])
    missing = [f"{len(cells)} of {total} data sets"] if len(cells) < total else []
    missing += ["not all samples"] if any(cell.partial for cell in cells) else []
    marks = tuple(sorted({mark for cell in cells for mark in cell.marks}))
    n = sum(cell.n for cell in cells)
    checked = all(cell.checked for cell in cells)
    return Cell(percent=percent, low=low, high=high, n=n, partial=", ".join(missing), marks=marks, checked=checked)
