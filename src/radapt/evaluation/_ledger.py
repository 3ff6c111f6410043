"""What is measured and what is left: the one who writes the results of an evaluation, chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence

from radapt.results import Results, Sample, Setting

from ._sanity import UNDEFENDED, check_undefended
from ._task import batches
from ._units import Checked, Measured, Unit

__all__ = ["Chunk", "Ledger"]

Chunk = tuple[int, ...]
"""Positions of the samples that are measured together."""


class Ledger:
    """The chunks of every unit that are still to be measured; each is committed when it is.

    A result counts as complete when it has had its sanity checks: the last chunk of a unit waits for them.

    Args:
        results: the results file.
        units: of the evaluation.
        part: number, from 0 on, and count: of several parts of the chunks, this one alone.
        sanity: whether the sanity checks are to run.
    """

    def __init__(self, results: Results, units: Sequence[Unit], part: tuple[int, int], sanity: bool) -> None:
        self._results = results
        self.todo: dict[int, list[Chunk]] = {}
        self._unchecked = set[int]()
        self._held: dict[int, Measured] = {}
        self._clean: dict[str, dict[int, Sample]] = {}
        for unit in units:
            done = results.begin(unit.setting, unit.digests)
            if results.asked(unit.found):  # what its checks fooled counts again where it does
                if not results.whole(unit.found):  # some of that is lost: the checks are made again
                    results.flag(unit.setting, results.flags(unit.setting))
                results.begin(unit.found, unit.digests)
            chunks = batches(len(unit.digests), unit.setting.chunk_size)
            own = [tuple(chunk) for number, chunk in enumerate(chunks) if number % part[1] == part[0]]
            todo = [chunk for chunk in own if not done.issuperset(chunk)]
            self.todo[unit.number] = todo
            if sanity and (todo or results.checked(unit.setting) != len(unit.digests)):
                self._unchecked.add(unit.number)
            elif sanity:
                self._of_undefended(unit)
        results.rename([unit.setting for unit in units])

    def left(self, unit: Unit) -> int:
        """How many samples of a unit are to be measured."""
        return sum(map(len, self.todo[unit.number]))

    def clean(self, unit: Unit, chunk: Chunk) -> list[Sample]:
        """The samples of a chunk in the clean result of the same candidate; none where this is the clean one."""
        if unit.clean is None:
            return []
        known = self._known(unit.clean)
        return [known[position] for position in chunk if position in known]

    def _known(self, clean: Setting) -> dict[int, Sample]:
        """The samples of a clean result, by position: read once, and those that are measured added as they come."""
        if clean.key not in self._clean:
            self._clean[clean.key] = {each.position: each for each in self._results.samples(clean, intact=True)}
        return self._clean[clean.key]

    def store(self, unit: Unit, chunk: Chunk, measured: Measured) -> None:
        """Commit a measured chunk, or hold it until the checks of a unit that it completes."""
        self.todo[unit.number].remove(chunk)
        if unit.clean is None:
            self._known(unit.setting).update({each.position: each for each in measured.samples})
        if self.due(unit):
            self._held[unit.number] = measured
        else:
            self._commit(unit, measured)

    def due(self, unit: Unit) -> bool:
        """Whether all of a unit is measured, and its checks are left."""
        return unit.number in self._unchecked and not self.todo[unit.number]

    def scores(self, unit: Unit) -> dict[int, float]:
        """The score of every sample of a unit that is measured, by position; the file may hold more than were asked."""
        held = self._held.get(unit.number)
        samples = (*self._results.samples(unit.setting, intact=True), *(held.samples if held is not None else ()))
        return {each.position: each.score for each in samples if each.position < len(unit.digests)}

    def checked(self, unit: Unit, checks: Checked) -> None:
        """Commit the checks of a unit, and with them its last chunk."""
        flags = {**checks.flags, **self._undefended(unit)}
        if checks.samples:
            self._results.begin(unit.found, unit.digests)
            self._results.add(unit.found, checks.samples)
        # Before the samples are stored: a result that is complete has had its checks.
        self._results.flag(unit.setting, flags, checked=len(unit.digests))
        if (held := self._held.pop(unit.number, None)) is not None:
            self._commit(unit, held)
        self._unchecked.discard(unit.number)

    def given_up(self, unit: Unit) -> None:
        """Commit what is measured of a unit whose checks cannot be made; they are made when it is asked for again."""
        if (held := self._held.pop(unit.number, None)) is not None:
            self._commit(unit, held)

    def _undefended(self, unit: Unit) -> dict[str, object]:
        """What is said of the undefended model alone, which an evaluation may name anew."""
        if not (unit.undefended and unit.white_box):
            return {}
        return check_undefended([float(score > unit.low) for score in self.scores(unit).values()])

    def _of_undefended(self, unit: Unit) -> None:
        """Renew that of a result whose checks were made when another model was the undefended one."""
        flags = self._results.flags(unit.setting)
        new = {**{name: text for name, text in flags.items() if name != UNDEFENDED}, **self._undefended(unit)}
        if new != flags:
            self._results.flag(unit.setting, new, checked=len(unit.digests))

    def _commit(self, unit: Unit, measured: Measured) -> None:
        self._results.add(unit.setting, measured.samples, seconds=measured.seconds, examples=measured.examples)
