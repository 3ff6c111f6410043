"""Values of the kind that a setting is declared as."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from radapt.errors import SettingsError, shown

__all__ = ["check_kinds"]

_KINDS: dict[str, tuple[Any, str]] = {
    "bool": (bool, "true or false"),
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
    "str": (str, "a text"),
}


def check_kinds(where: str, declared: Mapping[str, str], given: Mapping[str, object]) -> None:
    """Refuse values of another kind than their settings are declared as: a word where true or false belongs.

    Args:
        where: what messages begin with; empty for nothing.
        declared: the annotation of each setting as it is written (``int``, ``float | None``); of other types than
            bool, int, float, str and None, nothing is checked.
        given: the settings.

    Raises:
        SettingsError: a value is of another kind.
    """
    for name, value in given.items():
        kinds = declared.get(name, "").split(" | ")
        if not set(kinds) <= {*_KINDS, "None"} or (value is None and "None" in kinds):
            continue
        taken = [_KINDS[kind] for kind in kinds if kind != "None"]
        if any(isinstance(value, kind) and (isinstance(value, bool) == (kind is bool)) for kind, _ in taken):
            continue
        words = " or ".join([words for _, words in taken] + ["none"] * ("None" in kinds))
        raise SettingsError(f"{where}{': ' if where else ''}{name} must be {words}, got {shown(value)}")
