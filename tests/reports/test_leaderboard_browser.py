"""The leaderboard in a real browser, with cards that others may have written: narrow and wide, in light and in dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.reports.conftest import N, measure, setting

from radapt.reports import write_leaderboard, write_report
from radapt.results import Results, Run

pytestmark = pytest.mark.browser

EVIL = """<img src=x onerror="alert('x')"></script><b>"&amp; {{ 7 * 7 }}"""
METHODS = {"TeCoA": (110, 98, 71), "FARE": (126, 104, 66), EVIL: (130, 100, 80), "unattacked": (145, 133, None)}


@pytest.fixture(scope="module")
def leaderboard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("leaderboard")
    path = folder / "results.sqlite"
    with Results(path) as store:
        store.notes.add_run(Run(date="2031", command=f"radapt {EVIL}", machine="m", device="cpu", versions={EVIL: "1"}))
        for dataset in ("shapes", "colours"):
            for method, (clean, transfer, white_box) in METHODS.items():
                measured = [(setting(method, dataset), clean)]
                for eps in (2 / 255, 4 / 255):
                    measured.append((setting(method, dataset, "undefended", eps=eps), transfer))
                    if white_box:
                        measured.append((setting(method, dataset, "self", eps=eps, attack="autoattack"), white_box))
                for each, successes in measured:
                    measure(store, each, successes)
                    flagged = method == "TeCoA" and each.source == "self" and dataset == "shapes"
                    store.flag(each, {EVIL: EVIL} if flagged else {}, checked=N)
    about = {EVIL: {"paper": EVIL, "link": 'https://example.org/"onmouseover="alert(1)', "changed": 1.0}}
    write_report(path, folder / "report", formats=["csv"], cards=folder / "cards", about=about)
    return write_leaderboard(folder / "cards", folder / "page.html", title=EVIL)


@pytest.fixture(params=["390 dark", "1280 light"])
def page(request: pytest.FixtureRequest, browser: Any, leaderboard: Path) -> Iterator[Any]:
    """The page, opened; it may not say anything on the console, nor ask for anything but itself."""
    width, scheme = request.param.split()
    context = browser.new_context(viewport={"width": int(width), "height": 900}, color_scheme=scheme)
    opened = context.new_page()
    opened.set_default_timeout(10_000)
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("dialog", lambda dialog: said.append(dialog.message))
    opened.on("request", lambda asked: None if asked.url == leaderboard.as_uri() else said.append(asked.url))
    opened.goto(leaderboard.as_uri())
    yield opened
    assert said == []
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than its window"
    context.close()


def names(page: Any, board: int = 0) -> list[str]:
    rows = page.locator("table.board tbody").nth(board).locator("tr:not(.section) th")
    return list(rows.all_inner_texts())


def test_axe_finds_nothing(page: Any) -> None:
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    assert [f"{rule['id']}: {node['html']}" for rule in found for node in rule["nodes"]] == []


def test_the_order_is_white_box_and_flags_come_last(page: Any) -> None:
    assert names(page) == [EVIL, "FARE", "TeCoA", "unattacked"]
    row = page.locator("table.board tbody").first.locator("tr", has_text="TeCoA")
    assert "not ranked" in row.inner_text()
    assert f"flag: {EVIL}" in row.inner_text()
    assert names(page, 2) == [EVIL, "TeCoA", "FARE", "unattacked"]  # on the other dataset it has no flag


def test_columns_are_sorted_within_each_board(page: Any) -> None:
    page.get_by_role("button", name="clean").click()
    assert names(page) == names(page, 3) == ["unattacked", EVIL, "FARE", "TeCoA"]
    page.get_by_role("button", name="transfer, not robustness").click()
    assert names(page)[0] == "unattacked"
    page.get_by_role("button", name="robust (white-box)").click()
    assert names(page)[-1] == "unattacked"


def test_boards_are_chosen(page: Any) -> None:
    page.get_by_label("Dataset").select_option("colours")
    page.get_by_label("Radius").select_option("l∞ 4/255")
    assert page.locator("table.board tbody:visible").count() == 1
    assert page.locator("tr.section:visible").inner_text().startswith("colours, l∞ 4/255")
    assert page.locator("#choose [role=status]").inner_text() == "1 of 4 boards shown."


def test_what_others_typed_is_shown_as_text(page: Any) -> None:
    assert page.locator("h1").inner_text() == EVIL
    assert page.locator("img").count() == 0
    cards = page.locator("article.card", has_text="100 % of the vision encoder")
    assert cards.count() == 2
    assert f"radapt {EVIL}" in cards.first.inner_text()
    assert cards.first.locator("a").evaluate("e => e.onmouseover") is None
    page.locator("table.board a", has_text="FARE").first.click()
    assert page.locator("article.card h3", has_text="FARE").first.evaluate(
        "e => Math.abs(e.getBoundingClientRect().top) < innerHeight"
    )


def test_without_scripts_every_board_is_there(browser: Any, leaderboard: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto(leaderboard.as_uri())
    assert opened.locator("table.board tbody:visible").count() == 4
    assert not opened.locator("#choose").is_visible()
    context.close()
