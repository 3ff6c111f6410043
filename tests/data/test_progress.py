"""The progress of reading a dataset: shown on a terminal once it takes long, and never where nobody wants it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from radapt.data import _progress, load_dataset
from radapt.data._progress import counted, reading, told


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    monkeypatch.setattr(
        _progress, "Console", lambda **_: Console(file=text, force_terminal=True, width=100, color_system=None)
    )
    monkeypatch.setattr(_progress, "_AFTER", 0.0)
    return text


def test_reading_tells_how_far_it_is(shown: io.StringIO) -> None:
    load_dataset("shapes", n=250)
    assert "render" in shown.getvalue()
    assert "300/300" in shown.getvalue()
    assert not told()


def test_quiet_reading_tells_nothing(shown: io.StringIO) -> None:
    load_dataset("shapes", n=250, quiet=True)
    assert shown.getvalue() == ""


def test_what_is_fast_shows_no_bar(shown: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_progress, "_AFTER", 60.0)
    with reading(quiet=False):
        assert list(counted(range(5), None, "read")) == [0, 1, 2, 3, 4]
    assert shown.getvalue() == ""


def test_names_are_shown_literally_and_an_unknown_total_counts_up(shown: io.StringIO) -> None:
    with reading(quiet=False):
        assert sum(1 for _ in counted(iter("abc"), None, "read [red]mine")) == 3
    assert "[red]mine" in shown.getvalue()
    assert "3/?" in shown.getvalue()


def test_what_breaks_off_ends_its_bar(shown: io.StringIO) -> None:
    def rows() -> object:
        yield 1
        yield 2
        raise OSError("the network is gone")

    with pytest.raises(OSError, match="gone"), reading(quiet=False):
        list(counted(rows(), 9, "read"))  # type: ignore[arg-type]
    assert shown.getvalue().rstrip("\n").endswith("\x1b[2K")  # the bar's line is empty again
    assert not told()
