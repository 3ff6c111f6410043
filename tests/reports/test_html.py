from __future__ import annotations

import base64
import io
import re
import tempfile
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.reports.conftest import METHODS, N, measure, png, setting

from radapt.errors import ResultsError
from radapt.reports import Part, write_experiments
from radapt.reports._gallery import gallery_of, perturbation, spectrum
from radapt.reports.html import content_of, page
from radapt.results import Example, Results

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.cells[-1][-1] += data


@pytest.fixture(scope="module")
def text(results_file: Path) -> str:
    with Results(results_file, read_only=True) as store:
        return page(store)


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
    assert not re.findall(r"url\((?!#)|@import", re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL))
    anchors = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert set(re.findall(r'href="#(flag-\d+)"', text)) <= set(anchors)


def test_the_table_holds_the_results(text: str) -> None:
    rows = [[" ".join(cell.replace("\N{EN DASH}", " to ").split()) for cell in row] for row in Page(text).cells]
    assert ["R-Adapt_CLIP", "73.0 66.5 to 78.7", "60.5 53.6 to 67.0", "2.0 0.8 to 5.0"] in rows
    assert ["R-Adapt_CLIP", "65.0 58.2 to 71.3", "52.5 45.6 to 59.3", "0.0 0.0 to 1.9[1]"] in rows  # with footnote 1
    assert ["R-Adapt+ (adaptive)", "72.5 65.9 to 78.2", "67.0 60.2 to 73.1 white-box not measured", "—"] in rows
    assert sum(row[0] in METHODS and len(row) == 4 and " to " in row[1] for row in rows) == 4 * len(METHODS)


def test_only_white_box_is_called_robust(text: str) -> None:
    (head,) = [row for row in Page(text).cells if row and row[0].strip() == "method" and "clean" in row]
    assert [("robust" in title) for title in head] == [False, False, False, True]
    assert "This is not robust accuracy" in text


def test_the_page_says_who_falls(text: str) -> None:
    plain = " ".join(re.sub(r"<[^>]+>", "", text).split())
    assert (
        "R-Adapt_CLIP: 72.3 % clean, 59.8 % against transferred attacks, 2.0 % against white-box attacks: it falls"
        in plain
    )
    assert "zero gradients: 31 % of the pixels (R-Adapt_CLIP, digits, white-box)" in plain


def test_every_setting_is_on_the_page(text: str) -> None:
    heads = next(row for row in Page(text).cells if "model" in row)
    named = set(re.findall(r"<dt>([^<]+)</dt>", text)) | set(heads)
    assert named >= {
        "method", "model", "adapter", "task", "dataset", "split", "n", "attack", "norm", "eps", "source", "options",
        "seed", "version", "seconds", "forwards", "backwards",
    }  # fmt: skip


