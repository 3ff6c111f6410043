"""What one results file takes from another one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from radapt.errors import ResultsError

from .signs import joined

if TYPE_CHECKING:
    from .records import Setting
    from .store import Results

__all__ = ["merge", "take_over"]

_NONE = "none"
"""Stands for the hash of an image that there is not."""


def merge(results: Results, other: Results) -> None:
    """Add all that another file holds; see :meth:`radapt.results.Results.merge`."""
    if other.path.expanduser().resolve() == results.path.expanduser().resolve():
        raise ResultsError(f"{results.path} cannot be merged into itself; name another file")
    results.notes.merge(other.notes)
    # Flags and checks of one time, before the samples: what another process adds meanwhile does not count as checked.
    with other.snapshot():
        every = [result for result in other.all(superseded=True, checks=True) if result.main]
        # In the order in which they were asked for: what was superseded there is here, too.
        found = sorted(every, key=lambda each: other.asked(each.setting))
        seen = [(other.checked(each.setting), other.flags(each.setting)) for each in found]
    for result, (checks, told) in zip(found, seen, strict=True):
        setting = result.setting
        own = {sample.position: sample for sample in results.samples(setting)}
        theirs = other.samples(setting)
        data = {sample.position: sample.data for sample in theirs}
        images = list[str]()
        if any(data.get(position, sample.data) != sample.data for position, sample in own.items()):
            images = [data.get(position, _NONE) for position in range(max(own) + 1)]
            own = {position: sample for position, sample in own.items() if position in data}
        new = [sample for sample in theirs if own.get(sample.position) != sample]
        results.begin(setting, images)
        mine = results.checked(setting), results.flags(setting)
        shown = {position for position in {*own, *data} if position < setting.n}
        # The checks of a file count where it holds all that is shown, and they were made on just that.
        files = (
            (mine, shown.isdisjoint(sample.position for sample in new)),
            ((checks, told), shown <= data.keys()),
        )
        whole = [flags for (count, flags), holds in files if holds and count == len(shown)]
        flags, checked = joined(whole or (mine[1], told)), len(shown) if whole else 0
        seconds = result.seconds * len(new) / len(theirs)
        results.add(setting, new, seconds=seconds, examples=other.examples(setting))
        results.flag(setting, flags, checked=checked)
    results.rename([result.setting for result in found])


def take_over(results: Results, setting: Setting, data: Sequence[str], other: Results) -> None:
    """Copy what another file holds of a setting and this one lacks, with its flags.

    A result that is put together from several files counts as not checked. What is damaged is left out.

    Args:
        results: the file that it is copied to.
        setting: the setting.
        data: hash of each of its samples, as for :meth:`Results.begin`; samples with another one are left out.
        other: the file that is read.
    """
    done = results.done(setting, data)
    with other.snapshot():  # another process may be writing it: its flags are those of its samples
        found = other.samples(setting, intact=True)
        current = [each for each in found if each.position < len(data) and data[each.position] == each.data]
        taken = [each for each in current if each.position not in done]
        if not taken or not other.intact(setting):  # without its flags nothing of it can be trusted
            return
        told = other.flags(setting)
        whole = not done and len(taken) == len(data) == other.checked(setting)
        seconds = other.seconds(setting) * len(taken) / len(found)
        positions = {each.position for each in taken}
        examples = [each for each in other.examples(setting, intact=True) if each.position in positions]
    results.begin(setting, data)
    # Before the samples: a result that is complete has its flags.
    results.flag(setting, joined([results.flags(setting), told]), checked=len(data) if whole else 0)
    results.add(setting, taken, seconds=seconds, examples=examples)
