"""What is typed: separated, bounded, and refused with a sentence."""

from __future__ import annotations

import pytest

from radapt.errors import InputError
from radapt.ui._words import MOST_CLASSES, class_names, one_text, templates


def test_names_are_separated_by_commas_and_lines() -> None:
    assert class_names(" cat,dog \n a  red   bus,, ") == ("cat", "dog", "a red bus")


def test_html_is_a_name_like_any_other() -> None:
    assert class_names("<b>x</b>, <script>y</script>") == ("<b>x</b>", "<script>y</script>")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least two class names, separated by commas; there are none now"),
        (" ,\n, ", "there are none now"),
        ("cat", "there is 1 now"),
        ("cat, dog, cat", "'cat' is given twice"),
        ("e\u0301, \u00e9", "is given twice"),
        ("cat, " + "d" * 201, "has 201 characters; write 200 at most"),
        (", ".join(map(str, range(MOST_CLASSES + 1))), "there are 201 class names; give 200 at most"),
        (", ".join(map(str, range(5000))), "there are 5000 class names"),
    ],
)
def test_what_are_no_class_names_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        class_names(text)


def test_as_many_names_as_are_allowed_are_taken() -> None:
    assert len(class_names("\n".join(map(str, range(MOST_CLASSES))))) == MOST_CLASSES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "give 1 to 10 templates, one a line; there are none now"),
        ("a photo", "'a photo' has no place for the class name; write {c} or {a c}"),
        ("{c}\n" * 11, "there are 11 now"),
    ],
)
def test_what_are_no_templates_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        templates(text)


def test_half_a_character_does_not_reach_a_tokenizer() -> None:
    assert one_text("question", "what\ud83d?") == "what??"
