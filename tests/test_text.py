from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radapt.text import literal, markdown, one_line, visible

ANY = st.text(st.characters(), max_size=60)  # with halves of characters


@given(ANY)
def test_a_line_holds_nothing_that_a_terminal_acts_on(text: str) -> None:
    line = one_line(text)
    assert len(line.splitlines()) <= 1
    assert not re.search("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]", line)
    line.encode()
    visible(text).encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("runs/\udcff", r"runs/\udcff"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("R-Adapt: größer, 鱼 [/]", "R-Adapt: größer, 鱼 [/]"),
    ],
)
def test_what_acts_becomes_visible_and_the_rest_stays(text: str, shown: str) -> None:
    assert one_line(text) == shown


def test_of_a_long_text_both_ends_are_shown() -> None:
    line = one_line("a" * 10_000 + "b" * 10_000)
    assert line.startswith("aaa")
    assert line.endswith("bbb")
    assert len(line) < 2100
    assert visible("a\nb\tc") == "a\nb\tc"


@given(ANY)
def test_markdown_shows_it_in_one_cell(text: str) -> None:
    shown = markdown(text)
    assert "\n" not in shown
    assert not re.search(r"(?<!\\)(\\\\)*[|<>*_`]", shown)
    assert re.sub(r"\\([\\`*_\[\]<>|~$&#])", r"\1", shown) == one_line(text)


@given(ANY)
def test_a_spreadsheet_sees_no_formula(text: str) -> None:
    cell = literal(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\uff1d"))
    assert cell in (text, "'" + text)
