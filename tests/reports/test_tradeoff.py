from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.reports.conftest import METHODS, setting

from radapt.errors import ResultsError
from radapt.reports._labels import overlap, place
from radapt.reports._points import panels_of
from radapt.reports._style import SURFACE, marker_of, png, svg
from radapt.reports.table import Table, tabulate
from radapt.reports.tradeoff import draw_tradeoff
from radapt.results import Results


@pytest.fixture
def table(results_file: Path) -> Table:
    with Results(results_file, read_only=True) as store:
        return tabulate(store.all())


def test_markers_stand_where_the_results_are(table: Table) -> None:
    (axes,) = draw_tradeoff(table).axes
    markers = {
        (line.get_markerfacecolor() == SURFACE, round(float(x), 6), round(float(y), 6))
        for line in axes.lines
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
        if line.get_marker() not in ("None", None, "")
    }
    (panel,) = panels_of(table, mean=True)
    expected = {(True, round(p.clean[0], 6), round(p.transfer[0], 6)) for p in panel.points if p.transfer}
    expected |= {(False, round(p.clean[0], 6), round(p.white_box[0], 6)) for p in panel.points if p.white_box}
    assert markers == expected
    assert len(expected) == 15
    assert {"CLIP", "R-Adapt+ (adaptive)"} <= {text.get_text() for text in axes.texts}


def test_labels_do_not_overlap_each_other(table: Table) -> None:
    (axes,) = draw_tradeoff(table).axes
    boxes = [text.get_window_extent().extents for text in axes.texts]
    assert len(boxes) == len(METHODS)
    assert all(overlap(tuple(one), tuple(two)) == 0 for at, one in enumerate(boxes) for two in boxes[:at])


def test_there_is_one_small_panel_for_each_data_set(table: Table) -> None:
    figure = draw_tradeoff(table, datasets=True)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        f"{name}, l∞ 4/255" for name in ("shapes", "colours", "digits")
    ]


def test_png_opens_and_is_not_blank(table: Table) -> None:
    with Image.open(io.BytesIO(png(draw_tradeoff(table)))) as image:
        assert image.format == "PNG"
        assert image.width > 800
        assert len(image.convert("RGB").getcolors(10**6) or []) > 50


def test_svg_is_xml_with_readable_text_and_is_reproducible(table: Table) -> None:
    text = svg(draw_tradeoff(table))
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    words = {"".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"R-Adapt_CLIP", "clean accuracy (%)", "white-box attack"} <= words
    assert svg(draw_tradeoff(table)) == text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["$x_1$ 50% \\frac", "<b>&\"'", "_hidden", "模型", "line\nbreak"])
def test_odd_names_are_drawn_as_they_are(make: Callable[..., Results], name: str) -> None:
    entries = [(setting(name, data, source), 50) for data in ("a", "b") for source in ("", "undefended", "self")]
    with make(*entries) as store:
        table = tabulate(store.all())
    for datasets in (False, True):
        figure = draw_tradeoff(table, datasets=datasets)
        root = ElementTree.fromstring(svg(figure))
        words = "".join("".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text"))
        assert name.replace("\n", "\ufffd") in words
        assert png(figure).startswith(b"\x89PNG")


def test_two_threats_make_two_panels(make: Callable[..., Results]) -> None:
    entries = [(setting("x", source="self", eps=k / 255), 90 - 10 * k) for k in (2, 4)]
    with make((setting("x"), 100), *entries) as store:
        figure = draw_tradeoff(tabulate(store.all()))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["shapes, l∞ 2/255", "shapes, l∞ 4/255"]


def test_many_methods_have_distinct_markers() -> None:
    assert len({marker_of(index)[:2] for index in range(70)}) == 70


def test_without_a_pair_there_is_nothing_to_draw(make: Callable[..., Results]) -> None:
    with make((setting("x"), 100)) as store, pytest.raises(ResultsError, match="needs a clean result"):
        draw_tradeoff(tabulate(store.all()))


def test_drawing_leaves_matplotlib_as_it_was(table: Table) -> None:
    before = dict(mpl.rcParams)
    png(draw_tradeoff(table))
    assert dict(mpl.rcParams) == before


def test_reports_import_neither_torch_nor_pyplot() -> None:
    code = (
        "import sys, radapt.reports; print(sorted({'torch', 'matplotlib.pyplot', 'transformers'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    assert ended.stdout.strip() == "[]"


@settings(max_examples=15)
@given(st.lists(st.tuples(st.floats(100, 700), st.floats(100, 500)), min_size=1, max_size=8))
def test_labels_stay_inside_and_apart(anchors: list[tuple[float, float]]) -> None:
    boxes = place(anchors, [(60.0, 12.0)] * len(anchors), [], (0.0, 0.0, 800.0, 600.0))
    for at, one in enumerate(boxes):
        assert overlap(one, (0.0, 0.0, 800.0, 600.0)) == pytest.approx(60 * 12)
        assert all(overlap(one, other) < 1e-6 for other in boxes[:at])