def test_whatever_users_typed_is_escaped(tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>'
    with Results(tmp_path / "r.sqlite") as store:
        typed = {"model": evil, "dataset": evil, "options": {evil: evil}}
        measure(store, setting(evil, **typed), 100)
        measure(store, setting(evil, dataset="b"), 100)
        transfer = measure(store, setting(evil, source=evil, attack=evil, norm=evil, **typed), 50)
        store.flag(transfer, {evil: evil})
        example = Example(position=0, clean=png(1), adversarial=png(2), truth=evil, before=evil, after=evil)
        store.add(transfer, [], examples=[example])
        text = page(store, title=evil)
    found = Page(text)
    assert [tag for tag, _ in found.tags].count("script") == 4  # data, libraries, controls, sorting
    assert "<script>alert" not in text
    assert all(not name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert "&lt;script&gt;" in text


def shapes(folder: Path, texts: list[str]) -> set[tuple[str, frozenset[str]]]:
    """Tags of both pages, with the names of their attributes, where results and experiments have these texts."""
    method, model, data, attack, norm, title = texts
    with Results(folder / "r.sqlite") as store:
        typed = {"model": model, "dataset": data, "options": {attack: norm}}
        measure(store, setting(method, **typed), 100)
        transfer = measure(store, setting(method, source=model, attack=attack, norm=norm, **typed), 50)
        store.flag(transfer, {title: data})
        text = page(store, title=title)
    part = Part(
        name=method, title=title, description=data, published=attack, command=model, note=norm, plots=(),
        results=folder / "r.sqlite",
    )  # fmt: skip
    pages = Page(text), Page(write_experiments([part], folder / "index.html", title=title).read_text("utf-8"))
    return {(tag, frozenset(attributes)) for each in pages for tag, attributes in each.tags}


@pytest.mark.slow
@given(st.lists(st.text(st.sampled_from("<>&\"'{}%`=/-!\\$\n\x1b\udcff;()[]ab"), min_size=1), min_size=6, max_size=6))
@settings(max_examples=10)
def test_no_text_of_a_user_makes_a_tag_or_an_attribute(texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a").mkdir()
        known = shapes(Path(folder) / "a", ["method", "model", "data", "attack", "linf", "title"])
        assert shapes(Path(folder), texts) <= known


@settings(max_examples=25)
@given(st.data())
def test_the_perturbation_is_enlarged_ten_times_around_grey(data: st.DataObject) -> None:
    shape = (3, 4, 3)
    size = int(np.prod(shape))
    clean, adversarial = (
        np.array(data.draw(st.lists(st.integers(0, 255), min_size=size, max_size=size)), np.uint8).reshape(shape)
        for _ in range(2)
    )
    encoded = []
    for pixels in (clean, adversarial):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        encoded.append(stream.getvalue())
    with Image.open(io.BytesIO(perturbation(encoded[0], encoded[1]))) as image:
        found = np.asarray(image, int)
    exact = 127.5 + 10.0 * (adversarial.astype(int) - clean.astype(int))
    assert np.abs(found - np.clip(exact, 0, 255)).max() <= 0.5


def test_examples_show_the_three_images_and_the_answers(text: str) -> None:
    found = Page(text)
    images = [str(attributes["src"]) for tag, attributes in found.tags if tag == "img"]
    assert len(images) == 4 * 8
    decoded = [base64.b64decode(address.partition(",")[2]) for address in images[:3]]
    assert decoded[:2] == [png(120), png(124)]
    with Image.open(io.BytesIO(decoded[2])) as image:
        assert image.convert("RGB").getpixel((0, 0)) == (168, 168, 168)  # 127.5 + 10 * 4
    assert 'class="wrong">star<' in text
    assert 'class="wrong">circle<' not in text


@pytest.mark.slow
def test_a_limit_of_examples_takes_some_of_every_setting(results_file: Path) -> None:
    with Results(results_file, read_only=True) as store:
        limited = page(content_of(store, max_examples=4))
    assert re.findall(r'<article [^>]*data-method="([^"]+)"', limited) == ["CLIP", "TeCoA", "FARE", "R-Adapt_CLIP"]


def examples_of(store: Results, limit: int = 96, **settings: int) -> list[tuple[str, str, int]]:
    gallery = gallery_of(store, store.all(), limit, **settings)
    return [(each.dataset, each.method, each.position) for each in gallery.shown]


@pytest.fixture
def pictured(tmp_path: Path) -> Iterator[Results]:
    """Two methods on two data sets; the first is wrong about image 1 of each, without any attack."""
    with Results(tmp_path / "r.sqlite") as store:
        for dataset in ("a", "b"):
            for method in ("m", "other"):
                measure(store, setting(method, dataset, n=2), 1 if method == "m" else 2, n=2)
                attacked = measure(store, setting(method, dataset, "self", n=2), 0, n=2)
                examples = [
                    Example(position=at, clean=png(100), adversarial=png(104), truth="x", before="x", after="y")
                    for at in range(2)
                ]
                store.add(attacked, [], examples=examples)
        yield store


def test_images_that_were_wrong_without_an_attack_are_not_shown(pictured: Results) -> None:
    assert ("a", "m", 1) not in examples_of(pictured)
    assert ("a", "other", 1) in examples_of(pictured)
    assert gallery_of(pictured, pictured.all(), 96).wrong == 2


def test_few_images_are_of_every_dataset(pictured: Results) -> None:
    assert [dataset for dataset, *_ in examples_of(pictured, 2)] == ["a", "b"]
    assert len(examples_of(pictured, budget=1)) == 1
    assert gallery_of(pictured, pictured.all(), 2).left == 4


def test_attention_lies_over_the_image_in_grey(tmp_path: Path) -> None:
    maps = []
    for bright in (0, 1):
        stream = io.BytesIO()
        Image.fromarray(np.array([[0, 255]], np.uint8)[:, :: -1 if bright else 1]).save(stream, "PNG")
        maps.append(stream.getvalue())
    with Results(tmp_path / "r.sqlite") as store:
        measure(store, setting("m", n=2), 2, n=2)
        attacked = measure(store, setting("m", source="self", n=2), 0, n=2)
        own = {"clean": png(200), "adversarial": png(204), "truth": "x", "before": "x", "after": "y"}
        seen = Example(position=0, **own, attention_before=maps[0], attention_after=maps[1])
        store.add(attacked, [], examples=[seen, Example(position=1, **own)])
        gallery, text = gallery_of(store, store.all(), 2), page(store)
    decoded = [base64.b64decode(address.partition(",")[2]) for address in gallery.shown[0].looks]
    before, after = (np.asarray(Image.open(io.BytesIO(content)), int) for content in decoded)
    dark, light = 0.65 * np.array([68, 1, 84]) + 0.35 * 200, 0.65 * np.array([253, 231, 36]) + 0.35 * 200
    assert before.shape == (8, 8, 3)
    assert np.abs(before[:, :4] - dark).max() < 2
    assert np.abs(before[:, 4:] - light).max() < 2
    assert np.abs(after[:, 4:] - dark - 0.35 * 4).max() < 2
    assert gallery.shown[1].looks == ()
    assert gallery.blind == 1
    assert text.count("attention before</figcaption>") == 1
    assert "For 1 of these images none was recorded" in " ".join(text.split())


def test_large_images_are_shown_small_in_bytes(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (224, 224, 3), np.uint8)
    encoded = []
    for pixels in (noise, noise ^ 1):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        encoded.append(stream.getvalue())
    with Results(tmp_path / "r.sqlite") as store:
        measure(store, setting("m", n=1), 1, n=1)
        attacked = measure(store, setting("m", source="self", n=1), 0, n=1)
        example = Example(position=0, clean=encoded[0], adversarial=encoded[1], truth="x", before="x", after="y")
        store.add(attacked, [], examples=[example])
        (shown,) = gallery_of(store, store.all(), 1).shown
    assert shown.clean.startswith("data:image/jpeg;base64,")
    assert len(shown.clean) < len(encoded[0])


@pytest.mark.parametrize("frequency", [0, 2, 7])
def test_the_spectrum_shows_the_frequency_of_a_perturbation(frequency: int) -> None:
    wave = 100 + 50 * np.cos(2 * np.pi * frequency * np.arange(32) / 32)
    clean, adversarial = np.full((32, 32, 3), 100, np.uint8), np.empty((32, 32, 3), np.uint8)
    adversarial[:] = np.round(wave)[None, :, None]
    encoded = []
    for pixels in (clean, adversarial):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        encoded.append(stream.getvalue())
    with Image.open(io.BytesIO(spectrum(*encoded))) as image:
        found = np.asarray(image)
    assert set(zip(*np.nonzero(found == 255), strict=True)) == {(16, 16 - frequency), (16, 16 + frequency)}


def test_an_image_that_did_not_change_has_a_black_spectrum() -> None:
    with Image.open(io.BytesIO(spectrum(png(7), png(7)))) as image:
        assert not np.asarray(image).any()


@pytest.mark.parametrize(
    ("clean", "adversarial", "message"),
    [(b"no image", png(1), "not a PNG"), (png(1)[:45], png(1), "not a PNG"), (png(1), png(1, 9), "different sizes")],
    ids=["text", "truncated", "sizes"],
)
def test_damaged_examples_are_an_error(clean: bytes, adversarial: bytes, message: str) -> None:
    with pytest.raises(ResultsError, match=message):
        perturbation(clean, adversarial)


def test_a_page_of_clean_results_only_has_no_plot(make: Callable[..., Results]) -> None:
    with make((setting("x"), 10)) as store:
        text = page(store)
    assert 'id="trade-off"' not in text
    assert "nothing is known about robustness" in text
    assert f"shapes (n = {N})" in text
