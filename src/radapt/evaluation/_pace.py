"""How far an evaluation is, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from radapt.text import duration

from ._units import Unit

__all__ = ["Pace", "progress"]

_Kind = tuple[object, ...]


class Pace:
    """The time that is left, from what samples of each kind took so far.

    Samples of one result differ little in what they cost; those of a clean result and of AutoAttack by a factor of
    thousands. So a result that has begun goes on at its own pace, and one that has not at the pace of those under the
    same attack, else of any attack.

    Args:
        units: of the evaluation.
        clock: seconds, which never go back.
    """

    def __init__(self, units: Sequence[Unit], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._began = clock, clock()
        self._left = {unit.number: len(unit.digests) for unit in units}
        self._kinds = dict[int, list[_Kind]]()
        self._taken = dict[_Kind, tuple[int, float]]()  # samples, and seconds of work
        made = set[str]()
        for unit in units:
            kind = "clean" if unit.clean is None else "scored" if unit.shared in made else "attacked"
            made |= {unit.shared} - {""}
            attack = (kind, unit.setting.attack, unit.setting.eps, unit.setting.norm)
            self._kinds[unit.number] = [(unit.number,), attack, (kind,)]

    def took(self, unit: Unit, count: int, seconds: float | None) -> None:
        """Some samples of a unit are done.

        Args:
            unit: the unit.
            count: of the samples; none for its checks.
            seconds: that a worker took for them; None: they were there before.
        """
        self._left[unit.number] -= count
        if seconds is not None:
            for kind in self._kinds[unit.number]:
                samples, before = self._taken.get(kind, (0, 0.0))
                self._taken[kind] = samples + count, before + seconds

    def _per_sample(self, number: int) -> float | None:
        for kind in self._kinds[number]:
            samples, seconds = self._taken.get(kind, (0, 0.0))
            if samples:
                return seconds / samples
        return None

    @property
    def seconds(self) -> float | None:
        """Until all is done; None where nothing like what is left was measured yet."""
        work = 0.0
        for number, left in self._left.items():
            if left:
                each = self._per_sample(number)
                if each is None:
                    return None
                work += left * each
        busy = sum(seconds for kind, (_, seconds) in self._taken.items() if len(kind) == 1 and isinstance(kind[0], int))
        return work / max(1.0, busy / max(self._clock() - self._began, 1e-9))  # as many workers as were busy so far


class _TimeLeft(ProgressColumn):
    def __init__(self, pace: Pace) -> None:
        super().__init__()
        self._pace = pace

    def render(self, task: Task) -> Text:
        """The time left, as far as it is known."""
        seconds = self._pace.seconds
        return Text("time left not known yet" if seconds is None else f"{duration(seconds)} left", "progress.remaining")


@contextmanager
def progress(units: Sequence[Unit], quiet: bool) -> Iterator[Callable[[Unit, int, float | None], None]]:
    """A bar over all samples of all units; what it gives is told of those that are done, as :meth:`Pace.took` is."""
    pace = Pace(units)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        _TimeLeft(pace),
    )
    with Progress(*columns, disable=quiet, transient=True) as bars:
        bar = bars.add_task("evaluate", total=sum(len(unit.digests) for unit in units))

        def advance(unit: Unit, count: int, seconds: float | None) -> None:
            pace.took(unit, count, seconds)
            bars.update(bar, advance=count, description=str(unit))

        yield advance
