"""The figure of a search: every trial where it is, a line through the front of each round, names on the last."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from radapt.errors import ResultsError
from radapt.reports import draw_trials, write_trials
from radapt.reports._style import svg


@dataclass
class _Trial:
    name: str
    clean: float
    robust: float

    @property
    def clean_interval(self) -> tuple[float, float]:
        return self.clean - 3, self.clean + 2

    @property
    def robust_interval(self) -> tuple[float, float]:
        return self.robust - 4, self.robust + 4


ROUNDS = {
    "round 1": [_Trial("a", 90, 20), _Trial("b", 85, 30), _Trial("c", 80, 10)],
    "round 2": [_Trial("$a_b$", 91, 25), _Trial("b", 85, 35)],
}
FRONTS = {"round 1": ROUNDS["round 1"][:2], "round 2": ROUNDS["round 2"]}


def test_trials_stand_where_they_are_and_the_front_is_a_line() -> None:
    (axes,) = draw_trials(ROUNDS, FRONTS).axes
    points = {
        (float(x), float(y))
        for line in axes.lines
        if line.get_marker() not in ("None", None, "")
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)  # type: ignore[arg-type]
    }
    assert points == {(each.clean, each.robust) for trials in ROUNDS.values() for each in trials}
    lines = [list(map(float, line.get_xdata())) for line in axes.lines if line.get_linestyle() == "-"]  # type: ignore[arg-type]
    assert [85, 90] in lines
    assert [85, 91] in lines
    assert {"$a_b$", "b"} <= {text.get_text() for text in axes.texts}
    assert "c" not in {text.get_text() for text in axes.texts}


def test_the_same_trials_give_the_same_files(tmp_path: Path) -> None:
    written = write_trials(ROUNDS, FRONTS, tmp_path)
    assert [path.name for path in written] == ["trials.png", "trials.svg"]
    assert written[1].read_text() == svg(draw_trials(ROUNDS, FRONTS))
    with pytest.raises(ResultsError, match="no trials to draw"):
        write_trials({}, {}, tmp_path)
