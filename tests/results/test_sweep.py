from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.reports.conftest import N, measure, setting

from radapt.errors import ResultsError
from radapt.reports import curves, draw_plot
from radapt.results import WORST_CASE, Result, Results, wilson
from radapt.results.plots import Curves, Line
from radapt.results.records import Kind
from radapt.results.sweep import Position

WHERE = {"plain": (None, 0.0), "CLIP 1": ("CLIP", 1.0), "CLIP 2": ("CLIP", 2.0), "FARE 1": ("FARE", 1.0)}


def measured(
    method: str, percent: float, source: str = "", dataset: str = "shapes", main: bool = True, **changes: object
) -> Result:
    low, high = wilson(percent / 100 * N, N)
    return Result(
        setting=setting(method, dataset, source, **({"model": "m"} | changes)),
        n=N,
        percent=percent,
        low=low,
        high=high,
        seconds=1,
        forwards=1,
        backwards=1,
        flags={},
        main=main,
    )


def drawn(results: list[Result], where: Mapping[str, tuple[str | None, float]] = WHERE, **options: Any) -> list[Curves]:
    positions = [Position(method=method, line=line, x=x) for method, (line, x) in where.items()]
    return curves(results, positions, title="Alpha", x_label="alpha", **options)


def points(plot: Curves) -> dict[tuple[str, Kind | None], list[tuple[float, float]]]:
    return {(line.name, line.kind): list(zip(line.x, line.y, strict=True)) for line in plot.lines}


def three(method: str, *percents: float, dataset: str = "shapes", **changes: object) -> list[Result]:
    sources = ("", "undefended", "self")
    return [
        measured(method, percent, source, dataset, **(changes if source else {}))
        for percent, source in zip(percents, sources, strict=False)
    ]


def test_each_line_has_its_clean_transfer_and_white_box_results() -> None:
    results = three("CLIP 2", 78, 70, 20) + three("CLIP 1", 80, 60, 10) + three("FARE 1", 70, 65, 50)
    (plot,) = drawn(results + three("another", 1, 1, 1), ticks=("a", "b", "c"))
    assert (plot.title, plot.x_label, plot.y_label) == ("Alpha: shapes, l∞ 4/255", "alpha", "accuracy (%)")
    assert plot.ticks == ("a", "b", "c")
    assert points(plot) == {
        ("CLIP", "clean"): [(1, 80), (2, 78)],
        ("CLIP", "transfer"): [(1, 60), (2, 70)],
        ("CLIP", "white-box"): [(1, 10), (2, 20)],
        ("FARE", "clean"): [(1, 70)],
        ("FARE", "transfer"): [(1, 65)],
        ("FARE", "white-box"): [(1, 50)],
    }
    line = plot.lines[1]
    assert (line.low[0], line.high[0]) == wilson(0.6 * N, N)
    assert draw_plot(plot)


def test_nothing_is_called_robust_accuracy() -> None:
    (plot,) = drawn(three("CLIP 1", 80, 60, 10))
    assert "robust" not in str(plot).lower()


def test_the_mean_comes_first_with_its_interval() -> None:
    results = three("CLIP 1", 80, 60, 10) + three("CLIP 1", 60, 50, 30, dataset="digits")
    mean, *others = drawn(results)
    assert mean.title == "Alpha: mean over 2 data sets, l∞ 4/255"
    assert [plot.title for plot in others] == ["Alpha: shapes, l∞ 4/255", "Alpha: digits, l∞ 4/255"]
    assert points(mean)["CLIP", "white-box"] == [(1, 20)]
    ten, thirty = wilson(0.1 * N, N), wilson(0.3 * N, N)
    line = mean.lines[2]
    assert line.low == pytest.approx((20 - math.hypot(10 - ten[0], 30 - thirty[0]) / 2,))
    assert line.high == pytest.approx((20 + math.hypot(ten[1] - 10, thirty[1] - 30) / 2,))


