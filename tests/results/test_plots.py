from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radapt.errors import ResultsError
from radapt.results.plots import Curves, Heatmap, Images, Line, Plot, dump_plots, read_plots
from radapt.results.records import KINDS

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
SHARES = st.floats(0, 1)
TEXTS = st.text(max_size=8)
Make = Callable[[], Any]  # made in the test itself: the checks of types draw random numbers, which strategies may not


def tuples(each: st.SearchStrategy[Any], length: int) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(each, min_size=length, max_size=length).map(tuple)


@st.composite
def heatmaps(draw: st.DrawFn) -> Make:
    count, width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    return partial(
        Heatmap,
        title=draw(TEXTS),
        row_label=draw(TEXTS),
        column_label=draw(TEXTS),
        rows=draw(tuples(TEXTS, count)),
        columns=draw(tuples(TEXTS, width)),
        values=draw(tuples(tuples(NUMBERS, width), count)),
        value_label=draw(TEXTS),
        ends=draw(st.none() | tuples(NUMBERS, 2)),  # type: ignore[arg-type]
        centre=draw(st.none() | NUMBERS),
    )


@st.composite
def lines(draw: st.DrawFn) -> Make:
    length = draw(st.integers(1, 4))
    limits = st.just(()) | tuples(NUMBERS, length)
    return partial(
        Line,
        name=draw(TEXTS),
        x=draw(tuples(NUMBERS, length)),
        y=draw(tuples(NUMBERS, length)),
        low=draw(limits),
        high=draw(limits),
        kind=draw(st.sampled_from([None, *KINDS])),
    )


@st.composite
def diagrams(draw: st.DrawFn) -> Make:
    makers = draw(st.lists(lines(), min_size=1, max_size=3))
    rest = {
        "title": draw(TEXTS),
        "x_label": draw(TEXTS),
        "y_label": draw(TEXTS),
        "ticks": draw(st.lists(TEXTS, max_size=3).map(tuple)),
        "log_x": draw(st.booleans()),
        "log_y": draw(st.booleans()),
    }
    return lambda: Curves(lines=tuple(make() for make in makers), **rest)


@st.composite
def grids(draw: st.DrawFn) -> Make:
    count, width = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    pixel = draw(st.sampled_from([SHARES, tuples(SHARES, 3)]))
    return partial(
        Images,
        title=draw(TEXTS),
        rows=draw(tuples(TEXTS, count)),
        columns=draw(tuples(TEXTS, width)),
        images=draw(tuples(tuples(tuples(tuples(pixel, 2), 2), width), count)),
        note=draw(TEXTS),
    )


@settings(max_examples=100)
@given(makers=st.lists(heatmaps() | diagrams() | grids(), max_size=3))
def test_plots_come_back_from_json_as_they_were(makers: list[Make], tmp_path_factory: pytest.TempPathFactory) -> None:
    plots: list[Plot] = [make() for make in makers]
    path = tmp_path_factory.mktemp("plots") / "plots.json"
    path.write_text(dump_plots(plots), encoding="utf-8")
    assert read_plots(path) == plots


HEATMAP = {
    "kind": "heatmap", "title": "t", "row_label": "r", "column_label": "c", "rows": ["1", "2"], "columns": ["1", "2"],
    "values": [[0, 1], [2, 3]], "value_label": "v",
}  # fmt: skip
LINE = {"name": "a", "x": [0, 1], "y": [1, 2]}
CURVES = {"kind": "curves", "title": "t", "x_label": "x", "y_label": "y", "lines": [LINE]}
IMAGES = {"kind": "images", "title": "t", "rows": ["1"], "columns": ["1"], "images": [[[[0, 1], [1, 0]]]]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read the plots"),
        ("[" * 100_000, "cannot read the plots"),
        (b"\xff", "cannot read the plots"),
        ({}, "holds no list"),
        ([3], "plot 1: unknown kind 3"),
        ([HEATMAP | {"kind": "heatmpa"}], "unknown kind 'heatmpa'; did you mean 'heatmap'"),
        ([HEATMAP | {"kind": ["heatmap"]}], "unknown kind"),
        ([HEATMAP, {name: HEATMAP[name] for name in HEATMAP if name not in ("rows", "value_label")}],
         r"plots\.json: plot 2: missing rows, value_label$"),
        ([HEATMAP | {"colour": "red"}], "plot 1: unknown key 'colour'.* Allowed: .*column_label"),
        ([HEATMAP | {"values": [[0, 1], [2, math.nan]]}], "plot 1: values: 1: 1: .*finite number, got nan"),
        ([HEATMAP | {"values": [[0, 1], [2, 10**400]]}], "values: 1: 1: input should be a finite number"),
        ([HEATMAP | {"values": [[0, 1], [2, True]]}], "values: 1: 1: input should be a valid number, got True"),
        ([HEATMAP | {"values": [0, 1]}], "values: 0: input should be a valid array, got 0"),
        ([HEATMAP | {"values": [[0, 1], [2]]}], "plot 1: t: a heat map needs 2 rows of 2 values"),
        ([HEATMAP | {"values": [], "rows": []}], "no value to draw"),
        ([HEATMAP | {"title": 3}], "title: input should be a valid string, got 3"),
        ([HEATMAP | {"rows": "12"}], "rows: input should be a valid array, got '12'"),
        ([HEATMAP | {"ends": [0]}], "plot 1: ends: "),
        ([HEATMAP | {"centre": math.inf}], "centre: input should be a finite number, got inf"),
        ([CURVES | {"lines": [LINE | {"colour": "red"}]}], "lines: 0: unknown key 'colour'.* Allowed: high, kind"),
        ([CURVES | {"lines": 3}], "lines: input should be a valid array, got 3"),
        ([CURVES | {"lines": []}], "no line to draw"),
        ([CURVES | {"lines": ["a"]}], "plot 1: lines: 0: .*, got 'a'"),
        ([CURVES | {"lines": [LINE | {"y": [1]}]}], "plot 1: a: a line needs as many y"),
        ([CURVES | {"lines": [LINE | {"low": [1]}]}], "a line needs as many y"),
        (
            [CURVES | {"lines": [LINE | {"kind": "robust"}]}],
            "lines: 0: unknown kind 'robust'. Allowed: clean, transfer, white-box",
        ),
        ([CURVES | {"log_x": "yes"}], "log_x: input should be a valid boolean, got 'yes'"),
        ([IMAGES | {"images": [[[[0, math.nan]]]]}], "images: 0: 0: 0: 1: .*finite number, got nan"),
        ([IMAGES | {"images": [[3]]}], "images: 0: 0: input should be a valid array, got 3"),
        ([IMAGES | {"images": [[], []]}], "plot 1: t: needs 1 rows of 1 images"),
    ],
)  # fmt: skip
def test_a_bad_file_is_one_clear_error(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "plots.json"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(ResultsError, match=message):
        read_plots(path)


def test_the_good_ones_of_those_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "plots.json"
    path.write_text(json.dumps([HEATMAP, CURVES, IMAGES]), encoding="utf-8")
    assert [type(plot) for plot in read_plots(path)] == [Heatmap, Curves, Images]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"cannot read the plots in .*none\.json"):
        read_plots(tmp_path / "none.json")


@pytest.mark.parametrize("value", [math.nan, -math.inf, np.float32(1.0)])
def test_what_json_cannot_hold_is_not_written(value: float) -> None:
    with pytest.raises(ResultsError, match="something other than finite numbers"):
        dump_plots([Images(title="t", rows=("",), columns=("",), images=((((value,),),),))])
