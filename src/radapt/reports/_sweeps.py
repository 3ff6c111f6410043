"""Sweeps: results over whatever number varies in a results file, of an adapter, of an attack or of its ball."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from radapt.results.labels import norm_text

from ._points import Panel, Point, every_panel, narrowed
from .table import Column, Table

__all__ = ["Chart", "Sweep", "sweeps_of"]

_NUMBER = re.compile(r"(?<![\w./-])(\d+(?:\.\d+)?)(?![\w./])")
_FEWEST_NAMED = 3
"""Methods whose names differ in a number: two of them may be two things."""
_SOURCE = "source_model"
"""The setting of a transfer that names the model behind its source."""
_OWN = "transfer from undefended"
_Others = tuple[tuple[str, float | str], ...]
_UNITS = {"cutoff": "cut-off (cycles per pixel)"}


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines of one dataset, or mean, under one threat: by name, (x, point) from left to right."""

    dataset: str
    threat: str
    noun: str
    lines: Mapping[str, tuple[tuple[float, Point], ...]]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What varies, the values it takes, and what was measured at them."""

    name: str
    values: tuple[float, ...]
    charts: tuple[Chart, ...]


class _Place(NamedTuple):
    line: str
    x: float


def sweeps_of(table: Table, adapters: Mapping[str, Mapping[str, float | str]]) -> list[Sweep]:
    """Every number that varies: the radius, settings of attacks, those of adapters, and numbers in names of methods.

    A line is made of methods that differ in one number only. Of adapters, their settings say so where the file notes
    them; else the names of the methods do, where three or more are equal but for one number ("FARE, alpha 0.4").

    Args:
        table: the table of the results.
        adapters: settings of adapters by their fingerprints.
    """
    panels = every_panel(table)
    found = [*_radii(panels), *_options(table)]
    noted = _noted(table, adapters)
    named = _named(table)
    for name, places in [*noted.items(), *((name, each) for name, each in named.items() if name not in noted)]:
        found.append(_sweep(_UNITS.get(name, name), _charts_of_methods(panels, places)))
    return [sweep for sweep in found if len(sweep.values) > 1]


def _sweep(name: str, charts: Sequence[Chart]) -> Sweep:
    shown = [chart for chart in charts if any(len(line) > 1 for line in chart.lines.values())]
    values = {x for chart in shown for line in chart.lines.values() for x, _ in line}
    return Sweep(name=name, values=tuple(sorted(values)), charts=tuple(shown))


def _radii(panels: Sequence[Panel]) -> list[Sweep]:
    found = []
    for norm in dict.fromkeys(panel.ball[0] for panel in panels):
        pixels = norm.lower() == "linf"
        at = [(panel.ball[1] * (255 if pixels else 1), panel) for panel in panels if panel.ball[0] == norm]
        unit = f"{norm_text(norm)} radius" + (" (1/255)" if pixels else "")
        found.append(_sweep(unit, _charts_over(at, f"every {norm_text(norm)} radius")))
    return found


def _options(table: Table) -> list[Sweep]:
    """Settings of an attack of which several values were measured while the others, and the source, stayed."""
    families: dict[tuple[str, str], dict[_Others, dict[float, list[Column]]]] = {}
    for column in table.columns:
        for name, value in column.numbers.items():
            kept: dict[str, float | str] = {**column.numbers, **column.words}
            others = tuple((other, kept[other]) for other in sorted(kept) if other not in (name, _SOURCE))
            family = families.setdefault((name, column.attack), {}).setdefault(others, defaultdict(list))
            family[round(float(value), 9)].append(column)
    found = []
    for (name, attack), by_others in families.items():
        swept = {others: values for others, values in by_others.items() if len(values) > 1}
        for others, values in swept.items():
            differs = [f"{other}={each}" for other, each in others if any((other, each) not in own for own in swept)]
            sources = dict.fromkeys(each for own in values.values() for column in own if (each := _source(column)))
            for source in sources or [""]:
                parts = {
                    x: narrowed(table, [column for column in own if _source(column) in ("", source)].__contains__)
                    for x, own in values.items()
                }
                at = [(x, panel) for x, part in parts.items() for panel in every_panel(part)]
                note = ", ".join([*differs, *[source] * (len(sources) > 1)])
                found.append(_sweep(f"{name} of {attack}" + f" ({note})" * bool(note), _charts_over(at, "")))
    return found


def _source(column: Column) -> str:
    """Where transferred images are from; empty for white-box. The undefended model is each method's own."""
    model = "" if column.name == _OWN else column.words.get(_SOURCE, "")
    return column.name + f" ({model})" * bool(model) if column.kind == "transfer" else ""


