from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.report.conftest import N, setting

from radapt.errors import ResultsError
from radapt.plots import Curves, Line
from radapt.report import curves, draw_plot
from radapt.results import Figure, Results, Sample, wilson

Point = tuple[float, float, float]
WHERE = {"plain": ("", 0.0), "CLIP 1": ("CLIP", 1.0), "CLIP 2": ("CLIP", 2.0), "FARE 1": ("FARE", 1.0)}


def figure(
    method: str, percent: float, source: str = "", dataset: str = "shapes", main: bool = True, **changes: object
) -> Figure:
    low, high = wilson(percent / 100 * N, N)
    return Figure(
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


def drawn(figures: list[Figure], where: dict[str, tuple[str, float]] = WHERE, **options: Any) -> list[Curves]:
    return curves(figures, where=where, title="Alpha", x_label="alpha", **options)


def points(plot: Curves) -> dict[tuple[str, str], list[tuple[float, float]]]:
    return {(line.name, line.kind): list(zip(line.x, line.y, strict=True)) for line in plot.lines}


def three(method: str, *percents: float, dataset: str = "shapes", **changes: object) -> list[Figure]:
    sources = ("", "undefended", "self")
    return [
        figure(method, percent, source, dataset, **(changes if source else {}))
        for percent, source in zip(percents, sources, strict=False)
    ]


def test_each_line_has_its_clean_transfer_and_white_box_figures() -> None:
    figures = three("CLIP 2", 78, 70, 20) + three("CLIP 1", 80, 60, 10) + three("FARE 1", 70, 65, 50)
    (plot,) = drawn(figures + three("another", 1, 1, 1), ticks=("a", "b", "c"))
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


def test_no_figure_is_called_robust_accuracy() -> None:
    (plot,) = drawn(three("CLIP 1", 80, 60, 10))
    assert "robust" not in str(plot).lower()


def test_the_mean_comes_first_with_its_interval() -> None:
    figures = three("CLIP 1", 80, 60, 10) + three("CLIP 1", 60, 50, 30, dataset="digits")
    mean, *others = drawn(figures)
    assert mean.title == "Alpha: mean over 2 data sets, l∞ 4/255"
    assert [plot.title for plot in others] == ["Alpha: shapes, l∞ 4/255", "Alpha: digits, l∞ 4/255"]
    assert points(mean)["CLIP", "white-box"] == [(1, 20)]
    ten, thirty = wilson(0.1 * N, N), wilson(0.3 * N, N)
    line = mean.lines[2]
    assert line.low == pytest.approx((20 - math.hypot(10 - ten[0], 30 - thirty[0]) / 2,))
    assert line.high == pytest.approx((20 + math.hypot(ten[1] - 10, thirty[1] - 30) / 2,))


def test_the_mean_is_over_data_sets_that_have_every_point() -> None:
    figures = three("CLIP 1", 80, 60, 10) + three("CLIP 2", 78, 70, 20)
    figures += three("CLIP 1", 60, 50, 30, dataset="digits") + three("CLIP 2", 50, 40, dataset="digits")
    mean, *others = drawn(figures)
    assert mean.title == "Alpha: mean over 1 of 2 data sets, l∞ 4/255"
    assert points(mean)["CLIP", "clean"] == [(1, 80), (2, 78)]
    assert len(others) == 2
    apart = three("CLIP 1", 80, 60, 10) + three("CLIP 2", 60, 50, 30, dataset="digits")
    assert [plot.title for plot in drawn(apart)] == ["Alpha: shapes, l∞ 4/255", "Alpha: digits, l∞ 4/255"]


def test_every_attack_and_ball_has_its_diagram() -> None:
    figures = three("CLIP 1", 80, 60, 10, eps=4 / 255) + three("CLIP 1", 80, 70, 30, eps=2 / 255)
    assert [plot.title for plot in drawn(figures)] == ["Alpha: shapes, l∞ 2/255", "Alpha: shapes, l∞ 4/255"]
    assert [points(plot)["CLIP", "white-box"] for plot in drawn(figures)] == [[(1, 30)], [(1, 10)]]
    figures += three("CLIP 1", 80, 61, 11, attack="pgd")
    titles = [plot.title.removeprefix("Alpha: shapes, ") for plot in drawn(figures)]
    assert titles == ["l∞ 2/255, apgd", "l∞ 4/255, apgd", "l∞ 4/255, pgd"]
    assert all(("CLIP", "clean") in points(plot) for plot in drawn(figures))


def test_clean_figures_alone_make_a_diagram() -> None:
    (plot,) = drawn([figure("CLIP 1", 80)])
    assert plot.title == "Alpha: shapes"
    assert points(plot) == {("CLIP", "clean"): [(1, 80)]}


def test_a_transfer_figure_without_its_partner_says_so() -> None:
    (plot,) = drawn(three("CLIP 1", 80, 60) + three("CLIP 2", 78, 70) + three("FARE 1", 70, 65, 50))
    assert {line.name for line in plot.lines} == {"CLIP (white-box not measured)", "FARE"}
    (plot,) = drawn(three("CLIP 1", 80, 60, 10) + three("CLIP 2", 78, 70))
    assert {line.name for line in plot.lines} == {"CLIP (white-box measured at 1 of 2)"}
    (plot,) = drawn([figure("CLIP 1", 80), figure("CLIP 1", 10, "self")])
    assert {line.name for line in plot.lines} == {"CLIP"}
    others = [figure("CLIP 1", 60, "undefended"), figure("CLIP 1", 10, "self", attack="pgd")]
    one, two = drawn(others)
    assert one.lines[0].name == "CLIP (white-box not measured)"
    assert [line.kind for line in two.lines] == ["white-box"]


def test_a_point_without_a_line_begins_all_lines() -> None:
    (plot,) = drawn(three("plain", 85, 1, 0) + three("CLIP 1", 80, 60, 10) + three("FARE 1", 70, 65, 50))
    found = points(plot)
    assert found["CLIP", "transfer"] == [(0, 1), (1, 60)]
    assert found["FARE", "white-box"] == [(0, 0), (1, 50)]
    (plot,) = drawn(three("plain", 85, 1, 0), {"plain": ("", 0.0)})
    assert points(plot)["", "clean"] == [(0, 85)]
    (plot,) = drawn(three("plain", 85, 1, 0) + three("CLIP 1", 80, 60, 10))
    assert {line.name for line in plot.lines} == {"CLIP"}  # nothing was measured on the other line


def test_other_metrics_are_left_out() -> None:
    figures = [figure("CLIP 1", 80), figure("CLIP 1", 95, main=False, metric="top-5")]
    assert points(drawn(figures)[0]) == {("CLIP", "clean"): [(1, 80)]}
    with pytest.raises(ResultsError, match="no figures"):
        drawn(figures[1:])


def test_tasks_are_kept_apart_and_only_accuracies_are_called_so() -> None:
    captions = [figure("CLIP 1", 90, dataset=name, task="captions", metric="CIDEr") for name in ("coco", "flickr")]
    classes = [figure("CLIP 1", 80, dataset=name) for name in ("shapes", "digits")]
    found = {
        plot.title: plot.y_label
        for plot in drawn([replace(each, percent=110, high=120) for each in captions] + classes)
    }
    assert found == {
        "Alpha: mean over 2 data sets, captions": "score (%)",
        "Alpha: coco, captions": "score (%)",
        "Alpha: flickr, captions": "score (%)",
        "Alpha: mean over 2 data sets, zero-shot": "accuracy (%)",
        "Alpha: shapes, zero-shot": "accuracy (%)",
        "Alpha: digits, zero-shot": "accuracy (%)",
    }


def test_the_lowest_of_several_sources_and_the_last_of_several_versions_count() -> None:
    figures = three("CLIP 1", 80, 60, 10)
    figures += [figure("CLIP 1", 40, "another"), figure("CLIP 1", 50, "undefended", options={"steps": 3})]
    figures += [figure("CLIP 1", 15, "self", version="2.0")]
    (plot,) = drawn(figures)
    assert points(plot)["CLIP", "transfer"] == [(1, 40)]
    assert points(plot)["CLIP", "white-box"] == [(1, 15)]


def test_figures_of_several_models_make_no_line() -> None:
    with pytest.raises(ResultsError, match="the figures of CLIP 1 are of several models"):
        drawn([figure("CLIP 1", 80), figure("CLIP 1", 70, "self", adapter="abc")])


@pytest.mark.parametrize(
    "where",
    [
        {"a": ("CLIP", 1.0), "b": ("CLIP", 1.0)},
        {"a": ("CLIP", 1.0), "b": ("", 1.0)},
        {"b": ("", 1.0), "a": ("CLIP", 1.0)},
        {"a": ("", 1.0), "b": ("", 1.0)},
    ],
)
def test_two_methods_at_one_place_are_refused(where: dict[str, tuple[str, float]]) -> None:
    with pytest.raises(ResultsError, match="have the same place, 1 of"):
        drawn([figure("a", 80)], where)


def test_missing_methods_are_named() -> None:
    with pytest.raises(ResultsError, match="Alpha: there are no figures of plain, CLIP 1"):
        drawn([figure("x", 80)])


def test_the_curves_of_a_results_file(make: Callable[..., Results]) -> None:
    entries = [(setting(f"CLIP {k}", source=source), 20 * k) for k in (1, 2) for source in ("", "undefended", "self")]
    with make(*entries) as results:
        assert isinstance(results.samples(entries[0][0])[0], Sample)
        (plot,) = drawn(results.figures())
    assert points(plot)["CLIP", "white-box"] == [(1, 10), (2, 20)]
    assert isinstance(plot.lines[0], Line)
