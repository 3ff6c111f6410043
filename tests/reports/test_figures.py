from __future__ import annotations

import io
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex
from PIL import Image

from radapt.errors import ResultsError, SettingsError
from radapt.reports import draw_plot, write_plots
from radapt.reports._style import SURFACE, png, svg
from radapt.results.plots import Curves, Heatmap, Images, Line, Plot, read_plots
from radapt.results.records import KINDS

HEATMAP = Heatmap(
    title="Block outputs that are alike",
    row_label="block of FARE",
    column_label="block of CLIP",
    rows=("B1", "B2"),
    columns=("first", "second", "third"),
    values=((0.125, 0.25, -0.5), (0.75, 0.9, 1.0)),
    value_label="linear CKA",
)
CURVES = Curves(
    title="Progressive replacement",
    x_label="replaced up to",
    y_label="accuracy (%)",
    lines=(
        Line(name="FARE", kind="clean", x=(0, 1, 2), y=(80, 79, 78), low=(77, 76, 75), high=(83, 82, 81)),
        Line(name="FARE", kind="transfer", x=(0, 1, 2), y=(1, 60, 70), low=(0, 55, 65), high=(3, 65, 75)),
        Line(name="FARE", kind="white-box", x=(0, 1, 2), y=(0, 20, 40), low=(0, 15, 35), high=(2, 25, 45)),
        Line(name="TeCoA", kind="white-box", x=(1,), y=(30,), low=(25,), high=(35,)),
    ),
    ticks=("original", "Emb.", "B1-Attn"),
)
LOSS = Curves(title="Loss", x_label="step", y_label="loss", lines=(Line(name="a", x=(1, 10, 100), y=(3, 2, 1)),))
IMAGES = Images(
    title="Attention of the first block",
    rows=("image", "CLIP"),
    columns=("white", "circle"),
    images=(
        ([[[1, 1, 1], [0, 0.5, 1]]], [[[1, 1, 1]] * 3] * 2),
        ([[0, 1], [0.5, 0.25]], [[0.0] * 5] * 3),
    ),
    note="Scaled to the largest value.",
)
ALL = {"heatmap": HEATMAP, "curves": CURVES, "numbers": LOSS, "images": IMAGES}


def words(plot: Plot) -> list[str]:
    root = ElementTree.fromstring(svg(draw_plot(plot)))
    return ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("plot", ALL.values(), ids=ALL)
def test_equal_plots_give_equal_bytes(plot: Plot) -> None:
    for encode in (svg, png):
        assert encode(draw_plot(plot)) == encode(draw_plot(replace(plot)))


@pytest.mark.parametrize("plot", ALL.values(), ids=ALL)
def test_a_figure_holds_all_it_has_and_no_empty_border(plot: Plot) -> None:
    with Image.open(io.BytesIO(png(draw_plot(plot)))) as image:
        pixels = np.asarray(image.convert("RGB"), int)
    other = np.abs(pixels - pixels[0, 0]).sum(axis=-1) > 30
    for side in (other, other[::-1], other.T, other.T[::-1]):
        assert 2 <= int(np.argmax(side.any(axis=1))) <= 30


@pytest.mark.parametrize("plot", ALL.values(), ids=ALL)
def test_drawing_leaves_matplotlib_as_it_was(plot: Plot) -> None:
    before = dict(mpl.rcParams)
    png(draw_plot(plot))
    assert dict(mpl.rcParams) == before


def test_the_names_of_everything_are_text() -> None:
    assert {
        "Block outputs that are alike", "block of FARE", "block of CLIP", "B1", "B2", "first", "second", "third",
        "linear CKA",
    } <= set(words(HEATMAP))  # fmt: skip
    assert {
        "Progressive replacement", "replaced up to", "accuracy (%)", "original", "Emb.", "B1-Attn", "FARE", "TeCoA",
        "clean", "transfer attack", "white-box attack",
    } <= set(words(CURVES))  # fmt: skip
    assert {
        "Attention of the first block",
        "image",
        "CLIP",
        "white",
        "circle",
        "Scaled to the largest value.",
    } <= set(words(IMAGES))


