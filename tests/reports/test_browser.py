"""The report in a real browser, used as a person would: at three widths, in light and in dark."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.reports.conftest import N, measure, png, setting

from radapt.reports import write_report
from radapt.results import Example, Results, Run

pytestmark = pytest.mark.browser

EVIL = """<img src=x onerror="alert('x')"></script><b>"&amp; {{ 7 * 7 }}"""
ALPHAS = (0.0, 0.4, 0.8, 1.2)
RADII = (2, 4)
TIMES = "\N{MULTIPLICATION SIGN}"
WIDTHS = (390, 768, 1280)
# clean, transfer, white-box at 2/255 and at 4/255: successes of 200
METHODS = {
    "CLIP": (150, None, (20, 1)),
    "FARE": (126, 104, (90, 66)),
    EVIL: (130, 100, (80, 40)),
    "masked": (140, 130, (100, 90)),
    "unattacked": (145, 133, None),
    **{f"R-Adapt, alpha {alpha:g}": (146 - int(20 * alpha), 121, (30, 4 + int(alpha * 10))) for alpha in ALPHAS},
}


def fill(path: Path) -> Path:
    with Results(path) as store:
        store.notes.add_run(
            Run(date="2031-01-02T03:04:05+00:00", command=f"radapt evaluate '{EVIL}'", machine="a machine",
                device="cpu", versions={"radapt": "1.0"})
        )  # fmt: skip
        for dataset, shift in (("shapes", 0), ("colours", 12)):
            for method, (clean, transfer, white_box) in METHODS.items():
                measure(store, setting(method, dataset), clean + shift)
                for at, radius in enumerate(RADII):
                    for attack, more in (("apgd", 0), ("square", 15)):
                        threat: dict[str, Any] = {"attack": attack, "eps": radius / 255}
                        if white_box:
                            measured = setting(method, dataset, "self", **threat)
                            measure(store, measured, white_box[at] + more + shift // 3)
                            store.flag(measured, {"large ball": "still right"} if method == "masked" else {}, checked=N)
                            if attack == "apgd":
                                store.add(measured, [], examples=examples())
                        if transfer:
                            measure(store, setting(method, dataset, "undefended", **threat), transfer - 10 * at + shift)
    return path


def examples() -> list[Example]:
    """Two images; where the model looks is known of the first."""
    looks = {"attention_before": png(20, 4), "attention_after": png(220, 4)}
    return [
        Example(
            position=at, clean=png(90, 16), adversarial=png(93 + at, 16), truth=EVIL, before=EVIL, after="a star",
            **({} if at else looks),
        )
        for at in range(2)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    (path,) = write_report(fill(folder / "results.sqlite"), folder / "report", formats=["html"])
    return path


@contextmanager
def opening(browser: Any, report: Path, width: int, scheme: str) -> Iterator[Any]:
    """The report, opened; it may not say anything on the console, nor ask for anything but itself."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened = context.new_page()
    opened.set_default_timeout(30_000)
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("dialog", lambda dialog: said.append(dialog.message))
    opened.on(
        "request",
        lambda asked: (
            None if asked.url.startswith(("data:", report.as_uri())) else said.append(f"asks for {asked.url}")
        ),
    )
    opened.goto(report.as_uri())
    yield opened
    assert said == []
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than its window"
    context.close()


@pytest.fixture(params=["390 dark", "768 light", "1280 light"])
def page(request: pytest.FixtureRequest, browser: Any, report: Path) -> Iterator[Any]:
    """The report in a window of one of three widths."""
    width, scheme = request.param.split()
    with opening(browser, report, int(width), scheme) as opened:
        yield opened


def choices(page: Any, part: str, name: str) -> list[str]:
    return list(page.locator(f"#{part} select[name={name}] option").all_inner_texts())


def choose(page: Any, part: str, name: str, label: str) -> None:
    page.locator(f"#{part} select[name={name}]").select_option(label=label)


def dots(page: Any, part: str) -> list[str]:
    """What the marks of a plot say of themselves."""
    return list(page.locator(f"#{part} .dot > *").evaluate_all("marks => marks.map(e => e.getAttribute('aria-label'))"))


def breaches(page: Any, *, unsure: bool = False, **options: Any) -> list[str]:
    """What axe finds wrong; ``unsure``: also what it cannot judge."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options={"resultTypes": ["violations", "incomplete"], **options}).response
    rules = [*found["violations"], *(found["incomplete"] if unsure else [])]
    return [f"{rule['id']}: {node['html']}" for rule in rules for node in rule["nodes"]]


WIDE = """
body { min-width: 4100px } main { width: 4000px; max-width: none } .scroll { overflow: visible }
figure.chart { width: %dpx }
"""


def test_axe_finds_nothing(page: Any) -> None:
    page.locator("details summary").click()
    page.locator("#tradeoff .dot > *").first.focus()
    assert breaches(page, rules={"color-contrast": {"enabled": False}}) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_every_text_stands_out_from_what_is_behind_it(browser: Any, report: Path, width: int, scheme: str) -> None:
    """Of what is scrolled out of sight no tool can tell, so there is room for all of it here."""
    with opening(browser, report, width, scheme) as page:
        room = page.locator("#tradeoff figure").evaluate("figure => figure.clientWidth")
        style = page.add_style_tag(content=WIDE % room)
        assert breaches(page, unsure=True, runOnly=["color-contrast"]) == []
        style.evaluate("style => style.remove()")


def test_the_verdict_comes_first_and_can_be_copied(page: Any) -> None:
    assert page.locator("h2").nth(1).inner_text() == "Verdict"
    page.get_by_role("button", name="Copy the verdict").click()
    page.get_by_text("Copied.").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert re.search(r"l∞ 4/255, mean over 2 data sets: FARE has the highest white-box accuracy", copied)
    assert "Not to be trusted" in copied
    assert EVIL in copied


def test_the_contents_lead_to_every_part(page: Any) -> None:
    links = page.locator("nav.contents a").all()
    assert len(links) == page.locator("main section > h2").count() == 10
    for link in links:
        link.click()
        target = page.locator(f"h2{link.get_attribute('href')}")
        assert target.evaluate("e => e.getBoundingClientRect().top < innerHeight && e.getBoundingClientRect().top > -5")


def test_the_trade_off_is_filtered_by_dataset_radius_and_attack(page: Any) -> None:
    assert choices(page, "tradeoff", "dataset") == ["mean over 2 data sets", "shapes", "colours"]
    assert choices(page, "tradeoff", "threat") == ["l∞ 2/255", "l∞ 4/255"]
    assert choices(page, "tradeoff", "attack") == ["all together: the worst case", "apgd", "square"]
    choose(page, "tradeoff", "dataset", "shapes")
    assert [text for text in dots(page, "tradeoff") if text.startswith("FARE, white-box 45.0 ")]
    choose(page, "tradeoff", "threat", "l∞ 4/255")
    assert [text for text in dots(page, "tradeoff") if text.startswith("FARE, white-box 33.0 ")]
    choose(page, "tradeoff", "attack", "square")
    assert [text for text in dots(page, "tradeoff") if text.startswith("FARE, white-box 40.5 ")]
    choose(page, "tradeoff", "dataset", "colours")
    assert [text for text in dots(page, "tradeoff") if text.startswith("FARE, white-box 42.5 ")]


def test_methods_are_chosen_with_the_keyboard(page: Any) -> None:
    everything = len(dots(page, "tradeoff"))
    assert everything == 2 * len(METHODS) - 2  # one has no transfer, one nothing white-box
    box = page.locator("#tradeoff .ticks").get_by_label("FARE")
    box.focus()
    page.keyboard.press("Space")
    assert not [text for text in dots(page, "tradeoff") if text.startswith("FARE")]
    assert (
        page.locator("#tradeoff [role=status]").inner_text() == f"{len(METHODS) - 1} of {len(METHODS)} methods shown."
    )
    page.locator("#tradeoff").get_by_role("button", name="None").click()
    assert dots(page, "tradeoff") == []
    page.keyboard.press("Tab")
    page.locator("#tradeoff").get_by_role("button", name="All").press("Enter")
    assert len(dots(page, "tradeoff")) == everything


def test_a_mark_tells_what_it_is_to_the_pointer_and_to_the_keyboard(page: Any) -> None:
    page.locator("#tradeoff").get_by_role("button", name="None").click()
    page.locator("#tradeoff .ticks").get_by_label("masked").check()
    transfer, white_box = page.locator("#tradeoff .dot > *").all()
    transfer.hover()
    assert page.locator("#tip").inner_text().startswith("masked\ntransfer ")
    page.mouse.move(0, 0)
    assert page.locator("#tip").is_hidden()
    transfer.focus()
    page.keyboard.press("Tab")
    assert white_box.evaluate("e => e === document.activeElement")
    told = page.locator("#tip").inner_text()
    assert told.startswith("masked\nwhite-box ")
    assert "not to be trusted" in told
    box, window = page.locator("#tip").bounding_box(), page.viewport_size
    assert 0 <= box["x"] <= box["x"] + box["width"] <= window["width"]
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()


def test_every_result_of_the_table_is_in_sight(page: Any) -> None:
    cells = page.locator("table.results tbody").first.locator("tr:nth-child(2) td").all()
    assert len(cells) > 5
    robust = [cell for cell in cells if "robust accuracy" in cell.get_attribute("data-label")]
    assert len(robust) == len(RADII)
    if page.viewport_size["width"] == 390:
        for cell in cells:
            box = cell.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 390


def test_the_table_is_in_the_order_of_white_box_accuracy_and_is_sorted_by_any_column(page: Any) -> None:
    def names() -> list[str]:
        return list(page.locator("table.results tbody").first.locator("tr:not(.section) th").all_inner_texts())

    assert names()[:2] == ["FARE", EVIL]
    assert names()[-2:] == ["masked", "unattacked"]  # flagged, and not measured
    head = page.locator("table.results thead th").nth(1)
    head.locator("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert names()[0] == "CLIP"
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert names()[0] == "R-Adapt, alpha 1.2"


def test_the_heat_map_shows_one_result_at_a_time(page: Any) -> None:
    grids = page.locator("#heatmap div.grid")
    titles = choices(page, "heatmap", "grid")
    assert len(titles) == grids.count() > 3
    shown = [grid for grid in grids.all() if grid.is_visible()]
    assert len(shown) == 1
    assert "robust accuracy" in shown[0].locator("caption").inner_text()
    choose(page, "heatmap", "grid", "clean")
    assert [grid.locator("caption").inner_text() for grid in grids.all() if grid.is_visible()] == ["clean, in per cent"]
    row = page.locator("#heatmap div.grid:visible tr", has=page.locator("th", has_text="FARE"))
    assert row.locator("td").all_inner_texts() == ["63.0", "69.0"]


def test_the_slider_moves_over_what_was_measured(page: Any) -> None:
    assert choices(page, "sweep", "sweep") == ["l∞ radius (1/255)", "alpha"]
    slider, output = page.locator("#sweep input[type=range]"), page.locator("#sweep output")
    assert output.inner_text() == "2"
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert output.inner_text() == "4"
    page.keyboard.press("ArrowRight")
    assert output.inner_text() == "4"
    choose(page, "sweep", "sweep", "alpha")
    choose(page, "sweep", "dataset", "shapes")
    choose(page, "sweep", "threat", "l∞ 4/255")
    seen = []
    for alpha in ALPHAS:
        assert output.inner_text() == f"{alpha:g}"
        seen.append(page.locator("#sweep tbody td").nth(2).inner_text().partition(" ")[0])
        slider.press("ArrowRight")
    assert seen == ["2.0", "4.0", "6.0", "8.0"]
    assert len([text for text in dots(page, "sweep") if "white-box" in text]) == len(ALPHAS)


def test_methods_are_compared_in_pairs(page: Any) -> None:
    assert choices(page, "paired", "threat")[0] == "no attack"
    choose(page, "paired", "threat", "l∞ 4/255, white-box, worst case")
    choose(page, "paired", "dataset", "shapes")
    choose(page, "paired", "method", "FARE")
    row = page.locator("#paired tbody tr", has=page.locator("th", has_text="CLIP"))
    assert row.locator("td").all_inner_texts()[0].startswith("-32.5 [")
    assert row.locator("td").last.inner_text() == "worse"
    masked = page.locator("#paired tbody tr", has=page.locator("th", has_text="masked"))
    assert masked.locator("td").last.inner_text() == "better, but flagged"
    choose(page, "paired", "method", "masked")
    assert row.locator("td").last.inner_text() == "worse, but flagged"
    choose(page, "paired", "method", "CLIP")
    row = page.locator("#paired tbody tr", has=page.locator("th", has_text="FARE"))
    assert row.locator("td").last.inner_text() == "better"
    choose(page, "paired", "threat", "no attack")
    assert "no attack" in page.locator("#paired caption").inner_text()


def test_the_images_are_turned_over_and_filtered(page: Any) -> None:
    gallery = page.locator("#gallery")
    shown, said = gallery.locator("article:visible"), gallery.locator("[role=status]")
    total = gallery.locator("article").count()
    assert said.inner_text() == f"1 of {total}"
    gallery.get_by_role("button", name="Next").click()
    assert said.inner_text() == f"2 of {total}"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert said.inner_text() == f"3 of {total}"
    choose(page, "gallery", "dataset", "colours")
    choose(page, "gallery", "method", "FARE")
    assert shown.count() == 1
    assert shown.locator("h3").inner_text() == "colours, image 0: FARE"
    sizes = "all => Promise.all(all.map(e => e.decode().then(() => e.naturalWidth)))"
    assert shown.locator("img").evaluate_all(sizes) == [16] * 6
    captions = shown.locator("figcaption").all_inner_texts()
    assert captions == [
        f"before: {EVIL}", "attention before", "after: a star", "attention after",
        f"perturbation {TIMES} 10", "its spectrum, 60 dB",
    ]  # fmt: skip
    assert said.inner_text() == f"1 of {len(RADII) * 2}"
    gallery.get_by_role("button", name="Previous").click()
    assert said.inner_text() == f"{len(RADII) * 2} of {len(RADII) * 2}"


def test_the_perturbation_is_magnified_further(page: Any) -> None:
    gallery = page.locator("#gallery")
    gallery.locator("input[type=range]").press("End")
    assert gallery.locator("output").inner_text() == TIMES + " 60"
    assert gallery.locator("article:visible .gain").inner_text() == TIMES + " 60"
    image = gallery.locator("article:visible img.difference")
    assert image.evaluate("e => getComputedStyle(e).filter") == "contrast(6)"


def test_names_are_shown_as_they_were_typed(page: Any) -> None:
    assert page.locator("table.results th", has_text=EVIL).count() == 3  # two data sets and their mean
    assert page.locator("img[src=x]").count() == 0
    page.locator("#tradeoff").get_by_role("button", name="None").click()
    page.locator("#tradeoff .ticks").get_by_text(EVIL).click()
    assert all(text.startswith(EVIL) for text in dots(page, "tradeoff"))
    assert f"radapt evaluate '{EVIL}'" in page.locator("dl.run").inner_text()


def test_plots_follow_the_width_of_the_window(page: Any) -> None:
    window = page.viewport_size
    page.set_viewport_size({"width": 500, "height": 900})
    page.wait_for_function("document.querySelector('#tradeoff figure svg').clientWidth < 500")
    page.set_viewport_size(window)


def test_without_scripts_every_number_is_there(browser: Any, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto(report.as_uri())
    assert opened.locator("#verdict-text").is_visible()
    assert opened.locator("table.results").is_visible()
    assert all(grid.is_visible() for grid in opened.locator("#heatmap div.grid").all())
    assert opened.locator("#gallery article").last.is_visible()
    context.close()


def test_on_paper_there_are_no_controls(browser: Any, report: Path) -> None:
    opened = browser.new_page()
    opened.goto(report.as_uri())
    opened.emulate_media(media="print")
    assert not [each for each in opened.locator("select, button:not(thead button)").all() if each.is_visible()]
    assert opened.locator("#gallery article").last.is_visible()
    opened.close()
