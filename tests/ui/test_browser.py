"""The page in a real browser: every control, three widths, two users, what is hostile; no errors, no other hosts."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from tests.ui.conftest import bomb

import radapt

pytestmark = pytest.mark.browser
WIDTHS = (390, 768, 1280)
EVIL = "<img src=x onerror=document.title='hacked'>"
GRADIO = "Method not implemented."
"""What Gradio warns of itself at the end of an upload."""
Open = Callable[..., Any]


@pytest.fixture
def visit(browser: Any, url: str) -> Iterator[Open]:
    """Opens the page as somebody new; at the end there must have been no error, and no request to another host."""
    wrong: list[str] = []
    contexts = []

    def request(each: Any) -> None:
        if not each.url.startswith((url, "data:", "blob:")):
            wrong.append(f"asked {each.url}")

    def visitor(width: int = 1280) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.on("request", request)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda text: wrong.append(text.text) if text.type in ("error", "warning") else None)
        page.wrong = wrong
        page.goto(url)
        page.wait_for_selector("#ra-answers .ra-card")
        page.wait_for_selector("#ra-attention .ra-card")
        page.wait_for_timeout(200)
        return page

    yield visitor
    for context in contexts:
        context.close()
    assert [text for text in wrong if text != GRADIO] == []


def answers(page: Any) -> list[str]:
    """What the models say first."""
    found: list[str] = page.locator("#ra-answers .ra-first .ra-name").all_inner_texts()
    return [text.replace("right answer", "").strip() for text in found]


def changes(page: Any, what: str, act: Callable[[], Any]) -> None:
    """Do something, and wait until a part of the page has changed."""
    what += " .prose"  # beside it, Gradio counts the seconds
    before = page.inner_html(what)
    act()
    page.wait_for_function("([what, old]) => document.querySelector(what).innerHTML !== old", arg=[what, before])


def choose(page: Any, control: str, name: str) -> None:
    page.click(f"{control} input")
    page.get_by_role("option", name=name, exact=True).click()


def type_into(page: Any, control: str, text: str) -> None:
    page.fill(f"{control} textarea", text)


def alert(page: Any) -> str:
    text: str = page.locator("#ra-status [role=alert]").inner_text(timeout=20_000)
    return text


def send(page: Any, file: Path) -> None:
    page.get_by_role("tab", name="Your own").click()
    page.set_input_files("#ra-upload input[type=file]", file)


def finish(page: Any) -> str:
    text: str = page.locator("#ra-outcome .ra-verdict").inner_text(timeout=60_000)
    return text


def test_the_first_view_says_what_the_model_says(visit: Open) -> None:
    page = visit()
    assert page.title() == "R-Adapt playground"
    assert answers(page) == ["star", "star"]
    assert page.locator("#ra-gallery button.thumbnail-item").count() == 12
    assert page.locator("#ra-picture img").get_attribute("alt") == "shapes, picture 4"


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits(visit: Open, width: int) -> None:
    page = visit(width)
    page.click("#ra-start")
    finish(page)
    page.wait_for_selector("#ra-traces .ra-spectrum")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    texts = page.locator(".ra-card p, .ra-card li, .ra-card h3, .ra-card figcaption")
    assert texts.evaluate_all("all => all.filter(e => e.scrollWidth > e.clientWidth).map(e => e.innerText)") == []
    assert page.locator("#ra-gallery .thumbnail-item").last.evaluate(
        "e => e.closest('#ra-gallery').getBoundingClientRect().bottom - e.getBoundingClientRect().bottom < 40"
    )


def test_the_answers_follow_the_sliders(visit: Open) -> None:
    page = visit()
    for control, key in (("#ra-alpha", "ArrowRight"), ("#ra-d0", "ArrowLeft")) * 2:
        page.locator(f"{control} input[type=range]").focus()
        changes(page, "#ra-answers", lambda key=key: page.keyboard.press(key))
    assert "alpha=0.5" in page.inner_text("#ra-answers")
    assert "D0=38 " in page.inner_text("#ra-answers")


def test_another_picture_and_another_set(visit: Open) -> None:
    page = visit()
    changes(page, "#ra-picture", lambda: page.locator("#ra-gallery button.thumbnail-item").nth(1).click())
    first = "[...document.querySelectorAll('#ra-answers .ra-first .ra-name')]"
    page.wait_for_function(f"{first}.length == 2 && {first}.every(name => name.innerText.includes('square'))")
    assert answers(page) == ["square", "square"]
    choose(page, "#ra-set", "digits")
    page.wait_for_function("document.querySelector('#ra-classes textarea').value.startsWith('zero')")
    page.wait_for_function("/five|three/.test(document.querySelector('#ra-answers .ra-first').innerText)")
    assert "handwritten" in page.input_value("#ra-templates textarea")


def test_ones_own_words(visit: Open) -> None:
    page = visit()
    changes(page, "#ra-answers", lambda: type_into(page, "#ra-templates", "{a c}, painted in oil"))
    type_into(page, "#ra-classes", "moon, star, sun")
    page.wait_for_function("document.querySelectorAll('#ra-answers .ra-card:first-child li').length === 3")
    assert page.input_value("#ra-right textarea, #ra-right input") == "star"
    type_into(page, "#ra-classes", "moon, sun")
    page.wait_for_function("document.querySelectorAll('#ra-answers .ra-card:first-child li').length === 2")
    assert page.input_value("#ra-right textarea, #ra-right input") == ""  # it is none of them any more


@pytest.mark.parametrize(
    ("control", "text", "message"),
    [
        ("#ra-classes", "", "give at least two class names"),
        ("#ra-classes", ", ".join(map(str, range(3000))), "there are 3000 class names; give 200 at most"),
        ("#ra-templates", "photo", "has no place for the class name"),
        ("#ra-right", "stra", "did you mean 'star'"),
    ],
)
def test_wrong_words_get_a_sentence_that_goes_again(visit: Open, control: str, text: str, message: str) -> None:
    page = visit()
    before = page.input_value(f"{control} textarea")
    type_into(page, control, text)
    assert message in alert(page)
    type_into(page, control, before)
    page.wait_for_selector("#ra-status [role=alert]", state="detached")
    assert answers(page) == ["star", "star"]


def test_names_full_of_html_are_text(visit: Open) -> None:
    page = visit()
    type_into(page, "#ra-classes", f"{EVIL}, ${{document.title='hacked'}}, {{{{this}}}}, star")
    page.wait_for_function("document.querySelectorAll('#ra-answers .ra-card:first-child li').length === 4")
    assert EVIL in page.inner_text("#ra-answers")
    assert "${document.title='hacked'}" in page.inner_text("#ra-answers")
    assert "{{this}}" in page.inner_text("#ra-answers")
    type_into(page, "#ra-right", EVIL)
    page.wait_for_selector("#ra-answers .ra-right")
    page.click("#ra-start")
    finish(page)
    assert EVIL in page.inner_text("#ra-outcome")
    type_into(page, "#ra-right", EVIL + EVIL)
    assert "onerror" in alert(page)
    assert page.locator("#ra-answers img, #ra-outcome img, #ra-status img").count() == 0
    assert page.title() == "R-Adapt playground"


def test_an_attack_shows_both_outcomes(visit: Open) -> None:
    page = visit()
    choose(page, "#ra-attack", "apgd")
    choose(page, "#ra-eps", "8/255")
    page.locator("#ra-source label").nth(0).click()
    page.click("#ra-start")
    page.wait_for_selector("#ra-outcome progress, #ra-outcome .ra-verdict")
    assert "(white-box) fools it" in finish(page)
    rows = page.locator("#ra-outcome tbody tr").all_inner_texts()
    assert [row.split("\t")[0] for row in rows] == [
        "no attack",
        "the model without the defence (transfer)",
        "the defended model (white-box)",
    ]
    page.wait_for_function("document.querySelectorAll('#ra-traces .ra-spectrum').length === 2")
    page.wait_for_function("document.querySelectorAll('#ra-attention img').length === 4")


def test_stop_ends_the_attack(visit: Open) -> None:
    page = visit()
    choose(page, "#ra-attack", "square")
    choose(page, "#ra-eps", "1/255")
    page.click("#ra-start")
    page.wait_for_selector("#ra-outcome progress")
    page.click("#ra-stop")
    assert "The white-box outcome is not known: the attack was stopped" in finish(page)
    assert page.locator("#ra-outcome progress").count() == 0
    page.click("#ra-stop")
    page.wait_for_function("document.querySelector('#ra-status').innerText.includes('No attack of yours')")


def test_two_users_do_not_see_each_other(visit: Open) -> None:
    one, two = visit(), visit()
    choose(one, "#ra-attack", "square")
    choose(one, "#ra-eps", "1/255")
    one.click("#ra-start")
    one.wait_for_selector("#ra-outcome progress")
    changes(two, "#ra-picture", lambda: two.locator("#ra-gallery button.thumbnail-item").nth(2).click())
    two.wait_for_function("document.querySelector('#ra-answers').innerText.includes('triangle')")
    two.click("#ra-stop")  # ends no attack of the other one
    two.wait_for_function("document.querySelector('#ra-status').innerText.includes('No attack of yours')")
    two.click("#ra-start")
    assert finish(two)
    assert one.locator("#ra-outcome progress").count() == 1
    one.click("#ra-stop")
    assert "stopped" in finish(one)
    assert "picture 4" in one.inner_text("#ra-outcome")
    assert "picture 3" in two.inner_text("#ra-outcome")


def test_ones_own_picture(visit: Open, tmp_path: Path) -> None:
    page = visit()
    PIL.Image.new("RGBA", (300, 200), (255, 0, 0, 255)).save(tmp_path / "red.png")
    changes(page, "#ra-picture", lambda: send(page, tmp_path / "red.png"))
    assert "your picture, 300 x 200 pixels" in page.inner_text("#ra-picture")
    page.wait_for_function("document.querySelector('#ra-right textarea, #ra-right input').value === ''")
    page.click("#ra-start")
    assert finish(page)


@pytest.mark.parametrize("kind", ["text", "bomb", "large"])
def test_a_hostile_picture_gets_a_sentence(visit: Open, tmp_path: Path, kind: str) -> None:
    page = visit()
    content = {"text": b"<script>alert(1)</script>", "bomb": bomb(60_000), "large": bytes(11 * 2**20)}[kind]
    (tmp_path / "evil.png").write_bytes(content)
    send(page, tmp_path / "evil.png")
    if kind == "large":  # refused by the browser already, in Gradio's own words
        page.get_by_text("exceed the maximum allowed size of 10.0 Mb").first.wait_for()
        page.wait_for_timeout(500)
        # Gradio asks for the progress of the upload that it has refused.
        assert all("404" in text or text in ("Response", GRADIO) for text in page.wrong)
        page.wrong.clear()
    else:
        assert re.search("not an image that Pillow can read|3600000000 pixels", alert(page))
    assert "shapes, picture 4" in page.inner_text("#ra-picture")


def test_an_adapter_is_chosen_and_saved(visit: Open, tmp_path: Path) -> None:
    page = visit()
    page.locator("#ra-alpha input[type=number]").fill("0.9")
    page.wait_for_function("document.querySelector('#ra-answers').innerText.includes('alpha=0.9')")
    page.click("#ra-save")
    link = page.locator("#ra-saved a").first
    with page.expect_download() as download:
        link.click()
    download.value.save_as(tmp_path / "adapter.zip")
    shutil.unpack_archive(tmp_path / "adapter.zip", tmp_path / "adapter")
    assert radapt.Adapter.from_pretrained(tmp_path / "adapter").settings.alpha == 0.9
    choose(page, "#ra-defence", "micro/shallow")
    page.wait_for_function("document.querySelector('#ra-answers').innerText.includes('deltas')")
    assert page.locator("#ra-alpha input[type=range]").is_disabled()


def test_a_model_that_answers_questions(visit: Open) -> None:
    page = visit()
    choose(page, "#ra-model", "micro/llava")
    page.wait_for_selector("#ra-question", state="visible")
    page.wait_for_function("document.querySelectorAll('#ra-answers li').length === 2")
    assert not page.locator("#ra-classes").is_visible()
    assert answers(page) == ["star", "star"]
    choose(page, "#ra-question", "what colour is the star?")
    page.wait_for_function("document.querySelector('#ra-answers').innerText.includes('blue')")
    assert page.input_value("#ra-right textarea, #ra-right input") == "blue"
    page.click("#ra-start")
    assert finish(page)
    choose(page, "#ra-model", "micro/qwen-vl")
    page.wait_for_function("document.querySelector('#ra-attention').innerText.includes('gives no attention maps')")
    choose(page, "#ra-model", "micro/clip")
    page.wait_for_selector("#ra-classes", state="visible")
    page.wait_for_function("document.querySelectorAll('#ra-answers li').length === 12")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(visit: Open, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = visit()
    if scheme == "dark":
        page.evaluate("document.body.classList.add('dark')")
    page.click("#ra-start")
    finish(page)
    page.wait_for_selector("#ra-traces .ra-spectrum")
    type_into(page, "#ra-templates", "photo")
    alert(page)
    page.wait_for_timeout(500)
    found = Axe().run(page).response["violations"]
    assert [(each["id"], node["html"]) for each in found for node in each["nodes"]] == []