def test_cells_hold_their_numbers_where_there_is_room() -> None:
    assert {"0.12", "0.25", "\N{MINUS SIGN}0.50", "0.75", "0.90", "1.00"} <= set(words(HEATMAP))
    for count, numbered in ((12, True), (14, False), (24, False)):
        names = tuple(f"b{k}" for k in range(count))
        many = replace(HEATMAP, rows=names, columns=names, values=((0.37,) * count,) * count)
        assert ("0.37" in words(many)) == numbered


def test_numbers_stand_out_from_their_cells() -> None:
    values = tuple(tuple(np.linspace(0, 1, 12).tolist()) for _ in range(2))
    shown = replace(HEATMAP, columns=tuple("abcdefghijkl"), values=values)
    for plot in (shown, replace(shown, centre=0.5)):
        axes = draw_plot(plot).axes[0]
        mesh = next(part for part in axes.collections if isinstance(part, QuadMesh))
        for text in axes.texts:
            x, y = text.get_position()
            cell = mesh.to_rgba(np.array([values[int(y)][int(x)]]))[0]
            one, two = sorted((brightness(to_hex(cell)), brightness(to_hex(text.get_color()))))
            assert (two + 0.05) / (one + 0.05) > 3.9


def brightness(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_rows_stand_from_the_top_in_square_cells() -> None:
    axes = draw_plot(HEATMAP).axes[0]
    mesh = next(part for part in axes.collections if isinstance(part, QuadMesh))
    np.testing.assert_array_equal(np.asarray(mesh.get_array()).reshape(2, 3), HEATMAP.values)
    corners = axes.transData.transform([(0, 0), (1, 0), (0, 1)])
    assert corners[1][0] - corners[0][0] == pytest.approx(corners[0][1] - corners[2][1])
    assert corners[0][1] > corners[2][1]


def test_colours_go_both_ways_from_the_centre_at_one_rate() -> None:
    def colours(plot: Heatmap) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        mesh = next(part for part in draw_plot(plot).axes[0].collections if isinstance(part, QuadMesh))
        return np.asarray(mesh.to_rgba(np.asarray(plot.values)))[..., :3]

    kernel = replace(HEATMAP, values=((-0.3, 0.0, 0.1), (-0.1, 0.05, -0.05)), centre=0.0)
    found = colours(kernel)
    assert found[0, 1].min() > 0.94  # white
    assert found[0, 0, 2] > found[0, 0, 0] + 0.2  # blue below
    assert found[0, 2, 0] > found[0, 2, 2] + 0.2  # red above
    assert np.ptp(found[0, 2]) == pytest.approx(np.ptp(found[1, 0]), abs=0.15)
    low, high = draw_plot(kernel).axes[1].get_ylim()
    assert (low, high) == pytest.approx((-0.3, 0.1))
    same = replace(HEATMAP, values=((2.0,) * 3,) * 2)
    assert len(np.unique(colours(same).reshape(-1, 3), axis=0)) == 1


def test_ends_of_the_colour_scale_can_be_given() -> None:
    assert draw_plot(replace(HEATMAP, ends=(-1.0, 1.0))).axes[1].get_ylim() == (-1.0, 1.0)


@pytest.mark.parametrize("count", [14, 24, 60])
def test_names_of_many_rows_and_columns_do_not_overlap(count: int) -> None:
    names = tuple(f"{k}" for k in range(1, count + 1))
    stages = tuple(f"block {k}" for k in range(1, count + 1))
    for columns in (names, stages):
        plot = replace(HEATMAP, rows=names, columns=columns, values=((0.5,) * count,) * count)
        figure = draw_plot(plot)
        png(figure)
        for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
            labels = [label for label in axis.get_ticklabels() if label.get_text()]
            assert len(labels) >= min(10, count / 4)
            if labels[0].get_rotation() == 0:
                boxes = [label.get_window_extent() for label in labels]
                assert not any(one.overlaps(two) for one, two in pairwise(boxes))


def test_hollow_is_transfer_and_filled_is_white_box() -> None:
    axes = draw_plot(CURVES).axes[0]
    clean, transfer, white_box, other = axes.lines
    assert transfer.get_markerfacecolor() == SURFACE
    assert white_box.get_markerfacecolor() == white_box.get_color() == transfer.get_color() == clean.get_color()
    assert other.get_color() != white_box.get_color()
    assert clean.is_dashed()
    assert clean.get_linewidth() < white_box.get_linewidth()
    for line, drawn in zip(CURVES.lines, axes.lines, strict=True):
        np.testing.assert_array_equal(drawn.get_xydata(), np.stack([line.x, line.y], axis=1))


def test_intervals_are_drawn() -> None:
    axes = draw_plot(CURVES).axes[0]
    found = [part.get_datalim(axes.transData).intervaly.tolist() for part in axes.collections]
    assert found == [[75, 83], [0, 75], [0, 45], [25, 35]]
    none = replace(CURVES, lines=tuple(replace(line, low=(), high=()) for line in CURVES.lines))
    assert not draw_plot(none).axes[0].collections


def test_percentages_begin_at_zero_and_other_numbers_where_they_are() -> None:
    high = replace(CURVES, lines=CURVES.lines[:1])
    assert draw_plot(high).axes[0].get_ylim()[0] == pytest.approx(0, abs=3)
    assert draw_plot(high).axes[0].get_ylim()[1] > 83
    below = Line(name="a", x=(0, 1), y=(-5, 90))
    assert draw_plot(replace(high, lines=(below,))).axes[0].get_ylim()[0] < -5
    assert draw_plot(replace(LOSS, lines=(Line(name="a", x=(0, 1), y=(500, 510)),))).axes[0].get_ylim()[0] > 400


def test_logarithmic_axes_have_plain_numbers() -> None:
    axes = draw_plot(replace(LOSS, log_x=True, log_y=True)).axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    found = words(replace(LOSS, log_x=True, log_y=True))
    assert {"1", "10", "100"} <= set(found)
    assert not any("$" in word or "^" in word for word in found)


@pytest.mark.parametrize("change", [{"x": (0, 10, 100)}, {"y": (3, 2, -1)}, {"low": (3, 2, 0)}])
def test_a_logarithmic_axis_refuses_what_it_cannot_show(change: dict[str, tuple[float, ...]]) -> None:
    line = replace(LOSS.lines[0], **change)  # type: ignore[arg-type]
    with pytest.raises(ResultsError, match=r"Loss: (step|loss) has values that are not above 0"):
        draw_plot(replace(LOSS, lines=(line,), log_x=True, log_y=True))


def test_the_legend_names_each_line_once_and_only_kinds_that_are_there() -> None:
    found = words(CURVES)
    assert found.count("FARE") == found.count("TeCoA") == 1
    assert not {"clean", "transfer attack", "white-box attack"} & set(words(LOSS))
    only = replace(CURVES, lines=CURVES.lines[2:])
    assert {"clean", "transfer attack"}.isdisjoint(words(only))


def test_images_keep_every_pixel_and_their_shapes() -> None:
    axes = draw_plot(IMAGES).axes[0]
    assert len(axes.images) == 4
    for shown, image in zip(axes.images, (image for row in IMAGES.images for image in row), strict=True):
        np.testing.assert_allclose(np.asarray(shown.get_array()), np.asarray(image, float))
        left, right, bottom, top = shown.get_extent()
        assert bottom > top  # rows from the top
        shape = np.asarray(image).shape
        assert (right - left > bottom - top) == (shape[1] > shape[0])
    assert axes.images[2].get_clim() == axes.images[3].get_clim() == (0, 1)
    text = svg(draw_plot(IMAGES))
    assert len(re.findall(r"<image ", text)) == 4 + 1  # and the colour bar
    assert "image-rendering:pixelated" in text


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ([[0.0, 1.0], [0.0]], "equal length"), ([], "equal length"), ([0.0], "equal length"), ([["a"]], "equal length"),
        ([[[0.0, 1.0]]], "equal length"), ([[1.5]], "from 0 to 1"), ([[-1.0]], "from 0 to 1"),
        ([[float("nan")]], "from 0 to 1"),
    ],
)  # fmt: skip
def test_what_is_not_an_image_is_refused(image: object, message: str) -> None:
    with pytest.raises(ResultsError, match=message):
        draw_plot(replace(IMAGES, rows=("a",), columns=("b",), images=((image,),)))