def test_the_mean_is_over_data_sets_that_have_every_point() -> None:
    results = three("CLIP 1", 80, 60, 10) + three("CLIP 2", 78, 70, 20)
    results += three("CLIP 1", 60, 50, 30, dataset="digits") + three("CLIP 2", 50, 40, dataset="digits")
    mean, *others = drawn(results)
    assert mean.title == "Alpha: mean over 1 of 2 data sets, l∞ 4/255"
    assert points(mean)["CLIP", "clean"] == [(1, 80), (2, 78)]
    assert len(others) == 2
    apart = three("CLIP 1", 80, 60, 10) + three("CLIP 2", 60, 50, 30, dataset="digits")
    assert [plot.title for plot in drawn(apart)] == ["Alpha: shapes, l∞ 4/255", "Alpha: digits, l∞ 4/255"]


def test_every_attack_and_ball_has_its_diagram() -> None:
    results = three("CLIP 1", 80, 60, 10, eps=4 / 255) + three("CLIP 1", 80, 70, 30, eps=2 / 255)
    assert [plot.title for plot in drawn(results)] == ["Alpha: shapes, l∞ 2/255", "Alpha: shapes, l∞ 4/255"]
    assert [points(plot)["CLIP", "white-box"] for plot in drawn(results)] == [[(1, 30)], [(1, 10)]]
    results += three("CLIP 1", 80, 61, 11, attack="pgd")
    titles = [plot.title.removeprefix("Alpha: shapes, ") for plot in drawn(results)]
    assert titles == ["l∞ 2/255, apgd", "l∞ 4/255, apgd", "l∞ 4/255, pgd"]
    assert all(("CLIP", "clean") in points(plot) for plot in drawn(results))


def test_clean_results_alone_make_a_diagram() -> None:
    (plot,) = drawn([measured("CLIP 1", 80)])
    assert plot.title == "Alpha: shapes"
    assert points(plot) == {("CLIP", "clean"): [(1, 80)]}


def test_a_transfer_result_without_its_partner_says_so() -> None:
    (plot,) = drawn(three("CLIP 1", 80, 60) + three("CLIP 2", 78, 70) + three("FARE 1", 70, 65, 50))
    assert {line.name for line in plot.lines} == {"CLIP (white-box not measured)", "FARE"}
    (plot,) = drawn(three("CLIP 1", 80, 60, 10) + three("CLIP 2", 78, 70))
    assert {line.name for line in plot.lines} == {"CLIP (white-box measured at 1 of 2)"}
    (plot,) = drawn([measured("CLIP 1", 80), measured("CLIP 1", 10, "self")])
    assert {line.name for line in plot.lines} == {"CLIP"}
    others = [measured("CLIP 1", 60, "undefended"), measured("CLIP 1", 10, "self", attack="pgd")]
    one, two = drawn(others)
    assert one.lines[0].name == "CLIP (white-box not measured)"
    assert [line.kind for line in two.lines] == ["white-box"]


def test_a_point_without_a_line_begins_all_lines() -> None:
    (plot,) = drawn(three("plain", 85, 1, 0) + three("CLIP 1", 80, 60, 10) + three("FARE 1", 70, 65, 50))
    lines = points(plot)
    assert lines["CLIP", "transfer"] == [(0, 1), (1, 60)]
    assert lines["FARE", "white-box"] == [(0, 0), (1, 50)]
    (plot,) = drawn(three("plain", 85, 1, 0), {"plain": (None, 0.0)})
    assert points(plot)["", "clean"] == [(0, 85)]
    (plot,) = drawn(three("plain", 85, 1, 0) + three("CLIP 1", 80, 60, 10))
    assert {line.name for line in plot.lines} == {"CLIP"}  # nothing was measured on the other line


def test_other_metrics_are_left_out() -> None:
    results = [measured("CLIP 1", 80), measured("CLIP 1", 95, main=False, metric="top-5")]
    assert points(drawn(results)[0]) == {("CLIP", "clean"): [(1, 80)]}
    with pytest.raises(ResultsError, match="no results"):
        drawn(results[1:])


