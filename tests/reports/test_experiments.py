from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.reports.conftest import measure, setting
from tests.reports.test_figures import CURVES, HEATMAP, IMAGES
from tests.reports.test_html import Page

from radapt.errors import ResultsError, SettingsError
from radapt.reports import Part, write_experiments
from radapt.results import Results
from radapt.results.plots import Curves, Heatmap, Images, Line

PART = Part(
    name="fig2a",
    title="Block outputs that are alike",
    description="Linear CKA of the blocks.\nOn the same images.",
    published="Block 1: 0.25.",
    command="radapt reproduce fig2a --profile micro",
    results=None,
    plots=(HEATMAP,),
)


def written(tmp_path: Path, *parts: Part, **options: Any) -> str:
    return write_experiments(parts, tmp_path / "new" / "page.html", **options).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(results_file: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    measured = replace(PART, name="fig2b", title="Replacement", results=results_file, plots=(CURVES, CURVES, IMAGES))
    table = replace(PART, name="tab4", title="Table", results=results_file, plots=(), published="", note="Read me.")
    return written(tmp_path_factory.mktemp("page"), PART, measured, table)


def test_the_page_is_well_formed_and_needs_nothing_else(text: str) -> None:
    found = Page(text)
    addresses = [
        value
        for _, attributes in found.tags
        for name, value in attributes.items()
        if value and name in ("src", "href", "xlink:href", "srcset", "action")
    ]
    assert addresses
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in addresses)
    assert not re.findall(r"url\((?!#)|@import", text)


def test_every_address_on_the_page_is_there_once(text: str) -> None:
    found = Page(text)
    anchors = [str(attributes["id"]) for _, attributes in found.tags if "id" in attributes]
    assert len(anchors) == len(set(anchors))
    links = {
        str(value)[1:]
        for _, attributes in found.tags
        for name, value in attributes.items()
        if name in ("href", "xlink:href") and str(value).startswith("#")
    }
    assert links | set(re.findall(r"url\(#([^)]+)\)", text)) <= set(anchors)
    assert {"fig2a", "fig2b", "tab4", "fig2b-flag-1", "tab4-flag-1"} <= links


def test_every_experiment_has_all_it_needs(text: str) -> None:
    sections = re.findall(r"<section.*?</section>", text, flags=re.DOTALL)
    assert len(sections) == 3
    for section in sections:
        assert '<pre class="command"><code>radapt reproduce fig2a --profile micro</code></pre>' in section
        assert "Linear CKA of the blocks.\nOn the same images." in section
    assert [section.count("<svg") for section in sections] == [1, 3, 1]
    assert ["Published" in section for section in sections] == [True, True, False]
    assert ["table class" in section for section in sections] == [False, True, True]
    assert "Read me." in sections[2]
    assert "Trade-off of mean over 3 data sets" in sections[2]
    assert text.index("<nav") < text.index("This is not robust accuracy") < text.index("<section")


def test_the_table_is_that_of_the_results_file(text: str) -> None:
    rows = [[" ".join(cell.replace("\N{EN DASH}", " to ").split()) for cell in row] for row in Page(text).cells]
    assert rows.count(["R-Adapt_CLIP", "73.0 66.5 to 78.7", "60.5 53.6 to 67.0", "2.0 0.8 to 5.0"]) == 2
    assert (
        rows.count(["R-Adapt+ (adaptive)", "72.5 65.9 to 78.2", "67.0 60.2 to 73.1 white-box not measured", "—"]) == 2
    )
    heads = [row for row in rows if row[0] == "method"]
    assert all([("robust" in title) for title in head] == [False, False, False, True] for head in heads)