def _charts_over(at: Sequence[tuple[float, Panel]], threat: str) -> list[Chart]:
    """Each method a line over panels that stand at the x values."""
    charts: dict[tuple[str, str, str], dict[str, list[tuple[float, Point]]]] = defaultdict(lambda: defaultdict(list))
    for x, panel in sorted(at, key=lambda pair: pair[0]):
        for point in panel.points:
            if point.transfer or point.white_box:
                charts[panel.title, threat or panel.threat, panel.noun][point.method].append((x, point))
    return [_chart(key, lines) for key, lines in charts.items()]


def _charts_of_methods(panels: Sequence[Panel], places: Mapping[str, _Place]) -> list[Chart]:
    """Several methods a line."""
    charts = []
    for panel in panels:
        lines: dict[str, list[tuple[float, Point]]] = defaultdict(list)
        for point in panel.points:
            if point.method in places and (point.transfer or point.white_box):
                lines[places[point.method].line].append((places[point.method].x, point))
        charts.append(_chart((panel.title, panel.threat, panel.noun), lines))
    return charts


def _chart(key: tuple[str, str, str], lines: Mapping[str, Sequence[tuple[float, Point]]]) -> Chart:
    ordered = {name: tuple(sorted(line, key=lambda pair: pair[0])) for name, line in lines.items()}
    return Chart(dataset=key[0], threat=key[1], noun=key[2], lines=ordered)


def _noted(table: Table, adapters: Mapping[str, Mapping[str, float | str]]) -> dict[str, dict[str, _Place]]:
    """By setting, the places of methods whose adapters differ in it alone; where two have one place, none."""
    families: dict[tuple[str, str, object], dict[float, list[str]]] = defaultdict(lambda: defaultdict(list))
    for method, (model, adapter) in table.carriers.items():
        known = adapters.get(adapter, {})
        for name, value in known.items():
            if not isinstance(value, str):
                others = tuple(sorted((other, each) for other, each in known.items() if other != name))
                families[name, model, others][float(value)].append(method)
    found: dict[str, dict[str, _Place]] = defaultdict(dict)
    for (name, _, _), values in families.items():
        if len(values) > 1 and all(len(methods) == 1 for methods in values.values()):
            first = values[min(values)][0]
            stem = _NUMBER.sub("", first).strip(" ,:=()") or first
            line = stem.removesuffix(name).strip(" ,:=()") or first
            found[name] |= {methods[0]: _Place(line, x) for x, methods in values.items()}
    return found


def _named(table: Table) -> dict[str, dict[str, _Place]]:
    """By the word before it, the places of methods whose names differ in one number."""
    families: dict[tuple[str, str], dict[float, str]] = defaultdict(dict)
    for method in table.methods:
        for match in _NUMBER.finditer(method):
            before, after = method[: match.start()], method[match.end() :]
            families[before, after].setdefault(float(match[1]), method)
    found: dict[str, dict[str, _Place]] = defaultdict(dict)
    for (before, after), values in families.items():
        if len(values) >= _FEWEST_NAMED:
            start, _, word = before.rstrip(" =:").rpartition(" ")
            line = (start.strip(" ,:=(") + after.strip(" )")) or word or "all"
            found[word.strip(" ,:=(") or "number"] |= {method: _Place(line, x) for x, method in values.items()}
    return found
