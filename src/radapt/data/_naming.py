"""Class names and templates of a dataset of the hub: from the card, from its files or from its columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from radapt.errors import InputError, SettingsError, shown
from radapt.hub import network_errors
from radapt.registry import nearest
from radapt.schema import read_text

from ._cards import Card, alike

__all__ = ["NAMING", "chosen_names", "class_names", "no_column", "with_templates"]

NAMING = ("classes_file", "templates_file", "names", "replace", "rename")
"""Options of a zero-shot card that say where class names and templates come from."""
_REPLACED = {"_": " "}


def class_names(details: Card, whole: Any, column: str) -> dict[int, str]:
    """The class name of each label.

    They are the ``classes`` of the card, or the lines of a text file of the repository (option ``classes_file``), or
    the texts of a column beside that of the labels (option ``names``, read over the whole split, so that they do not
    depend on how many samples are used), or else those that the files keep with the labels (``ClassLabel``). In texts
    of the last two kinds, underscores become spaces; the option ``replace`` (old texts to new ones, longer
    ones first) gives other replacements. The option ``rename`` (labels to names) then gives single classes other names.

    Args:
        details: the card.
        whole: the split, as the library ``datasets`` gives it.
        column: where its labels are.

    Raises:
        SettingsError: there are none, or more than one source of them; no such file or column; a count or an order of
            names other than that of the classes in the files.
        InputError: one label has two names or two labels have one, or a file has a line without one.
    """
    name = f"dataset {details.name!r}"
    sources = [key for key in ("classes_file", "names") if key in details.options]
    if len(sources) + bool(details.classes) > 1:
        both = " and ".join([*(["classes"] if details.classes else []), *sources])
        raise SettingsError(f"{name}: {both} both name the classes; keep one of them")
    if whole.features and column not in whole.features:
        raise no_column(details, "label", column, whole.features)
    if sources == ["names"]:
        return _distinct(details, _of_column(details, whole, column))
    stored = getattr((whole.features or {}).get(column), "names", None)
    texts = details.classes or (_lines(details, "classes_file") if sources else ())
    if texts and stored and len(texts) != len(stored):
        raise SettingsError(f"{name}: got {len(texts)} names for the {len(stored)} classes ({', '.join(stored)})")
    _check_order(name, texts, stored or ())
    if not texts and not stored:
        raise SettingsError(
            f"{name}: nothing names the classes: the column {column!r} holds plain labels; list them under classes, in "
            "label order, or name a text file of the repository (classes_file) or a column (names) under options"
        )
    return _distinct(details, dict(enumerate(texts or [_clean(details, text) for text in stored or ()])))


def chosen_names(details: Card, known: Sequence[str]) -> tuple[str, ...]:
    """The class names of the card, or those that its source knows.

    Raises:
        SettingsError: the card gives another number of names, or the names in another order.
    """
    if details.classes and len(details.classes) != len(known):
        got = f"{len(details.classes)} names for {len(known)} classes ({', '.join(known)})"
        raise SettingsError(f"dataset {details.name!r}: the card gives {got}")
    _check_order(f"dataset {details.name!r}", details.classes, known)
    return details.classes or tuple(known)


def _check_order(name: str, given: Sequence[str], known: Sequence[str]) -> None:
    """Refuse names for classes that the source knows by the same names, each for another one of them.

    Raises:
        SettingsError: a name is given to one class, and the source has it for another.
    """
    ours, theirs = (["".join(filter(str.isalnum, text.lower())) for text in texts] for texts in (given, known))
    for at, text in enumerate(ours[: len(theirs)]):
        if text != theirs[at] and text in theirs:
            raise SettingsError(
                f"{name}: class {at} is {known[at]!r} in the files, and {given[at]!r} by the card, which is class "
                f"{theirs.index(text)} there; give the names in the order of the files, or leave them out"
            )


def _distinct(details: Card, names: dict[int, str]) -> dict[int, str]:
    """The names with those of the option ``rename``; all of them must differ, and none may be empty."""
    name, renamed = f"dataset {details.name!r}", details.options.get("rename", {})
    if not isinstance(renamed, Mapping) or not all(isinstance(each, str) and each.strip() for each in renamed.values()):
        raise SettingsError(f"{name}: rename must be a mapping of labels to names, got {shown(renamed)}")
    known = {str(label): label for label in names}
    for label, text in renamed.items():
        if str(label) not in known:
            raise SettingsError(f"{name}: rename names the label {shown(label)}, and there is no such label")
        names[known[str(label)]] = text.strip()
    ordered = [names[label] for label in sorted(names)]
    if "" in ordered:
        raise InputError(f"{name}: the class {ordered.index('')} has an empty name; give it one under rename")
    if double := alike(ordered):
        raise InputError(f"{name}: {double}; give one of them another name under rename, as in {{3: tree frog}}")
    return names


def with_templates(details: Card) -> Card:
    """The card with the templates of the text file of the repository that its option ``templates_file`` names, if any.

    Raises:
        SettingsError: the file cannot be read, or has a line without ``{c}``; the card's own are never used instead.
        InputError: a line is empty.
    """
    if "templates_file" not in details.options:
        return details
    lines = _lines(details, "templates_file")
    try:
        return replace(details, templates=lines)
    except SettingsError as error:
        raise SettingsError(f"{details.options['templates_file']}: {error}") from error


def _lines(details: Card, key: str) -> tuple[str, ...]:
    """The lines of a text file of the repository."""
    name, file, repository = f"dataset {details.name!r}", details.options[key], str(details.options["repository"])
    if not isinstance(file, str) or not file:
        raise SettingsError(f"{name}: {key} must be the name of a text file of the repository, got {shown(file)}")
    try:
        text = read_text(_path(repository, file))
    except network_errors(ValueError) as error:
        raise SettingsError(
            f"{name}: cannot read {file!r} of {repository!r} ({key}): {str(error).strip() or type(error).__name__}. "
            f"Put it into the folder that is the repository, or write its lines on a card of your own, without {key}"
        ) from error
    lines = tuple(line.strip() for line in re.split(r"\r\n|\r|\n", text.rstrip()))
    if "" in lines:
        where = f"line {lines.index('') + 1} is empty" if len(lines) > 1 else "it is empty"
        raise InputError(f"{name}: {file!r} of {repository!r} must have one text per line, and {where}")
    return lines


def _path(repository: str, file: str) -> Path:
    if Path(repository).is_dir():
        return Path(repository) / file
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repository, file, repo_type="dataset"))


def _of_column(details: Card, whole: Any, column: str) -> dict[int, str]:
    """The text beside each label of the split."""
    name, beside = f"dataset {details.name!r}", details.options["names"]
    if not isinstance(beside, str) or beside not in (whole.features or {}):
        raise no_column(details, "names", str(beside), whole.features or {})
    names: dict[int, str] = {}
    for at, row in enumerate(whole.select_columns([column, beside])):
        label, text = row[column], row[beside]
        if not isinstance(label, int):
            continue  # refused where it is used
        if not isinstance(text, str) or not text.strip():
            problem = f"holds {shown(text)} where the name of a class, a text, is expected"
            raise InputError(f"{name}: row {at} of the split, column {beside!r}: {problem}")
        text = _clean(details, text)
        if names.setdefault(int(label), text) != text:
            raise InputError(f"{name}: the label {label} is called both {shown(names[label])} and {shown(text)}")
    return names


def no_column(details: Card, ours: str, column: str, columns: Iterable[str]) -> SettingsError:
    """The error for a column that the files lack."""
    problem = f"there is no column {shown(column)} for {ours}{nearest(column, columns)}"
    return SettingsError(f"dataset {details.name!r}: {problem}; write it under columns")


def _clean(details: Card, text: str) -> str:
    replaced = details.options.get("replace", _REPLACED)
    if not isinstance(replaced, Mapping) or not all(
        isinstance(each, str) for pair in replaced.items() for each in pair
    ):
        raise SettingsError(
            f"dataset {details.name!r}: replace must be a mapping of texts to texts, got {shown(replaced)}"
        )
    for old in sorted(replaced, key=len, reverse=True):
        text = text.replace(old, replaced[old])
    return text.strip()