def test_every_table_says_under_what_settings_its_results_were_measured(text: str, results_file: Path) -> None:
    with Results(results_file, read_only=True) as store:
        rows = [{**result.row(), "planned n": result.setting.n} for result in store.all()]
    sections = re.findall(r"<section.*?</section>", text, flags=re.DOTALL)
    assert "<summary>Settings" not in sections[0]
    for section in sections[1:]:
        shared = dict(re.findall(r"<dt>([^<]+)</dt><dd>([^<]*)</dd>", section))
        assert shared
        assert all(str(row[name]) == value for row in rows for name, value in shared.items() if value != "—")
        named = re.search(r"Differ from result to result: ([^;]*);", section)
        assert named is not None
        differing = named[1].split(", ")
        assert {"method", "source", "attack"} <= set(differing)
        assert not {"percent", "low", "high", "seconds", "forwards"} & set(differing)
        assert all(len({str(row[name]) for row in rows}) > 1 for name in differing)
        assert f"<code>{results_file.parent.name}/{results_file.name}</code>" in section


def test_plots_use_the_colours_and_the_font_of_the_page(text: str) -> None:
    plots = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    for plot in plots:
        assert "var(--ink)" in plot
        assert "var(--font)" in plot
        assert not re.search(r'style="[^"]*(#1b1b1f|DejaVu)', plot)
    assert "prefers-color-scheme: dark" in text


def test_whatever_users_typed_is_escaped(tmp_path: Path) -> None:
    evil = '<script>alert("x")</script> {{ 7 * 7 }} --> id="a_1"'
    with Results(tmp_path / "r.sqlite") as store:
        typed = {"model": evil, "dataset": evil, "options": {evil: evil}}
        measure(store, setting(evil, **typed), 100)
        transfer = measure(store, setting(evil, source=evil, attack=evil, norm=evil, **typed), 50)
        store.flag(transfer, {evil: evil})
    plots = (
        Heatmap(title=evil, row_label=evil, column_label=evil, rows=(evil,), columns=(evil,), values=((1.0,),),
                value_label=evil),
        Curves(title=evil, x_label=evil, y_label=evil, ticks=(evil,), lines=(Line(name=evil, x=(0,), y=(1,)),)),
        Images(title=evil, rows=(evil,), columns=(evil,), images=(([[0.5]],),), note=evil),
    )  # fmt: skip
    part = Part(
        name=evil, title=evil, description=evil, published=evil, command=evil, note=evil, plots=plots,
        results=tmp_path / "r.sqlite",
    )  # fmt: skip
    text = written(tmp_path, part, title=evil)
    found = Page(text)
    assert [tag for tag, _ in found.tags].count("script") == 1
    assert "alert" not in text.rpartition("<script>")[2]
    assert all(not name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert text.count("&lt;script&gt;") > 20
    assert "{{ 7 * 7 }}" in text
    assert ' id="a_1"</text>' in text  # what looks like markup of the figure is left alone
    names = [name for tag, attributes in found.tags if tag == "svg" for name in [attributes["aria-label"]]]
    assert names == [evil] * 3


def test_equal_names_get_addresses_of_their_own(tmp_path: Path) -> None:
    text = written(tmp_path, PART, PART, replace(PART, name="模型"))
    assert re.findall(r'<section class="experiment" id="([^"]+)"', text) == ["fig2a", "fig2a-2", "experiment"]


@pytest.mark.slow
def test_equal_parts_give_equal_pages(results_file: Path, tmp_path: Path) -> None:
    part = replace(PART, results=results_file, plots=(CURVES, IMAGES))
    assert written(tmp_path, part) == written(tmp_path, part)


def test_without_parts_there_is_no_page(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="at least one"):
        write_experiments([], tmp_path / "page.html")


def test_nothing_is_written_when_one_part_fails(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="no results file"):
        written(tmp_path, PART, replace(PART, results=tmp_path / "none.sqlite"))
    with pytest.raises(ResultsError, match="from 0 to 1"):
        written(tmp_path, replace(PART, plots=(replace(IMAGES, images=(([[2.0]],) * 2,) * 2),)))
    assert not (tmp_path / "new").exists()


def test_a_place_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "page.html").mkdir()
    with pytest.raises(ResultsError, match="cannot write the report"):
        write_experiments([PART], tmp_path / "page.html")
