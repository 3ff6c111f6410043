"""Trials of a search in one figure: clean against white-box accuracy, round by round, and the front of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from radapt.errors import ResultsError

from ._files import write
from ._style import MUTED, SURFACE, frame, marker_of, png, style, svg

__all__ = ["Tried", "draw_trials", "write_trials"]

_Interval = tuple[float, float]


class Tried(Protocol):
    """A trial: its name, and its two accuracies in per cent with their 95 % intervals; ``robust`` is white-box."""

    @property
    def name(self) -> str: ...

    @property
    def clean(self) -> float: ...

    @property
    def robust(self) -> float: ...

    @property
    def clean_interval(self) -> _Interval: ...

    @property
    def robust_interval(self) -> _Interval: ...


def draw_trials(rounds: Mapping[str, Sequence[Tried]], fronts: Mapping[str, Sequence[Tried]]) -> Figure:
    """Every trial of every round, with a line through the front of each; the last front with names and intervals.

    Args:
        rounds: the trials of each round, by its name.
        fronts: of the same rounds, those that no other one beats both clean and white-box.

    Raises:
        ResultsError: there are no trials.
    """
    if not any(rounds.values()):
        raise ResultsError("there are no trials to draw")
    with style():
        figure = Figure(figsize=(7.2, 5.2), dpi=150, facecolor=SURFACE)
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        figure.subplots_adjust(left=0.09, right=0.97, top=0.93, bottom=0.11)
        for index, (name, trials) in enumerate(rounds.items()):
            colour, marker, _ = marker_of(index)
            label = f"{name} ({len(trials)})"
            xs, ys = [each.clean for each in trials], [each.robust for each in trials]
            axes.plot(xs, ys, color=colour, marker=marker, linestyle="", markersize=6, alpha=0.8, label=label, zorder=3)
            line = sorted(fronts[name], key=lambda each: each.clean)
            axes.plot(
                [each.clean for each in line], [each.robust for each in line], color=colour, linewidth=1.2, zorder=2
            )
        _name(axes, fronts[list(rounds)[-1]], marker_of(len(rounds) - 1)[0])
        frame(axes)
        axes.set_xlabel("clean accuracy (%)")
        axes.set_ylabel("white-box accuracy (%)")
        axes.set_title("Trials on validation splits", loc="left", fontsize=9.5, fontweight="bold")
        axes.legend(loc="best", frameon=False)
    return figure


def _name(axes: Axes, trials: Sequence[Tried], colour: str) -> None:
    for each in trials:
        x, y = each.clean, each.robust
        across, up = (
            [abs(at - end) for end in ends] for at, ends in ((x, each.clean_interval), (y, each.robust_interval))
        )
        axes.errorbar(
            [x], [y], xerr=[[across[0]], [across[1]]], yerr=[[up[0]], [up[1]]], fmt="none", ecolor=colour, alpha=0.35
        )
        axes.annotate(
            each.name, (x, y), xytext=(7, 6), textcoords="offset points", fontsize=8, color=MUTED, parse_math=False
        )


def write_trials(
    rounds: Mapping[str, Sequence[Tried]], fronts: Mapping[str, Sequence[Tried]], folder: str | Path
) -> list[Path]:
    """Write ``trials.png`` and ``trials.svg``, the figure of :func:`draw_trials`, and return their paths.

    Raises:
        ResultsError: there are no trials, or the folder cannot be written.
    """
    figure = draw_trials(rounds, fronts)
    return write(Path(folder), {"trials.png": png(figure), "trials.svg": svg(figure).encode()})
