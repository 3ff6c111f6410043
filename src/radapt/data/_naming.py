"""Class names and templates of a dataset of the hub: from the card, from its files or from its columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from radapt.errors import InputError, SettingsError
from radapt.registry import nearest

from ._cards import Card

__all__ = ["NAMING", "class_names", "no_column", "with_templates"]

NAMING = ("classes_file", "templates_file", "names", "replace")
"""Options of a zero-shot card that say where class names and templates come from."""
_REPLACED = {"_": " "}


def class_names(details: Card, whole: Any, column: str) -> dict[int, str]:
    """The class name of each label.

    They are the ``classes`` of the card, or the lines of a text file of the repository (option ``classes_file``), or
    the texts of a column beside that of the labels (option ``names``, read over the whole split, so that they do not
    depend on how many samples are used), or else those that the files keep with the labels (``ClassLabel``). In texts
    of the last two kinds, underscores become spaces; the option ``replace`` (old texts to new ones, longer
    ones first) gives other replacements.

    Args:
        details: the card.
        whole: the split, as the library ``datasets`` gives it.
        column: where its labels are.

    Raises:
        SettingsError: there are none, or more than one source of them; no such file or column; a count of names other
            than that of the classes in the files.
        InputError: one label has two names, or a file has a line without one.
    """
    name = f"dataset {details.name!r}"
    sources = [key for key in ("classes_file", "names") if key in details.options]
    if len(sources) + bool(details.classes) > 1:
        both = " and ".join([*(["classes"] if details.classes else []), *sources])
        raise SettingsError(f"{name}: {both} both name the classes; keep one of them")
    if whole.features and column not in whole.features:
        raise no_column(details, "label", column, whole.features)
    stored = getattr((whole.features or {}).get(column), "names", None)
    if sources == ["names"]:
        return _of_column(details, whole, column)
    texts = details.classes or (_lines(details, "classes_file") if sources else ())
    if texts and stored and len(texts) != len(stored):
        raise SettingsError(f"{name}: got {len(texts)} names for the {len(stored)} classes ({', '.join(stored)})")
    if not texts and not stored:
        raise SettingsError(
            f"{name}: nothing names the classes: the column {column!r} holds plain labels; list them under classes, in "
            "label order, or name a text file of the repository (classes_file) or a column (names) under options"
        )
    return dict(enumerate(texts or [_clean(details, text) for text in stored or ()]))


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
        raise SettingsError(f"{name}: {key} must be the name of a text file of the repository, got {file!r}")
    try:
        text = _path(repository, file).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{name}: cannot read {file!r} of {repository!r} ({key}): {str(error).strip() or type(error).__name__}. "
            f"Put it into the folder that is the repository, or write its lines on a card of your own, without {key}"
        ) from error
    lines = tuple(line.strip() for line in text.rstrip().splitlines())
    if not lines or "" in lines:
        where = f"line {lines.index('') + 1} is empty" if lines else "it is empty"
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
    if beside not in (whole.features or {}):
        raise no_column(details, "names", str(beside), whole.features or {})
    names: dict[int, str] = {}
    for row in whole.select_columns([column, beside]):
        label, text = row[column], _clean(details, str(row[beside]))
        if isinstance(label, int) and names.setdefault(int(label), text) != text:
            raise InputError(f"{name}: the label {label} is called both {names[label]!r} and {text!r}")
    return names


def no_column(details: Card, ours: str, column: str, columns: Iterable[str]) -> SettingsError:
    """The error for a column that the files lack."""
    problem = f"there is no column {column!r} for {ours}{nearest(column, columns)}"
    return SettingsError(f"dataset {details.name!r}: {problem}; write it under columns")


def _clean(details: Card, text: str) -> str:
    replaced = details.options.get("replace", _REPLACED)
    if not isinstance(replaced, Mapping) or not all(
        isinstance(each, str) for pair in replaced.items() for each in pair
    ):
        raise SettingsError(f"dataset {details.name!r}: replace must be a mapping of texts to texts, got {replaced!r}")
    for old in sorted(replaced, key=len, reverse=True):
        text = text.replace(old, replaced[old])
    return text.strip()
