"""What happens when somebody uses a control: the words of the page in, calls of the library, HTML out."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import NamedTuple

from torch import Tensor

from radapt.adapters import Adapter
from radapt.errors import InputError, ModelError
from radapt.models import VLM, replica
from radapt.types import Pixels

from ._answers import Answer, Asked, Asker, Words
from ._live import live, make_attack
from ._pictures import Picture
from ._shelf import Shelf
from ._views import Row, attention, bars, outcome, traces

__all__ = ["SOURCES", "Actions", "Choice"]

SOURCES = {
    "undefended": "the model without the defence (transfer)",
    "self": "the defended model (white-box)",
}
"""Whose gradients an attack may have."""
_KEPT = 16
"""Saved adapters."""
_UNKNOWN = "not known: the attack was stopped"
_UNDONE = "not known: the attack ran out of time, or failed"


class Choice(NamedTuple):
    """What is chosen on the page.

    Args:
        picture: the picture; None before one is chosen.
        model: name of the model.
        defence: name of the defence.
        d0, alpha: where the sliders are.
        words: what is typed.
    """

    picture: Picture | None
    model: str
    defence: str
    d0: float
    alpha: float
    words: Words


@dataclass(frozen=True)
class _Bench:
    """What a choice stands for: the model without and with the defence, the image and what is asked."""

    plain: VLM
    defended: VLM
    adapter: Adapter
    pixels: Pixels
    asked: Asked
    right: str
    known: bool
    """Whether the right answer was given, rather than taken from the model without the defence."""

    def said(self, pixels: Pixels) -> tuple[tuple[str, bool], tuple[str, bool]]:
        """What both models say about an image, and whether it is right."""
        both = (self.asked.answers(model, pixels)[0].text for model in (self.plain, self.defended))
        plain, defended = ((text, _same(text, self.right)) for text in both)
        return plain, defended


class Actions:
    """The actions of the page; they hold nothing of anybody's but which attacks are running.

    Args:
        shelf: models and adapters.
    """

    def __init__(self, shelf: Shelf) -> None:
        self.shelf, self._asker = shelf, Asker()
        self._running: dict[str, Event] = {}
        self._lock = Lock()

    def predict(self, choice: Choice) -> str:
        """What the model says without and with the defence.

        Raises:
            RadaptError: something is missing or out of range.
        """
        bench, plain, defended = self._bench(choice)
        title = f"With the defence: {choice.defence}"
        panels = [
            ("Without the defence", choice.model, plain),
            (title, repr(bench.adapter), defended),
        ]
        return bars(panels, bench.right if bench.known else "")

    def look(self, choice: Choice, *, attacked: Tensor | None = None) -> str:
        """First-block attention without and with the defence.

        Raises:
            RadaptError: something is missing or out of range, or the model gives no attention maps.
        """
        plain, image = self._image(choice)
        adapter = self._adapter(choice)
        guarded = replica(plain)
        adapter.attach(guarded)
        images = [("the picture", image)] + ([] if attacked is None else [("after the attack", attacked)])
        return attention([("without the defence", replica(plain)), ("with the defence", guarded)], images)

    def attack(self, choice: Choice, name: str, eps: str, source: str, user: str) -> Iterator[tuple[str, str, str]]:
        """Attack the chosen image with the gradients of a source, then with those of the other one.

        Args:
            choice: what is chosen.
            name, eps: the attack and its radius.
            source: one of ``SOURCES``.
            user: whose attack it is, for :meth:`stop`.

        Yields:
            The outcome so far, what was made so far, and, at the end, the attention on it.

        Raises:
            RadaptError: something is missing or out of range.
        """
        if source not in SOURCES:
            raise InputError(f"the attack must see {' or '.join(SOURCES)}, got {source!r}")
        attack = make_attack(name, eps)
        bench, plain, defended = self._bench(choice)
        clean = _said(plain, bench.right), _said(defended, bench.right)
        rows = {each: Row(SOURCES[each]) for each in sorted(SOURCES, key=lambda each: each != source)}
        about = (
            f"{name}, eps {eps}, on {choice.model}; {choice.picture.title if choice.picture else ''}; {bench.adapter!r}"
        )
        stop = self._begin(user)
        try:
            for each, row in rows.items():
                if stop.is_set():
                    row.state = _UNKNOWN
                    continue
                model = bench.plain if each == "undefended" else bench.defended
                objective = bench.asked.objective(model, bench.pixels, bench.right, stop=each == "self")
                steps = live(attack, objective, bench.pixels.to(model.device), stop=stop)
                found = None
                with closing(steps):
                    while True:
                        try:
                            row.step = next(steps)
                        except StopIteration as end:
                            found = end.value
                            break
                        row.now, row.pixels = bench.asked.says(row.step.score), row.step.pixels
                        shown = list(rows.values())
                        html = outcome(about, bench.right, clean, shown, "", "")
                        yield html, traces(bench.pixels, attack.eps, shown, final=False), ""
                if found is None:
                    row.state, row.step = _UNKNOWN, None
                else:
                    row.pixels = found.pixels
                    row.said = bench.said(found.pixels)
                    if row.said[1][1] and bool((found.unfinished | found.failed).any()):  # it might have fooled it
                        row.state, row.step, row.said = _UNDONE, None, None
        finally:
            self._end(user, stop)
        verdict, kind = _verdict(rows, clean)
        first = next(iter(rows.values())).pixels
        made = traces(bench.pixels, attack.eps, list(rows.values()), final=True)
        yield outcome(about, bench.right, clean, list(rows.values()), verdict, kind), made, self._seen(choice, first)

    def stop(self, user: str) -> str:
        """End the attack of a user, if there is one, and say what was done."""
        with self._lock:
            event = self._running.get(user)
        if event is None:
            return "No attack of yours is running."
        event.set()
        return "The attack is stopped."

    def save(self, choice: Choice, folder: str | Path) -> Path:
        """The adapter, saved and packed into a file of a folder.

        Raises:
            RadaptError: a slider is out of range, or the adapter cannot be written.
        """
        adapter = self._adapter(choice)
        with tempfile.TemporaryDirectory() as place:
            adapter.save_pretrained(Path(place) / "adapter")
            base = Path(folder) / f"adapter-{adapter.fingerprint}"
            made = Path(shutil.make_archive(str(base), "zip", Path(place) / "adapter"))
        made.touch()
        for old in sorted(Path(folder).glob("*.zip"), key=lambda file: file.stat().st_mtime_ns)[:-_KEPT]:
            old.unlink(missing_ok=True)
        return made

    def _seen(self, choice: Choice, attacked: Tensor | None) -> str:
        """The attention maps after an attack; of a model that gives none, the page has said so before."""
        try:
            return self.look(choice, attacked=None if attacked is None else attacked[0])
        except ModelError:
            return ""

    def _begin(self, user: str) -> Event:
        """The event that ends the attack of a user; an attack of theirs that still runs is ended."""
        event = Event()
        with self._lock:
            before = self._running.get(user)
            self._running[user] = event
        if before is not None:
            before.set()
        return event

    def _end(self, user: str, event: Event) -> None:
        with self._lock:
            if self._running.get(user) is event:
                del self._running[user]

    def _image(self, choice: Choice) -> tuple[VLM, Tensor]:
        plain = self.shelf.model(choice.model)
        if choice.picture is None or choice.model not in choice.picture.pixels:
            raise InputError("choose a picture first, or upload one")
        return plain, choice.picture.pixels[choice.model]

    def _adapter(self, choice: Choice) -> Adapter:
        return self.shelf.adapter(choice.model, choice.defence, d0=choice.d0, alpha=choice.alpha)

    def _bench(self, choice: Choice) -> tuple[_Bench, list[Answer], list[Answer]]:
        """What a choice stands for, and what the model says without and with the defence."""
        plain, image = self._image(choice)
        asked = self._asker.asked(plain, choice.words)
        adapter = self._adapter(choice)
        defended = self.shelf.defended(choice.model, adapter)
        pixels = image[None]
        answers, others = asked.answers(plain, pixels), asked.answers(defended, pixels)
        given = " ".join(choice.words.right.split())
        right = asked.check(given) if given else answers[0].text
        return _Bench(plain, defended, adapter, pixels, asked, right, bool(given)), answers, others


def _same(text: str, right: str) -> bool:
    """Whether an answer is the right one: letter case, white space and a full stop aside."""
    return _bare(text) == _bare(right)


def _bare(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")


def _said(answers: list[Answer], right: str) -> tuple[str, bool]:
    return answers[0].text, _same(answers[0].text, right)


def _verdict(rows: dict[str, Row], clean: tuple[tuple[str, bool], tuple[str, bool]]) -> tuple[str, str]:
    """What the outcome means for the defence, in a sentence or two, and whether that is good, bad or open.

    Only an attack with the gradients of the defended model says something about robustness.
    """
    if not clean[1][1]:
        return "The defended model is wrong already, without an attack.", "bad"
    transfer, own = rows["undefended"].said, rows["self"].said
    held = transfer is not None and transfer[1][1]
    if own is None:
        known = "The defence holds against transfer, which says nothing about robustness. " if held else ""
        return f"{known}The white-box outcome is {rows['self'].state}.", "open"
    if not own[1][1]:
        why = "It holds against transfer, but that is not robustness. " if held else ""
        return f"{why}An attack that sees the defended model (white-box) fools it.", "bad"
    if transfer is None:
        return f"It holds against this attack, white-box; the transfer outcome is {rows['undefended'].state}.", "open"
    if not held:
        return "An attack on the model without the defence (transfer) fools the defended model, too.", "bad"
    return (
        "The defended model holds against this attack, white-box and by transfer, on this one picture. Other attacks "
        "may fool it; robust accuracy is measured on many pictures: radapt evaluate.",
        "good",
    )
