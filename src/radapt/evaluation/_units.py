"""One result at a time: a unit of an evaluation, and what makes it."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from radapt.attacks import Outcome
from radapt.models import VLM
from radapt.results import Example, Results, Sample, Setting
from radapt.types import Pixels

from ._candidates import Candidate
from ._sanity import Tally, check_model, check_undefended, check_white_box, earlier_signs
from ._task import Answer, BoundTask, Task
from ._threat import Threat

__all__ = ["Runner", "Unit", "identity_of"]

_CHUNK = 128
_EXAMPLES = 4


@dataclass
class Unit:
    """One result to be made: a candidate on a dataset under a threat, or clean."""

    candidate: Candidate
    task: Task
    threat: Threat | None
    source: Candidate | None
    setting: Setting
    todo: list[int] = field(default_factory=list)

    @property
    def white_box(self) -> bool:
        """Whether the attacker sees the candidate itself."""
        return self.threat is not None and self.threat.source == "self"

    def __str__(self) -> str:
        what = "clean" if self.threat is None else f"{self.threat.name} from {self.threat.source}"
        return f"{self.setting.dataset} · {self.setting.method} · {what}"


def identity_of(source: Candidate | None) -> str:
    """What tells a candidate from others: its model and its defence; empty for none."""
    if source is None:
        return ""
    return source.model.name if source.adapter is None else f"{source.model.name}+{source.adapter.fingerprint}"


class Runner:
    """Makes results one after the other, and shares between them what they have in common."""

    def __init__(self, results: Results, undefended: VLM | None, seed: int, batch_size: int, sanity: bool) -> None:
        self._results, self._undefended = results, undefended
        self._seed, self._batch_size, self._sanity = seed, batch_size, sanity
        self._bound: dict[tuple[object, ...], BoundTask] = {}
        self._outcomes: dict[tuple[object, ...], Outcome] = {}
        self._task: Task | None = None

    def run(self, unit: Unit, advance: Callable[[int], None]) -> None:
        """Make one result, chunk by chunk; every chunk is committed before the next begins."""
        if unit.task is not self._task:  # transferred images are kept for one dataset at a time
            self._outcomes.clear()
            self._task = unit.task
        tally, continued = Tally(), len(unit.todo) < len(unit.task.data)
        earlier = earlier_signs(self._results, unit.setting) if continued else {}
        for first in range(0, len(unit.todo), _CHUNK):
            started = time.perf_counter()
            positions = unit.todo[first : first + _CHUNK]
            outcome = self._attack(unit, positions)
            if unit.white_box and outcome is not None:
                tally.add(outcome)
            samples, examples = self._score(unit, positions, outcome)
            seconds = time.perf_counter() - started
            if self._sanity:  # before the samples are stored: a result that is complete has had its checks
                checks = self._check(unit, samples) if first + _CHUNK >= len(unit.todo) else {}
                self._results.flag(unit.setting, {**earlier, **tally.flags(), **checks})
            self._results.add(unit.setting, samples, seconds=seconds, examples=examples)
            advance(len(positions))

    def _bind(self, task: Task, candidate: Candidate) -> BoundTask:
        """The task on a candidate that has its adapter on."""
        key = (task, candidate.model, identity_of(candidate))
        if key not in self._bound:
            self._bound[key] = task.bind(candidate.model)
        return self._bound[key]

    def _attack(self, unit: Unit, positions: Sequence[int]) -> Outcome | None:
        if unit.threat is None or unit.source is None:
            return None
        key = (identity_of(unit.source), unit.threat, tuple(positions))
        if key in self._outcomes:
            return self._outcomes[key]
        data = unit.task.data
        with unit.source.defended():
            outcome = self._bind(unit.task, unit.source).attack(
                unit.threat.make(),
                data.pixels(positions),
                positions,
                keys=[data.keys[position] for position in positions],
                seed=self._seed,
                batch_size=self._batch_size,
                stop=unit.white_box,
            )
        if not unit.white_box:
            self._outcomes[key] = outcome
        return outcome

    def _answer(self, unit: Unit, pixels: Pixels, positions: Sequence[int]) -> list[Answer]:
        with unit.candidate.defended():
            return self._bind(unit.task, unit.candidate).answers(pixels, positions, self._batch_size)

    def _score(
        self, unit: Unit, positions: Sequence[int], outcome: Outcome | None
    ) -> tuple[list[Sample], list[Example]]:
        clean = unit.task.data.pixels(positions)
        pixels = clean if outcome is None else outcome.pixels.cpu()
        answers = self._answer(unit, pixels, positions)
        samples = []
        for row, (position, answer) in enumerate(zip(positions, answers, strict=True)):
            cost: dict[str, Any] = {}
            if outcome is not None:
                cost = {name: int(getattr(outcome, name)[row]) for name in ("iterations", "forwards", "backwards")}
                cost |= {"loss": float(outcome.loss[row]), "distance": float(outcome.distance[row])}
            scored: dict[str, Any] = {"prediction": answer.prediction, "score": answer.score, "also": answer.also}
            scored["answer"] = answer.text
            samples.append(Sample(position=position, label=unit.task.label(position), **scored, **cost))
        shown = [row for row, position in enumerate(positions) if position < _EXAMPLES]
        if outcome is None or not shown:
            return samples, []
        before = self._answer(unit, clean[shown], [positions[row] for row in shown])
        examples = [
            Example(
                position=positions[row],
                clean=_png(clean[row]),
                adversarial=_png(pixels[row]),
                truth=unit.task.truth(positions[row]),
                before=was.text,
                after=answers[row].text,
            )
            for row, was in zip(shown, before, strict=True)
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
            flags = check_white_box(bound, unit.threat, images, keys, few, survivors=left, seed=self._seed)
        if unit.candidate.adapter is None and model is self._undefended:
            flags |= check_undefended([float(score > unit.task.low) for score in scores.values()])
        return flags


def _png(image: Tensor) -> bytes:
    pixels = (image * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