def test_tasks_are_kept_apart_and_only_accuracies_are_called_so() -> None:
    captions = [measured("CLIP 1", 90, dataset=name, task="captions", metric="CIDEr") for name in ("coco", "flickr")]
    classes = [measured("CLIP 1", 80, dataset=name) for name in ("shapes", "digits")]
    labels = {
        plot.title: plot.y_label
        for plot in drawn([replace(each, percent=110, high=120) for each in captions] + classes)
    }
    assert labels == {
        "Alpha: mean over 2 data sets, captions": "score (%)",
        "Alpha: coco, captions": "score (%)",
        "Alpha: flickr, captions": "score (%)",
        "Alpha: mean over 2 data sets, zero-shot": "accuracy (%)",
        "Alpha: shapes, zero-shot": "accuracy (%)",
        "Alpha: digits, zero-shot": "accuracy (%)",
    }


def test_the_lowest_of_several_sources_and_the_last_of_several_versions_count() -> None:
    results = three("CLIP 1", 80, 60, 10)
    results += [measured("CLIP 1", 40, "another"), measured("CLIP 1", 50, "undefended", options={"steps": 3})]
    results += [measured("CLIP 1", 15, "self", version="2.0")]
    (plot,) = drawn(results)
    assert points(plot)["CLIP", "transfer"] == [(1, 40)]
    assert points(plot)["CLIP", "white-box"] == [(1, 15)]


def test_results_of_several_models_make_no_line() -> None:
    with pytest.raises(ResultsError, match="the results of CLIP 1 are of several models"):
        drawn([measured("CLIP 1", 80), measured("CLIP 1", 70, "self", adapter="abc")])


@pytest.mark.parametrize(
    "where",
    [
        {"a": ("CLIP", 1.0), "b": ("CLIP", 1.0)},
        {"a": ("CLIP", 1.0), "b": (None, 1.0)},
        {"b": (None, 1.0), "a": ("CLIP", 1.0)},
        {"a": (None, 1.0), "b": (None, 1.0)},
    ],
)
def test_two_methods_at_one_place_are_refused(where: dict[str, tuple[str | None, float]]) -> None:
    with pytest.raises(ResultsError, match="have the same place, 1 of"):
        drawn([measured("a", 80)], where)


def test_missing_methods_are_named() -> None:
    with pytest.raises(ResultsError, match="Alpha: there are no results of plain, CLIP 1"):
        drawn([measured("x", 80)])


def test_the_curves_of_a_results_file(tmp_path: Path) -> None:
    with Results(tmp_path / "r.sqlite") as store:
        for k in (1, 2):
            for source in ("", "undefended", "self"):
                measure(store, setting(f"CLIP {k}", source=source), 20 * k)
        (plot,) = drawn(store.all())
    assert points(plot)["CLIP", "white-box"] == [(1, 10), (2, 20)]
    assert isinstance(plot.lines[0], Line)


def test_the_worst_case_of_a_ball_where_one_attack_is_known_is_that_attack() -> None:
    results = [
        *three("CLIP 1", 80, 60, 30, attack="pgd"),
        measured("CLIP 1", 20, "self", attack=WORST_CASE),
        *three("CLIP 2", 78, 70, 25, attack="pgd"),
        *three("FARE 1", 70, 65, 50, attack="pgd"),
    ]
    for order in (results, results[::-1]):
        by_title = {plot.title: points(plot) for plot in drawn(order)}
        worst = by_title[f"Alpha: shapes, l∞ 4/255, {WORST_CASE}"]
        assert worst["CLIP", "white-box"] == [(1, 20), (2, 25)]
        assert worst["FARE", "white-box"] == [(1, 50)]
        assert by_title["Alpha: shapes, l∞ 4/255, pgd"]["CLIP", "white-box"] == [(1, 30), (2, 25)]
