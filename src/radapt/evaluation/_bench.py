"""What measures: it holds models and data, and makes one chunk of a result at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from radapt.errors import InputError
from radapt.models import VLM
from radapt.results import Example, Sample, Sign
from radapt.types import Pixels

from ._candidates import Candidate, Models
from ._kept import attention_of, png
from ._ledger import Ledger
from ._plan import Live, Request, identity_of, planned
from ._sanity import check_clean, check_model, check_white_box, signs_of
from ._task import Answer, BoundTask, Task
from ._transferred import Attacked, Transferred, attacked
from ._units import Checked, Measured, Unit

__all__ = ["Bench"]

_ENOUGH = 8
"""Samples from which on it is no chance that none of a chunk gives a number."""
_EXAMPLES = 4
"""Images that are kept of a result, of its first chunk."""


class Bench:
    """Measures the units of an evaluation, and shares between them what they have in common.

    Args:
        request: what was asked for.
        models: loads the models.

    Raises:
        RadaptError: as of :func:`radapt.evaluate`.
    """

    def __init__(self, request: Request, models: Models) -> None:
        self._units, self._live = planned(request, models)
        self._seed, self._batch_size = request.seed, request.batch_size
        self._bound: dict[tuple[object, ...], BoundTask] = {}
        self._seen = set[tuple[Task, VLM]]()
        self._transferred = Transferred(request.transferred, request.batch_size)

    def units(self) -> list[Unit]:
        """What the evaluation consists of."""
        return self._units

    def run(self, units: Sequence[Unit], ledger: Ledger, advance: Callable[[Unit, int, float | None], None]) -> None:
        """Measure what is left of some units, one after the other.

        Args:
            units: the units.
            ledger: knows what is left, and writes.
            advance: called with a unit, how many of its samples are done, and the seconds that they took; None where
                they were there before.
        """
        for unit in units:
            advance(unit, len(unit.digests) - ledger.left(unit), None)
            for chunk in list(ledger.todo[unit.number]):
                measured = self.measure(unit, chunk, ledger.clean(unit, chunk))
                ledger.store(unit, chunk, measured)
                advance(unit, len(chunk), measured.seconds)
            if ledger.due(unit):
                try:
                    checks = self.check(unit, ledger.scores(unit))
                except BaseException:  # an interrupt, too, loses nothing that is measured
                    ledger.given_up(unit)
                    raise
                ledger.checked(unit, checks)
                advance(unit, 0, checks.seconds)

    def measure(self, unit: Unit, chunk: Sequence[int], clean: Sequence[Sample]) -> Measured:
        """Measure one chunk.

        Args:
            unit: the unit.
            chunk: positions of the samples.
            clean: those samples of the clean result; none for a clean one.

        Raises:
            InputError: the model puts out nothing that is a number.
        """
        live, started = self.objects(unit), time.perf_counter()
        self._look(live)
        before = {each.position: each for each in clean}
        lost = {position for position, sample in before.items() if live.task.lost(sample)}
        positions = [position for position in chunk if position not in lost]
        samples = [replace(before[position], data=unit.digests[position]) for position in sorted(lost)]
        examples = list[Example]()
        if positions:
            attacked = None if live.threat is None else self._attack(unit, live, chunk, positions)
            scored, examples = self._score(unit, live, positions, attacked)
            samples += scored
        return Measured(samples=samples, examples=examples, seconds=time.perf_counter() - started)

    def check(self, unit: Unit, scores: Mapping[int, float]) -> Checked:
        """Run the sanity checks of a unit whose samples are all measured.

        Args:
            unit: the unit.
            scores: of its samples, by position.
        """
        started = time.perf_counter()
        checks = self._checks(unit, scores)
        return replace(checks, seconds=time.perf_counter() - started)

    def _checks(self, unit: Unit, scores: Mapping[int, float]) -> Checked:
        live = self.objects(unit)
        self._look(live)
        data, model = live.task.data, live.candidate.model
        few = range(min(live.task.checked, len(data)))
        images = data.pixels(few).to(model.device)
        with live.candidate.defended():
            if live.threat is None:
                own = check_model(model, images, batch_size=self._batch_size)
                return Checked(flags={**own, **check_clean(live.task, scores)})
            if not unit.white_box:
                return Checked()
            left = [position for position in few if scores[position] > live.task.low]
            bound, keys = self.bind(live.task, live.candidate), data.keys[: len(few)]
            flags, found = check_white_box(
                bound, live.threat, images, keys, few, survivors=left, seed=self._seed, batch_size=self._batch_size
            )
        if not found:
            return Checked(flags=flags)
        answers = self._answer(live, torch.stack(list(found.values())), list(found))
        return Checked(flags=flags, samples=[_sample(unit, live, *each) for each in zip(found, answers, strict=True)])

    def forget(self) -> None:
        """Let go of transferred images."""
        self._transferred.forget()

    def lies(self, unit: Unit, chunk: Sequence[int]) -> bool:
        """Whether the transferred images of a chunk lie in the folder for them."""
        return self._transferred.lies(unit, self.objects(unit).task, chunk)

    def objects(self, unit: Unit) -> Live:
        """The objects behind a unit."""
        return self._live[unit.number]

    def bind(self, task: Task, candidate: Candidate) -> BoundTask:
        """The task on a candidate that has its adapter on."""
        key = (task, candidate.model, identity_of(candidate))
        if key not in self._bound:
            self._bound[key] = task.bind(candidate.model)
        return self._bound[key]

    def _look(self, live: Live) -> None:
        """Let a task see the models without their defences, once in an evaluation."""
        for each in (live.candidate, *([] if live.source is None else [live.source])):
            if (live.task, each.model) not in self._seen:
                live.task.before(each.model)
                self._seen.add((live.task, each.model))

    def _attack(self, unit: Unit, live: Live, chunk: Sequence[int], positions: Sequence[int]) -> list[Attacked]:
        """The attacked images of some samples of a chunk; those for another model are made once for all candidates.

        They are made for the whole chunk, so that they do not depend on the candidate that comes first.
        """
        assert live.threat is not None
        assert live.source is not None
        rows = positions if unit.white_box else chunk
        made = None if unit.white_box else self._transferred.of(unit, live.task, chunk)
        if made is None:
            data = live.task.data
            attack = live.threat.make()
            with live.source.defended():
                outcome = self.bind(live.task, live.source).attack(
                    attack,
                    data.pixels(rows),
                    rows,
                    keys=[data.keys[position] for position in rows],
                    seed=self._seed,
                    batch_size=self._batch_size,
                    stop=unit.white_box,
                )
            made = attacked(outcome, signs_of(outcome, white_box=unit.white_box, raises_loss=attack._raises_loss))
            if not unit.white_box:
                self._transferred.keep(unit, live.task, chunk, made)
        by_position = dict(zip(rows, made, strict=True))
        return [by_position[position] for position in positions]

    def _answer(self, live: Live, pixels: Pixels, positions: Sequence[int]) -> list[Answer]:
        with live.candidate.defended():
            return self.bind(live.task, live.candidate).answers(pixels, positions, self._batch_size)

    def _score(
        self, unit: Unit, live: Live, positions: Sequence[int], attacked: Sequence[Attacked] | None
    ) -> tuple[list[Sample], list[Example]]:
        data = live.task.data
        clean = data.pixels(positions)
        pixels = clean if attacked is None else torch.stack([each.image for each in attacked])
        answers = self._answer(live, pixels, positions)
        many = len(answers) >= min(_ENOUGH, len(data))
        if attacked is None and many and not any(answer.finite for answer in answers):
            raise InputError(
                f"{live.candidate.method} puts out NaN on every image of {data.name} ({len(answers)} were shown to "
                "it); check its weights and precision"
            )
        images: Sequence[Attacked | None] = attacked or [None] * len(answers)
        samples = [_sample(unit, live, *each) for each in zip(positions, answers, images, strict=True)]
        rows = [row for row, position in enumerate(positions) if position < unit.setting.chunk_size][:_EXAMPLES]
        if attacked is None or not rows:
            return samples, []
        before = self._answer(live, clean[rows], [positions[row] for row in rows])
        with live.candidate.defended():
            looks = [attention_of(live.candidate.model, images[rows]) for images in (clean, pixels)]
        examples = [
            Example(
                position=positions[row],
                clean=png(clean[row]),
                adversarial=png(pixels[row]),
                truth=live.task.truth(positions[row]),
                before=was.text,
                after=answers[row].text,
                attention_before=look,
                attention_after=looks_after,
            )
            for row, was, look, looks_after in zip(rows, before, *looks, strict=True)
        ]
        return samples, examples


def _sample(unit: Unit, live: Live, position: int, answer: Answer, attacked: Attacked | None = None) -> Sample:
    signs: tuple[Sign, ...] = () if attacked is None else attacked.signs
    return Sample(
        position=position,
        label=live.task.label(position),
        prediction=answer.prediction,
        score=answer.score,
        also=answer.also,
        answer=answer.text,
        data=unit.digests[position],
        signs=signs if answer.finite else (*signs, "not finite"),
        **({} if attacked is None else attacked.cost),
    )
