"""The report as one page that needs nothing else: figures, tables, example images, settings and flags."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, UnidentifiedImageError

from radapt.errors import ResultsError
from radapt.results import WORST_CASE, Example, Result, Results, with_worst_cases
from radapt.results.labels import ball_text, eps_text

from ._page import address, inline, render
from ._points import Panel, panels_of
from ._style import SURFACE, marker_of, style
from ._summary import sentences
from .table import plain, tabulate
from .tradeoff import draw_panel

__all__ = ["flagged", "page", "panel_plot", "perturbation", "settings"]


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """An example with its three images as ``data:`` addresses."""

    title: str
    truth: str
    before: str
    after: str
    clean: str
    adversarial: str
    difference: str


def page(
    store: Results,
    results: Sequence[Result] | None = None,
    *,
    title: str = "Robustness report",
    max_examples: int = 24,
) -> str:
    """The report as HTML.

    Args:
        store: an open results file.
        results: what it holds, worst cases included; None: it is read here.
        title: heading of the page.
        max_examples: at most so many example images, taken in turn from every setting that has some.

    Raises:
        ResultsError: there are no results, or an example is not an image.
    """
    results = with_worst_cases(store) if results is None else results
    table = tabulate(results)
    shared, varying = settings(results)
    means = panels_of(table, mean=True)
    parts = panels_of(table, mean=False) if any(panel.total > 1 for panel in means) else []
    methods = [(name, *marker_of(index)) for index, name in enumerate(table.methods)]
    return render(
        "page.html",
        title=plain(title),
        table=table,
        sentences=sentences(table),
        plots=[panel_plot(panel, (5.8, 4.4), labels=True, anchor=f"mean{at}") for at, panel in enumerate(means)],
        small=[panel_plot(panel, (3.9, 3.2), labels=False, anchor=f"part{at}") for at, panel in enumerate(parts)],
        methods=methods,
        flagged=flagged(results, table.notes),
        unchecked=sum(not result.checked for result in results),
        total=len(results),
        examples=_examples(store, results, max_examples),
        shared=shared,
        varying=varying,
    )


def perturbation(clean: bytes, adversarial: bytes, *, gain: float = 10.0) -> bytes:
    """The perturbation as a PNG image, ``0.5 + gain (adversarial - clean)``, clipped to [0, 1].

    Args:
        clean, adversarial: PNG bytes of two images of one size.
        gain: how much the difference is enlarged.

    Raises:
        ResultsError: not PNG, or of different sizes.
    """
    before, after = _pixels(clean), _pixels(adversarial)
    if before.shape != after.shape:
        raise ResultsError(f"an example has images of different sizes: {before.shape[:2]} and {after.shape[:2]}")
    values = np.clip(0.5 + gain * (after - before), 0, 1)
    stream = io.BytesIO()
    Image.fromarray(np.round(255 * values).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def _pixels(content: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            return np.asarray(image.convert("RGB"), np.float64) / 255
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ResultsError(f"an example in the results file is not a PNG image: {error}") from error


def panel_plot(panel: Panel, size: tuple[float, float], *, labels: bool, anchor: str) -> Markup:
    """A panel as inline SVG of a size in inches; ``anchor`` is what its addresses begin with."""
    with style():
        figure = Figure(figsize=size, dpi=100, facecolor=SURFACE)
        FigureCanvasAgg(figure)
        figure.subplots_adjust(
            left=0.62 / size[0], right=1 - 0.1 / size[0], bottom=0.5 / size[1], top=1 - 0.3 / size[1]
        )
        draw_panel(figure.add_subplot(), panel, labels=labels)
    name = f"Trade-off of {panel.title}, {panel.threat}; the numbers are in the table below"
    return inline(figure, name, anchor=anchor)


def _examples(store: Results, results: Sequence[Result], limit: int) -> list[_Shown]:
    """In turn from every setting, so that a limit leaves some of each."""
    measured = [result for result in results if result.main and result.setting.attack != WORST_CASE]
    queues = [(result, store.examples(result.setting)) for result in measured]
    longest = max(len(queue) for _, queue in queues)
    turns = [(result, queue[at]) for at in range(longest) for result, queue in queues if at < len(queue)][:limit]
    place = {id(result): at for at, (result, _) in enumerate(queues)}
    return [_shown(result, example) for result, example in sorted(turns, key=lambda turn: place[id(turn[0])])]


def _shown(result: Result, example: Example) -> _Shown:
    setting = result.setting
    kind = "white-box" if result.kind == "white-box" else f"transfer from {setting.source}"
    title = f"{setting.method}, {setting.dataset}, {kind}, {ball_text(setting.norm, setting.eps)}"
    return _Shown(
        title=plain(title if setting.source else f"{setting.method}, {setting.dataset}"),
        truth=plain(example.truth),
        before=plain(example.before),
        after=plain(example.after),
        clean=address(example.clean),
        adversarial=address(example.adversarial),
        difference=address(perturbation(example.clean, example.adversarial)),
    )


def flagged(results: Sequence[Result], notes: Sequence[str]) -> list[tuple[int, str, list[str]]]:
    """(footnote number, flag, the results it belongs to)."""
    places: dict[str, list[str]] = {note: [] for note in notes}
    for result in results:
        setting = result.setting
        kind = result.kind if result.kind != "transfer" else f"transfer from {setting.source}"
        for name, value in result.flags.items():
            note = plain(f"{name}: {value}")
            if note in places:  # superseded results have no place in the table
                places[note].append(plain(f"{setting.method}, {setting.dataset}, {kind}"))
    return [(number, note, places[note]) for number, note in enumerate(notes, 1)]


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
    shared = {name: value for name, value in common.items() if name not in ("method", "dataset", "percent")}
    return shared, [{name: value for name, value in row.items() if name not in shared} for row in rows]
