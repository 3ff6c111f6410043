"""One result at a time: a unit of an evaluation, and what makes it."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from radapt.errors import InputError
from radapt.models import VLM
from radapt.results import CHECKS, Example, Results, Sample, Setting
from radapt.types import Pixels

from ._candidates import Candidate
from ._sanity import Tally, check_model, check_undefended, check_white_box, earlier_signs
from ._task import Answer, BoundTask, Task, batches
from ._threat import Threat

__all__ = ["Runner", "Unit", "identity_of"]

_EXAMPLES = 4
"""Images that are kept of a result, of its first chunk."""


@dataclass
class Unit:
    """One result to be made: a candidate on a dataset under a threat, or clean.

    Args:
        candidate, task, threat, source: what is attacked, and how; no threat for the clean result.
        setting: of the result.
        clean: of the clean result of the same candidate on the same dataset, which is made first.
        todo: the samples to be measured, in chunks that are measured whole.
        unchecked: whether the sanity checks are to run.
    """

    candidate: Candidate
    task: Task
    threat: Threat | None
    source: Candidate | None
    setting: Setting
    clean: Setting
    todo: list[list[int]] = field(default_factory=list)
    unchecked: bool = False

    @property
    def white_box(self) -> bool:
        """Whether the attacker sees the candidate itself."""
        return self.threat is not None and self.threat.source == "self"

    @property
    def found(self) -> Setting:
        """The setting of what the sanity checks of this result find beyond it."""
        return replace(self.setting, attack=CHECKS, options={"of": self.setting.attack, **self.setting.options})

    def __str__(self) -> str:
        what = "clean" if self.threat is None else f"{self.threat.name} from {self.threat.source}"
        return f"{self.setting.dataset} · {self.setting.method} · {what}"


def identity_of(source: Candidate | None) -> str:
    """What tells a candidate from others: its model and its defence; empty for none."""
    if source is None:
        return ""
    return source.model.name if source.adapter is None else f"{source.model.name}+{source.adapter.fingerprint}"


class _Attacked(NamedTuple):
    """The image of one sample after the attack, and what the attack cost."""

    image: Tensor
    cost: Mapping[str, Any]


class Runner:
    """Makes results one after the other, and shares between them what they have in common."""

    def __init__(self, results: Results, undefended: VLM | None, seed: int, batch_size: int) -> None:
        self._results, self._undefended = results, undefended
        self._seed, self._batch_size = seed, batch_size
        self._bound: dict[tuple[object, ...], BoundTask] = {}
        self._transferred: dict[tuple[object, ...], dict[int, _Attacked]] = {}
        self._task: Task | None = None

    def run(self, unit: Unit, advance: Callable[[int], None]) -> None:
        """Make one result, chunk by chunk; every chunk is committed before the next begins.

        Raises:
            InputError: the model puts out nothing that is a number.
        """
        if unit.task is not self._task:  # transferred images are kept for one dataset at a time
            self._transferred.clear()
            self._task = unit.task
        clean = {} if unit.threat is None else {each.position: each for each in self._results.samples(unit.clean)}
        lost = {position for position, sample in clean.items() if unit.task.lost(sample)}
        first = next(batches(len(unit.task.data), unit.setting.chunk_size))
        shown = [position for position in first if position not in lost][:_EXAMPLES]
        tally, continued = Tally(), sum(map(len, unit.todo)) < len(unit.task.data)
        earlier = earlier_signs(self._results, unit.setting) if continued else {}
        for number, chunk in enumerate(unit.todo, 1):
            started = time.perf_counter()
            positions = [position for position in chunk if position not in lost]
            samples = [
                replace(clean[position], data=unit.task.data.digests[position]) for position in set(chunk) & lost
            ]
            examples: list[Example] = []
            if positions:
                attacked = None if unit.threat is None else self._attack(unit, chunk, positions, tally)
                scored, examples = self._score(unit, positions, attacked, shown, tally)
                samples += scored
            seconds = time.perf_counter() - started
            complete = number == len(unit.todo)
            # Before the samples are stored: a result that is complete has had its checks.
            checks = self._check(unit, samples) if unit.unchecked and complete else {}
            checked = len(unit.task.data) if unit.unchecked and complete else 0
            self._results.flag(unit.setting, {**earlier, **tally.flags(), **checks}, checked=checked)
            self._results.add(unit.setting, samples, seconds=seconds, examples=examples)
            advance(len(chunk))
        if not unit.todo:  # measured before, without its checks
            flags = {**earlier, **self._check(unit, ())}
            self._results.flag(unit.setting, flags, checked=len(unit.task.data))

    def _bind(self, task: Task, candidate: Candidate) -> BoundTask:
        """The task on a candidate that has its adapter on."""
        key = (task, candidate.model, identity_of(candidate))
        if key not in self._bound:
            self._bound[key] = task.bind(candidate.model)
        return self._bound[key]

    def _attack(self, unit: Unit, chunk: Sequence[int], positions: Sequence[int], tally: Tally) -> list[_Attacked]:
        """The attacked images of some samples of a chunk; those for another model are made once for all candidates.

        They are made for the whole chunk, so that they do not depend on the candidate that comes first.
        """
        assert unit.threat is not None
        assert unit.source is not None
        key = (unit.source.model, identity_of(unit.source), unit.threat)
        known = {} if unit.white_box else self._transferred.setdefault(key, {})
        missing = positions if unit.white_box else [position for position in chunk if position not in known]
        if missing:
            data = unit.task.data
            with unit.source.defended():
                outcome = self._bind(unit.task, unit.source).attack(
                    unit.threat.make(),
                    data.pixels(missing),
                    missing,
                    keys=[data.keys[position] for position in missing],
                    seed=self._seed,
                    batch_size=self._batch_size,
                    stop=unit.white_box,
                )
            if unit.white_box:
                tally.add(outcome)
            images = outcome.pixels.cpu()
            for row, position in enumerate(missing):
                cost: dict[str, Any] = {
                    name: int(getattr(outcome, name)[row]) for name in ("iterations", "forwards", "backwards")
                }
                cost |= {"loss": float(outcome.loss[row]), "distance": float(outcome.distance[row])}
                known[position] = _Attacked(images[row], cost)
        return [known[position] for position in positions]

    def _answer(self, unit: Unit, pixels: Pixels, positions: Sequence[int]) -> list[Answer]:
        with unit.candidate.defended():
            return self._bind(unit.task, unit.candidate).answers(pixels, positions, self._batch_size)

    def _score(
        self,
        unit: Unit,
        positions: Sequence[int],
        attacked: Sequence[_Attacked] | None,
        shown: Sequence[int],
        tally: Tally,
    ) -> tuple[list[Sample], list[Example]]:
        data = unit.task.data
        clean = data.pixels(positions)
        pixels = clean if attacked is None else torch.stack([each.image for each in attacked])
        answers = self._answer(unit, pixels, positions)
        tally.add_answers(answers)
        if attacked is None and not any(answer.finite for answer in answers):
            raise InputError(
                f"{unit.candidate.method} puts out NaN on every image of {data.name}; check its weights and precision"
            )
        costs = [{}] * len(answers) if attacked is None else [each.cost for each in attacked]
        samples = [_sample(unit, *each) for each in zip(positions, answers, costs, strict=True)]
        rows = [row for row, position in enumerate(positions) if position in shown]
        if attacked is None or not rows:
            return samples, []
        before = self._answer(unit, clean[rows], [positions[row] for row in rows])
        examples = [
            Example(
                position=positions[row],
                clean=_png(clean[row]),
                adversarial=_png(pixels[row]),
                truth=unit.task.truth(positions[row]),
                before=was.text,
                after=answers[row].text,
            )
            for row, was in zip(rows, before, strict=True)
        ]
        return samples, examples

    def _check(self, unit: Unit, last: Sequence[Sample]) -> dict[str, object]:
        data, model = unit.task.data, unit.candidate.model
        few = range(min(unit.task.checked, len(data)))
        images = data.pixels(few).to(model.device)
        with unit.candidate.defended():
            if unit.threat is None:
                return check_model(model, images)
            if not unit.white_box:
                return {}
            scores = {each.position: each.score for each in (*self._results.samples(unit.setting), *last)}
            left = [position for position in few if scores[position] > unit.task.low]
            bound, keys = self._bind(unit.task, unit.candidate), data.keys[: len(few)]
            flags, found = check_white_box(bound, unit.threat, images, keys, few, survivors=left, seed=self._seed)
        if found:
            answers = self._answer(unit, torch.stack(list(found.values())), list(found))
            self._results.begin(unit.found)
            fooled = [_sample(unit, *each) for each in zip(found, answers, strict=True)]
            self._results.add(unit.found, fooled)
        if unit.candidate.adapter is None and model is self._undefended:
            flags |= check_undefended([float(score > unit.task.low) for score in scores.values()])
        return flags


def _sample(unit: Unit, position: int, answer: Answer, cost: Mapping[str, Any] = MappingProxyType({})) -> Sample:
    return Sample(
        position=position,
        label=unit.task.label(position),
        prediction=answer.prediction,
        score=answer.score,
        also=answer.also,
        answer=answer.text,
        data=unit.task.data.digests[position],
        **cost,
    )


def _png(image: Tensor) -> bytes:
    pixels = (image * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
