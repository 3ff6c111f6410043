"""The candidates of a results file: what they are called, and which results are of them as they are now."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace

from ._database import Database, checksum_of
from ._tables import SETTING
from .records import Setting

__all__ = ["current", "rename"]


def current(settings: Sequence[Setting], asked: Sequence[int]) -> set[int]:
    """Which settings count, by their places.

    Of several clean results that answer one question, the last that was asked for; it says which weights and which
    content are the present ones. What was measured on others says nothing of the candidate as it is now, until it is
    asked for again, or they are put back. Of the rest, the last that was asked for of each question counts. Where there
    is no clean result, nothing is known of what is present.

    Args:
        settings: all of a file.
        asked: when each was last asked for.
    """

    def last(places: Iterable[int]) -> set[int]:
        return set({settings[at].question: at for at in sorted(places, key=asked.__getitem__)}.values())

    now: dict[tuple[object, ...], set[tuple[object, ...]]] = defaultdict(set)
    for at in last(at for at, each in enumerate(settings) if each.kind == "clean"):
        now[settings[at].place].add(settings[at].state)
    return last(at for at, each in enumerate(settings) if each.state in now.get(each.place, {each.state}))


def rename(file: Database, settings: Iterable[Setting]) -> None:
    """Give each candidate one label in all of its results; see :meth:`radapt.results.Results.rename`."""
    labels, names = {setting.candidate: setting.method for setting in settings}, SETTING.split(", ")
    question, text = names.index("question"), names.index("setting")
    changed = list[tuple[str, str, int, str]]()
    for key, *values, checksum in file.read(f"SELECT key, {SETTING}, checksum FROM settings"):
        if checksum_of(key, values) == checksum:
            found = Setting(**json.loads(values[text]))
            named = replace(found, method=labels.get(found.candidate, found.method))
            if (named.method, named.question) != (found.method, values[question]):
                values[question], values[text] = named.question, json.dumps(asdict(named), sort_keys=True)
                changed.append((named.question, values[text], checksum_of(key, values), key))
    if changed:
        with file.transaction() as db:
            db.executemany("UPDATE settings SET question = ?, setting = ?, checksum = ? WHERE key = ?", changed)