ODD = ["$x_1$ 50% \\frac", "<b>&\"'", "_hidden", "模型", "line\nbreak", "", "\ud800", "$"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_drawn_as_they_are(name: str) -> None:
    shown = name.replace("\n", "\ufffd").replace("\ud800", "\ufffd")
    plots = (
        Heatmap(title=name, row_label=name, column_label=name, rows=(name,), columns=(name,), values=((1.0,),),
                value_label=name),
        Curves(title=name, x_label=name, y_label=name, ticks=(name,),
               lines=tuple(Line(name=name, x=(0,), y=(1,), kind=kind) for kind in (None, *KINDS[::2]))),
        Images(title=name, rows=(name,), columns=(name,), images=(([[0.5]],),), note=name),
    )  # fmt: skip
    for plot, count in zip(plots, (6, 5, 4), strict=True):
        assert sum(word.strip("\u200b") == shown for word in words(plot)) == count or not name
        assert png(draw_plot(plot)).startswith(b"\x89PNG")


def test_a_long_title_is_broken_into_lines() -> None:
    title = " ".join(["a rather long title"] * 8)
    for plot in ALL.values():
        found = words(replace(plot, title=title))
        assert title not in found
        assert title in " ".join(found)
        assert draw_plot(replace(plot, title=title)).get_figwidth() < 6.5


@pytest.mark.slow
@settings(max_examples=20)
@given(st.data())
def test_any_line_can_be_drawn(data: st.DataObject) -> None:
    numbers = st.floats(-1e9, 1e9)
    length = data.draw(st.integers(1, 4))
    x, y = (tuple(data.draw(st.lists(numbers, min_size=length, max_size=length))) for _ in range(2))
    kind = data.draw(st.sampled_from([None, *KINDS]))
    line = Line(name=data.draw(st.text(max_size=5)), x=x, y=y, kind=kind)
    assert svg(draw_plot(replace(LOSS, lines=(line,))))


def test_every_plot_has_its_files(tmp_path: Path) -> None:
    plots = [HEATMAP, CURVES, replace(CURVES), IMAGES, replace(LOSS, title="模型")]
    written = write_plots(plots, tmp_path / "new" / "plots")
    names = ["block-outputs-that-are-alike", "progressive-replacement", "progressive-replacement-2"]
    names += ["attention-of-the-first-block", "plot"]
    assert [path.name for path in written] == [
        "plots.json", *(f"{name}.{kind}" for name in names for kind in ("png", "svg")),
    ]  # fmt: skip
    assert {path.name for path in (tmp_path / "new" / "plots").iterdir()} == {path.name for path in written}
    assert read_plots(written[0])[:3] == plots[:3]
    assert written[1].read_bytes() == png(draw_plot(HEATMAP))
    assert written[2].read_text(encoding="utf-8") == svg(draw_plot(HEATMAP))


def test_only_the_asked_formats_are_written(tmp_path: Path) -> None:
    assert [path.name for path in write_plots([LOSS], tmp_path, formats=("svg",))] == ["loss.svg"]
    assert [path.name for path in write_plots([LOSS], tmp_path, formats=("json",))] == ["plots.json"]
    with pytest.raises(SettingsError, match="unknown plot format 'sgv'; did you mean 'svg'"):
        write_plots([LOSS], tmp_path, formats=("sgv",))


def test_nothing_is_written_when_one_plot_fails(tmp_path: Path) -> None:
    bad = replace(IMAGES, images=(([[2.0]],) * 2,) * 2)
    with pytest.raises(ResultsError, match="from 0 to 1"):
        write_plots([LOSS, bad], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResultsError, match="cannot write the report"):
        write_plots([LOSS], tmp_path / "file")
    (tmp_path / "plots.json").mkdir()
    with pytest.raises(ResultsError, match="cannot write the report"):
        write_plots([LOSS], tmp_path)
    assert not list(tmp_path.glob(".*"))
