"""A live attack: one image, shown step by step, and ended for good by whoever stops it."""

from __future__ import annotations

from collections.abc import Generator
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any, NamedTuple, TypeVar

from radapt.attacks import Attack, Objective, Outcome, Score, Watched, make
from radapt.errors import InputError, RadaptError
from radapt.io import fraction
from radapt.registry import nearest
from radapt.types import Index, Pixels

__all__ = ["ATTACKS", "RADII", "Step", "live", "make_attack"]

ATTACKS: dict[str, dict[str, Any]] = {
    "pgd": {"steps": 20},
    "apgd": {"steps": 50},
    "fgsm": {},
    "mi-fgsm": {"steps": 20},
    "square": {"steps": 2000},
}
"""The attacks that are offered, and their settings."""
RADII = ("1/255", "2/255", "4/255", "8/255", "16/255")
"""Radii in the maximum norm, in pixel units."""
_SECONDS = 120.0
"""After this time an attack keeps what it has."""
_WAIT, _PAUSE = 0.05, 0.08
"""Seconds: for the next step, and between two that are shown."""


class Step(NamedTuple):
    """A step of an attack: its number, how many there are at most, the image reached, and its score."""

    number: int
    steps: int
    pixels: Pixels
    score: Score


class _StoppedError(RadaptError):
    """Somebody has stopped the attack."""


_Item = TypeVar("_Item")


def make_attack(name: str, eps: str) -> Attack:
    """One of the attacks that are offered.

    Raises:
        InputError: there is no such attack or radius here.
    """
    if name not in ATTACKS:
        raise InputError(f"there is no attack {name!r} here{nearest(name, ATTACKS)}")
    if eps not in RADII:
        raise InputError(f"there is no radius {eps!r} here{nearest(eps, RADII)}")
    return make(name, eps=fraction(eps), **ATTACKS[name])


def live(attack: Attack, objective: Objective, pixels: Pixels, *, stop: Event) -> Generator[Step, None, Outcome | None]:
    """Attack one image in a thread of its own, and give its steps as they come, the latest where they come faster.

    When ``stop`` is set, or the generator is closed, the attack ends before its next pass; the generator ends when
    the attack has.

    Args:
        attack: the attack.
        objective: what it maximises, with one sample.
        pixels: the image, 1 x 3 x height x width.
        stop: ends the attack when set.

    Returns:
        What was found; None when it was stopped.

    Raises:
        RadaptError: the attack failed.
    """
    steps: SimpleQueue[Step] = SimpleQueue()
    found: list[Outcome] = []
    failed: list[BaseException] = []
    gradient_free = not getattr(attack, "needs_gradient", True)
    count = 0

    def watch(points: Pixels, index: Index, score: Score, graded: bool) -> None:
        nonlocal count
        if stop.is_set():
            raise _StoppedError("stopped")
        if graded or gradient_free:
            count += 1
            steps.put(Step(min(count, attack.steps), attack.steps, points.clone(), score))

    def run() -> None:
        try:
            found.append(attack(Watched(objective, watch), pixels, batch_size=1, seconds=_SECONDS))
        except _StoppedError:
            pass
        except BaseException as error:
            failed.append(error)

    thread = Thread(target=run, name="radapt-attack", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            step = _latest(steps, _WAIT)
            if step is not None:
                yield step
                thread.join(_PAUSE)
        step = _latest(steps, 0)
        if step is not None:
            yield step
    finally:
        if thread.is_alive():
            stop.set()
        thread.join()
    if failed:
        raise failed[0]
    return found[0] if found else None


def _latest(items: SimpleQueue[_Item], wait: float) -> _Item | None:
    """The last item of a queue, for the first of which it waits."""
    try:
        item = items.get(timeout=wait) if wait else items.get_nowait()
        while True:
            try:
                item = items.get_nowait()
            except Empty:
                return item
    except Empty:
        return None
