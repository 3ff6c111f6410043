"""Attacks: searches for small changes of pixels that fool a model.

Every file here without a leading underscore is an attack; its name is the attack's name, and its ``ATTACK`` the class.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from radapt.attacks._attack import Attack, SearchAttack
from radapt.attacks._budgets import ascending
from radapt.attacks._easy import attack
from radapt.attacks._objective import (
    AnswerObjective,
    ClassificationObjective,
    EmbeddingObjective,
    Objective,
    Score,
)
from radapt.attacks._outcome import Outcome, merged, untouched
from radapt.attacks._wrap import EOT, bpda, jpeg, round_8bit
from radapt.errors import SettingsError
from radapt.find import find, members, nearest

__all__ = [
    "EOT",
    "AnswerObjective",
    "Attack",
    "ClassificationObjective",
    "EmbeddingObjective",
    "Objective",
    "Outcome",
    "Score",
    "SearchAttack",
    "ascending",
    "attack",
    "bpda",
    "jpeg",
    "make",
    "merged",
    "names",
    "round_8bit",
    "untouched",
]


def names() -> list[str]:
    """Names of all attacks."""
    return members(__name__)


def make(name: str, **settings: Any) -> Attack:
    """An attack by name.

    Args:
        name: one of ``names()``.
        settings: its settings, as in its constructor.

    Raises:
        SettingsError: there is no such attack or setting, a needed setting is missing, or a value is out of range.
    """
    kind: type[Attack] = find(__name__, name, "ATTACK")
    allowed = {field.name: field for field in fields(kind)}
    for setting in settings:
        if setting not in allowed:
            raise SettingsError(f"attack {name!r} has no setting {setting!r}{nearest(setting, allowed)}")
    missing = [key for key, field in allowed.items() if field.default is MISSING and key not in settings]
    if missing:
        raise SettingsError(f"attack {name!r} needs {', '.join(missing)}; give it as in {missing[0]}=4/255")
    return kind(**settings)
