"""What the rows of a dataset of the hub hold as truth: labels, captions, questions and answers; read, or refused."""

from __future__ import annotations

import re
from collections.abc import Mapping

from radapt.errors import InputError, shown

__all__ = ["FIELDS", "label_of", "question_of", "texts_of"]

FIELDS = ("answer", "caption", "raw", "sentence", "text")
"""Fields of records that hold a caption or an answer."""
_LIST_AS_TEXT = re.compile(r"""\[\s*(["']).*\1\s*\]""", re.DOTALL)


def label_of(where: str, column: str, value: object, places: Mapping[int, int]) -> int:
    """The place of a label's class.

    Args:
        where: dataset and sample, for messages.
        column: where the value stands, for messages.
        value: what the row holds.
        places: of the labels that have a class name.

    Raises:
        InputError: it is no whole number, nor true or false, or no class has this label.
    """
    if not isinstance(value, int):  # true and false are 1 and 0
        got = f"{shown(value)} where a label, a whole number or true or false, is expected"
        raise InputError(f"{where} holds {got} (column {column!r}); name another column under columns")
    if int(value) not in places:
        known = f"{len(places)} class names are of the labels {min(places)} to {max(places)}"
        raise InputError(
            f"{where} has the label {int(value)}, and the {known}; labels and names are of different sets: "
            f"check the columns (now {column!r}), classes, classes_file and names of the card"
        )
    return places[int(value)]


def question_of(where: str, column: str, value: object) -> str:
    """A question.

    Raises:
        InputError: it is no text, or an empty one.
    """
    if not isinstance(value, str) or not value.strip():
        got = f"{shown(value)} where a question, a text, is expected (column {column!r})"
        raise InputError(f"{where} holds {got}; name another column under columns")
    return value.strip()


def texts_of(where: str, column: str, value: object, field: str | None) -> tuple[str, ...]:
    """Captions or answers: one text per line, a list of texts, a list of records, or a record of lists.

    Args:
        where: dataset and sample, for messages.
        column: where the value stands, for messages.
        value: what the row holds.
        field: the field of records that holds the text (None: the only one of ``FIELDS``).

    Returns:
        The texts in their order, without white space around them; some may be empty, but not all.

    Raises:
        InputError: it is something else, or holds no text.
    """
    if isinstance(value, str):
        found: object = None if _LIST_AS_TEXT.fullmatch(value.strip()) else value.strip().split("\n")
    elif isinstance(value, Mapping):
        inner = _field(value, field)
        found = [inner] if isinstance(inner, str) else inner
    elif isinstance(value, list):
        found = [_field(each, field) if isinstance(each, Mapping) else each for each in value]
    else:
        found = None
    if isinstance(found, list) and all(isinstance(each, str) for each in found):
        texts = tuple(each.strip() for each in found)
        if any(texts):
            return texts
    fields = repr(field) if field else f"exactly one of {', '.join(FIELDS)}"
    raise InputError(
        f"{where} has no captions or answers in the column {column!r}, got {shown(value, 200)}; allowed are a text, a "
        f"list of texts, and records with {fields}, a list of them or one whose field is such a list; name another "
        "column under columns, or the field under field"
    )


def _field(record: Mapping[object, object], field: str | None) -> object:
    """What a record holds as text; None where that is not clear."""
    fields = [each for each in ([field] if field else FIELDS) if each in record]
    return record[fields[0]] if len(fields) == 1 else None
