"""The report as one page that needs nothing else: verdict, plots, tables, tests, example images, settings and flags."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from radapt._version import __version__
from radapt.results import Comparison, Result, Results, Run, command_line, paired_tests, with_worst_cases
from radapt.results.labels import eps_text
from radapt.results.shared import Shared, shared_images

from ._data import data_of
from ._gallery import Gallery, gallery_of
from ._grid import grids_of, shades
from ._page import render
from ._rank import ranked
from ._style import marker_of
from ._summary import LEVEL, verdicts
from ._sweeps import sweeps_of
from .table import Table, plain, tabulate

__all__ = ["Content", "content_of", "flagged", "page", "settings"]


@dataclass(frozen=True, kw_only=True)
class Content:
    """What the page needs of a results file, read at one time."""

    file: str
    results: Sequence[Result]
    tests: Sequence[Comparison]
    gallery: Gallery
    adapters: Mapping[str, Mapping[str, float | str]]
    runs: Sequence[Run]
    shared: Shared


def content_of(store: Results, *, file: str | None = None, max_examples: int = 96) -> Content:
    """Read what the page needs.

    Args:
        store: an open results file.
        file: what the page calls it; None: by its own name.
        max_examples: at most so many example images, taken in turn from every dataset and every setting that has some;
            fewer, where they would make the page large.

    Raises:
        ResultsError: the file is damaged, or an example is not an image.
    """
    with store.snapshot():
        every = store.all(checks=True)
        results, shared = with_worst_cases(store, every), shared_images(store, every)
        return Content(
            file=store.path.name if file is None else file,
            results=results,
            tests=paired_tests(store, every, shared=shared),
            gallery=gallery_of(store, results, max_examples),
            adapters=store.notes.adapters(),
            runs=store.notes.runs(),
            shared=shared,
        )


def page(content: Content | Results, *, title: str = "Robustness report") -> str:
    """The report as HTML.

    Args:
        content: what was read of a results file, or an open one.
        title: heading of the page.

    Raises:
        ResultsError: there are no results, or an example is not an image.
    """
    content = content_of(content) if isinstance(content, Results) else content
    results = content.results
    table = ranked(tabulate(results, content.shared))
    shared, varying = settings(results)
    sweeps = sweeps_of(table, content.adapters)
    colours = [marker_of(index)[0] for index in range(len(table.methods))]
    return render(
        "page.html",
        title=plain(title),
        table=table,
        verdicts=verdicts(table, content.tests),
        data={**data_of(table, sweeps, content.tests), "level": LEVEL},
        colours=list(dict.fromkeys(colours)),
        grids=grids_of(table),
        shades=shades(),
        sweeps=sweeps,
        flagged=flagged(table),
        unchecked=sum(not result.checked for result in results),
        total=len(results),
        gallery=content.gallery,
        shared=shared,
        varying=varying,
        runs=[_shown(run) for run in content.runs],
        file=plain(content.file),
        command=plain(command_line()),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
    )


def _shown(run: Run) -> Run:
    texts = {name: plain(getattr(run, name)) for name in ("date", "command", "machine", "device")}
    texts["date"] = re.sub(r"T(\d\d:\d\d)(:\d\d)?\+00:00$", r" \1 UTC", texts["date"])
    return Run(**texts, versions={plain(name): plain(version) for name, version in run.versions.items()})


def flagged(table: Table) -> list[tuple[int, str, list[str]]]:
    """(footnote number, flag, the results it belongs to)."""
    places: dict[int, list[str]] = defaultdict(list)
    for section in table.sections:
        for line in section.lines:
            for column, cell in zip(table.columns, line.cells, strict=True):
                if cell and not section.mean:
                    kind = column.name if column.kind == "transfer" else column.kind
                    for mark in cell.marks:
                        places[mark].append(f"{line.method}, {section.title}, {kind}")
    return [(number, note, list(dict.fromkeys(places[number]))) for number, note in enumerate(table.notes, 1)]


def settings(results: Sequence[Result]) -> tuple[dict[str, str], list[dict[str, str]]]:
    """What is the same for every result, and what differs."""
    rows = []
    for result in results:
        row = result.row()
        row["planned n"] = result.setting.planned
        row |= {
            "eps": eps_text(result.setting.eps) if result.setting.source else "",
            "seconds": f"{result.seconds:.1f}",
        }
        row |= {name: f"{row[name]:.2f}" for name in ("percent", "low", "high")}
        rows.append({name: plain(value) for name, value in row.items()})
    common = {name: rows[0][name] for name in rows[0] if len({row[name] for row in rows}) == 1}
    shared = {name: value for name, value in common.items() if name not in ("method", "dataset", "percent", "main")}
    return shared, [{name: value for name, value in row.items() if name not in shared} for row in rows]
