"""How texts name candidates: ``[LABEL=]MODEL[+ADAPTER]``, where paths may contain ``=`` and ``+``."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radapt.errors import SettingsError, UnknownModelError
from radapt.evaluation import split_candidate


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("runs/alpha=0.4", "runs/a+b=c", "my", "my adapter", "home/x=1", "home/ad"):
        Path(name).mkdir(parents=True)


@pytest.mark.parametrize(
    ("text", "label", "model", "adapter"),
    [
        ("my", None, "my", None),
        ("A=my", "A", "my", None),
        ("my+my adapter", None, "my", "my adapter"),
        ("R-Adapt+=my+my adapter", "R-Adapt+", "my", "my adapter"),
        ("my+runs/alpha=0.4", None, "my", "runs/alpha=0.4"),
        ("A=my+runs/alpha=0.4", "A", "my", "runs/alpha=0.4"),
        ("alpha=0.4=my+runs/alpha=0.4", "alpha=0.4", "my", "runs/alpha=0.4"),
        ("runs/alpha=0.4", None, "runs/alpha=0.4", None),
        ("runs/a+b=c", None, "runs/a+b=c", None),
        ("my+runs/a+b=c", None, "my", "runs/a+b=c"),
        ("my+missing", None, "my", "missing"),
        ("my+runs/alpha=0.5", None, "my", "runs/alpha=0.5"),
        ("micro/clip+owner/adapter", None, "micro/clip", "owner/adapter"),
        ("a=b=micro/clip+micro/r-adapt-plus-static", "a=b", "micro/clip", "micro/r-adapt-plus-static"),
        ("CLIP=openai/clip-vit-base-patch32+my", "CLIP", "openai/clip-vit-base-patch32", "my"),
        ("eps 4/255=my", "eps 4/255", "my", None),
        ("hf-hub:owner/name", None, "hf-hub:owner/name", None),
    ],
)
def test_the_reading_whose_paths_are_there_counts(
    text: str, label: str | None, model: str, adapter: str | None
) -> None:
    assert split_candidate(text) == (text if label is None else label, model, adapter)


def test_the_users_home_is_expanded_everywhere() -> None:
    home = os.environ["HOME"]
    assert split_candidate("A=my+~/ad") == ("A", "my", f"{home}/ad")
    assert split_candidate("~/x=1+~/ad") == ("~/x=1+~/ad", f"{home}/x=1", f"{home}/ad")
    assert split_candidate("A=~/x=1") == ("A", f"{home}/x=1", None)


def test_what_can_be_read_in_two_ways_is_refused_and_can_be_written_clearly() -> None:
    for name in ("A=my", "my+b", "b"):
        Path(name).mkdir()
    with pytest.raises(SettingsError, match="can be read as the model 'my' with the label 'A'; or as the model 'A=my'"):
        split_candidate("A=my")
    assert split_candidate("./A=my")[1:] == ("./A=my", None)
    assert split_candidate("A=./my") == ("A", "./my", None)
    with pytest.raises(SettingsError, match=r"the model 'my' with the adapter 'b'; or as the model 'my\+b'"):
        split_candidate("my+b")
    assert split_candidate("my+./b")[1:] == ("my", "./b")


@pytest.mark.parametrize("text", ["", " ", "=", "+", "=my", "my+", "A=", "A=+b", "a=" * 40, "+" * 5000])
def test_an_empty_part_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"\[LABEL=\]MODEL\[\+ADAPTER\]"):
        split_candidate(text)


@pytest.mark.parametrize("text", ["runs/alpha=0.5", "A=nonsense", "a=b=c", "x+y"])
def test_where_nothing_is_there_the_readings_are_shown(text: str) -> None:
    with pytest.raises(UnknownModelError, match=rf"unknown model .* was read as .* the model '{re.escape(text)}'"):
        split_candidate(text)


@given(st.text(st.sampled_from("ab=+/~.\0\udcff "), max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        label, model, adapter = split_candidate(text)
    except SettingsError:
        return
    assert label
    assert model
    assert adapter != ""
