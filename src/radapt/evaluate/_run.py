"""Running a plan: every candidate on every data set, clean and under every threat, into a results file."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from radapt.attacks import Outcome
from radapt.data import Dataset
from radapt.errors import SettingsError
from radapt.find import find, members, nearest
from radapt.models import VLM
from radapt.results import Example, Figure, Results, Sample, Setting
from radapt.types import Pixels

from ._plan import Candidate, Threat, setting_of, weights_of
from ._sanity import Tally, check_model, check_undefended, check_white_box, earlier_signs
from ._targeted import Targeted
from ._task import Answer, BoundTask, Task

__all__ = ["evaluate"]

_CHUNK = 128
_EXAMPLES = 4


@dataclass
class _Unit:
    """One figure to be made: a candidate on a data set under a threat, or clean."""

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
        what = "clean" if self.threat is None else f"{self.threat.attack} from {self.threat.source}"
        return f"{self.setting.dataset} · {self.setting.method} · {what}"


def evaluate(
    candidates: Sequence[Candidate],
    *,
    datasets: Sequence[Dataset],
    threats: Sequence[Threat],
    results: Results,
    undefended: VLM | None = None,
    seed: int = 0,
    slots: int = 32,
    target: str | None = None,
    sanity: bool = True,
    quiet: bool = False,
) -> list[Figure]:
    """Evaluate candidates on data sets, clean and under threats; what the results file holds already is not redone.

    Images for a transfer threat are made against its source with the whole budget (no early stop) and shared by all
    candidates; a white-box attack (``source="self"``) differentiates through the candidate's adapter.

    Args:
        candidates: the lines of the report.
        datasets: data sets; each sample of each is used, for the task that is on its card.
        threats: the attacks, each with its source.
        results: an open results file; rows are committed every 128 samples.
        undefended: what ``source="undefended"`` means; by default each candidate's model without its adapter.
        seed: seed of the per-sample random numbers.
        slots: images per pass of the model; figures at one number of slots are the same bit for bit.
        target: a sentence that attacks drive generative models to say; figures are then the share that does not say it.
        sanity: run the sanity checks and store their flags.
        quiet: no progress bar.

    Returns:
        The figures of this plan, in order.

    Raises:
        SettingsError: nothing to evaluate, two candidates of one name or with the same figures, a model that carries an
            adapter already, an unknown source, or a data set of a task that cannot be evaluated.
    """
    if slots < 1:
        raise SettingsError(f"slots must be at least 1, got {slots}")
    if not candidates or not datasets:
        raise SettingsError("nothing to evaluate: give at least one candidate and one data set")
    _check_candidates(candidates, undefended)
    tasks = [_task(data, target) for data in datasets]
    units = list(_units(candidates, tasks, threats, undefended, seed))
    for unit in units:
        done = results.begin(unit.setting)
        unit.todo = [position for position in range(len(unit.task.data)) if position not in done]
    runner = _Runner(results, undefended, seed, slots, sanity)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, disable=quiet, transient=True) as progress:
        bar = progress.add_task("evaluate", total=sum(len(unit.task.data) for unit in units))
        for unit in units:
            progress.update(bar, advance=len(unit.task.data) - len(unit.todo), description=str(unit))
            if unit.todo:
                runner.run(unit, lambda n: progress.update(bar, advance=n))
    keys = {unit.setting.key: i for i, unit in enumerate(units)}
    figures = [figure for figure in results.figures() if figure.setting.key in keys]
    return sorted(figures, key=lambda figure: keys[figure.setting.key])


def _check_candidates(candidates: Sequence[Candidate], undefended: VLM | None) -> None:
    names = [candidate.method for candidate in candidates]
    if len(set(names)) < len(names):
        raise SettingsError(f"candidates must have different names, got {', '.join(names)}")
    seen: dict[str, str] = {}
    for candidate in candidates:
        first = seen.setdefault(_name(candidate), candidate.method)
        if first != candidate.method:
            raise SettingsError(
                f"candidates {first!r} and {candidate.method!r} have the same model name ({candidate.model.name}) and "
                "adapter, so their figures would be one; leave one out, or give different models different names"
            )
    models = {candidate.method: candidate.model for candidate in candidates}
    for name, model in (models if undefended is None else {**models, "undefended": undefended}).items():
        if model.tower.mounted() is not None:
            raise SettingsError(f"the model of {name!r} carries an adapter already; detach it and give it as adapter=")


def _task(data: Dataset, target: str | None) -> Task:
    if target is not None:
        return Targeted(data, target)
    tasks = members("radapt.evaluate")
    if data.card.task not in tasks:
        raise SettingsError(f"{data.name} is a set for {data.card.task}, which cannot be evaluated{nearest('', tasks)}")
    task: Task = find("radapt.evaluate", data.card.task, "TASK")(data)
    return task


def _units(
    candidates: Sequence[Candidate],
    tasks: Sequence[Task],
    threats: Sequence[Threat],
    undefended: VLM | None,
    seed: int,
) -> Iterable[_Unit]:
    by_name = {candidate.method: candidate for candidate in candidates}
    known: dict[VLM, str] = {}
    for task in tasks:
        for candidate in candidates:
            for threat in (None, *threats):
                source = None if threat is None else _source(candidate, threat, by_name, undefended)
                held = weights_of(candidate, source, known)
                setting = setting_of(candidate, task, threat, _name(source), seed, held)
                yield _Unit(candidate=candidate, task=task, threat=threat, source=source, setting=setting)


def _source(candidate: Candidate, threat: Threat, by_name: dict[str, Candidate], undefended: VLM | None) -> Candidate:
    if threat.source == "self":
        return candidate
    if threat.source == "undefended":
        return Candidate(method="undefended", model=undefended or candidate.model)
    if threat.source not in by_name:
        allowed = ("self", "undefended", *by_name)
        raise SettingsError(f"unknown source {threat.source!r}{nearest(threat.source, allowed)}")
    return by_name[threat.source]


def _name(source: Candidate | None) -> str:
    if source is None:
        return ""
    return source.model.name if source.adapter is None else f"{source.model.name}+{source.adapter.fingerprint}"


class _Runner:
    """Makes figures one after the other, and shares between them what they have in common."""

    def __init__(self, results: Results, undefended: VLM | None, seed: int, slots: int, sanity: bool) -> None:
        self._results, self._undefended = results, undefended
        self._seed, self._slots, self._sanity = seed, slots, sanity
        self._bound: dict[tuple[object, ...], BoundTask] = {}
        self._outcomes: dict[tuple[object, ...], Outcome] = {}
        self._task: Task | None = None

    def run(self, unit: _Unit, advance: Callable[[int], None]) -> None:
        """Make one figure, chunk by chunk; every chunk is committed before the next begins."""
        if unit.task is not self._task:  # transferred images are kept for one data set at a time
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
            if self._sanity:  # before the samples are stored: a figure that is complete has had its checks
                checks = self._check(unit, samples) if first + _CHUNK >= len(unit.todo) else {}
                self._results.flag(unit.setting, {**earlier, **tally.flags(), **checks})
            self._results.add(unit.setting, samples, seconds=seconds, examples=examples)
            advance(len(positions))

    def _bind(self, task: Task, candidate: Candidate) -> BoundTask:
        """The task on a candidate that has its adapter on."""
        key = (task, candidate.model, _name(candidate))
        if key not in self._bound:
            self._bound[key] = task.bind(candidate.model)
        return self._bound[key]

    def _attack(self, unit: _Unit, positions: Sequence[int]) -> Outcome | None:
        if unit.threat is None or unit.source is None:
            return None
        key = (_name(unit.source), unit.threat, tuple(positions))
        if key in self._outcomes:
            return self._outcomes[key]
        data = unit.task.data
        with unit.source.on():
            outcome = self._bind(unit.task, unit.source).attack(
                unit.threat.make(),
                data.pixels(positions),
                positions,
                keys=[data.keys[position] for position in positions],
                seed=self._seed,
                slots=self._slots,
                stop=unit.white_box,
            )
        if not unit.white_box:
            self._outcomes[key] = outcome
        return outcome

    def _answer(self, unit: _Unit, pixels: Pixels, positions: Sequence[int]) -> list[Answer]:
        with unit.candidate.on():
            return self._bind(unit.task, unit.candidate).answers(pixels, positions, self._slots)

    def _score(
        self, unit: _Unit, positions: Sequence[int], outcome: Outcome | None
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
            said: dict[str, Any] = {"prediction": answer.prediction, "score": answer.score, "also": answer.also}
            said["answer"] = answer.text
            samples.append(Sample(position=position, label=unit.task.label(position), **said, **cost))
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

    def _check(self, unit: _Unit, last: Sequence[Sample]) -> dict[str, object]:
        data, model = unit.task.data, unit.candidate.model
        few = range(min(unit.task.checked, len(data)))
        images = data.pixels(few).to(model.device)
        with unit.candidate.on():
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
