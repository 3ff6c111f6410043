"""What an evaluation will cost on this device: passes, seconds and memory of each result, from a probe."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from radapt.attacks import Attack, ClassificationObjective, Outcome
from radapt.attacks.apgd import APGD
from radapt.attacks.apgd_ensemble import APGDEnsemble

from ._bench import Bench
from ._candidates import Candidate
from ._peak import watched
from ._plan import Live, identity_of
from ._sanity import QUERIES, longer
from ._task import batches
from ._units import Unit

__all__ = ["Cost", "UnitCost", "costs_of"]

_PROBED = 16
"""Samples of a dataset that a probe attacks."""
_SHORT = 100
"""Passes of an attack, per sample, up to which the probe is the attack itself."""
_STANDING = 3
"""Samples that stand, of those probed, on which an attack that gives searches up is run itself."""
_TIMED = 4
"""Steps of the attack that is timed."""


@dataclass(frozen=True, kw_only=True)
class UnitCost:
    """What one result will cost.

    Args:
        unit: the result.
        samples: to be measured.
        forwards, backwards: passes per sample, on average.
        seconds: for all of them, on this device.
        check_seconds: for the sanity checks.
        memory: bytes at the peak of a batch: of tensors on an accelerator, else of the whole process; 0 where the
            system does not tell, and where nothing is left.
    """

    unit: Unit
    samples: int
    forwards: float
    backwards: float
    seconds: float
    check_seconds: float = 0.0
    memory: int = 0

    def row(self) -> dict[str, object]:
        """The cost as one flat JSON object."""
        setting = self.unit.setting
        names = ("method", "dataset", "attack", "norm", "eps", "source")
        numbers = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "unit"}
        return {**{name: getattr(setting, name) for name in names}, "n": setting.n, **numbers}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What an evaluation will cost.

    Args:
        units: its results.
        probe_seconds: that the estimate took.
    """

    units: tuple[UnitCost, ...]
    probe_seconds: float

    @property
    def seconds(self) -> float:
        """Seconds of one worker."""
        return sum(unit.seconds + unit.check_seconds for unit in self.units)

    @property
    def memory(self) -> int:
        """Bytes that each worker needs: of the result that needs most."""
        return max((unit.memory for unit in self.units), default=0)

    def seconds_with(self, workers: int) -> float:
        """Seconds until several equal workers are done: an even share each, or those of the longest chunk."""
        chunks = [
            unit.check_seconds + unit.seconds * min(unit.unit.setting.chunk_size, unit.samples) / unit.samples
            for unit in self.units
            if unit.samples
        ]
        return max(self.seconds / workers, max(chunks, default=0.0))


@dataclass(frozen=True)
class _Speed:
    """Seconds per image: of a forward pass, and of one forward and back, with what the attack does around it.

    And bytes at the peak of a batch of each.
    """

    forward: float
    pair: float
    forward_memory: int
    pair_memory: int

    def of(self, passes: tuple[float, float]) -> float:
        """Seconds of some forward and backward passes of one image."""
        forwards, backwards = passes
        paired = min(forwards, backwards)
        return paired * self.pair + (forwards - paired) * self.forward


class _Probe:
    """Measures, on a few samples, what the passes of a model cost and how many an attack takes."""

    def __init__(self, bench: Bench, batch_size: int, seed: int, sanity: bool) -> None:
        self._bench, self._batch_size, self._seed, self._sanity = bench, batch_size, seed, sanity
        self._speeds: dict[tuple[object, ...], _Speed] = {}
        self._most: dict[tuple[object, ...], tuple[float, float]] = {}

    def cost(self, unit: Unit, samples: int, attacked: float = 0.0) -> UnitCost:
        """The cost of a unit; ``attacked``: of what share of its samples images are made."""
        live = self._bench.objects(unit)
        speed = self._speed(live, live.candidate)
        forwards, backwards, seconds, checks, memory = 1.0, 0.0, speed.forward, 0.0, speed.forward_memory
        if live.threat is not None and live.source is not None and attacked:
            attack, standing = live.threat.make(), 0
            if unit.white_box:
                passes, standing = self._expected(live, attack)
            else:
                passes = self._whole(live, attack)
            source = self._speed(live, live.source)
            forwards, backwards = forwards + attacked * passes[0], backwards + attacked * passes[1]
            seconds += attacked * source.of(passes)
            memory = max(memory, source.pair_memory)
            if standing and self._sanity:
                checks = standing * (source.of(self._whole(live, longer(live.threat))) + QUERIES * source.forward)
        return UnitCost(
            unit=unit,
            samples=samples,
            forwards=forwards,
            backwards=backwards,
            seconds=samples * seconds,
            check_seconds=checks,
            memory=memory,
        )

    def _speed(self, live: Live, candidate: Candidate) -> _Speed:
        key = (live.task, candidate.model, identity_of(candidate))
        if key not in self._speeds:
            data = live.task.data
            positions = list(range(min(self._batch_size, len(data))))
            source = live._replace(candidate=candidate)
            pixels = data.pixels(positions)
            with source.candidate.defended():
                bound = self._bench.bind(source.task, source.candidate)
                bound.answers(pixels[:2], positions[:2], self._batch_size)  # what is made once, at the first pass
                with watched(candidate.model.device) as forward_peak:
                    started = time.perf_counter()
                    bound.answers(pixels, positions, self._batch_size)
                    forward = (time.perf_counter() - started) / len(positions)
                with watched(candidate.model.device) as pair_peak:
                    started = time.perf_counter()
                    outcome = self._run(source, APGD(eps=4 / 255, steps=_TIMED), positions, stop=False)
                    seconds = time.perf_counter() - started
            pairs = float(outcome.backwards.sum())
            rest = float(outcome.forwards.sum()) - pairs
            pair = max((seconds - rest * forward) / max(pairs, 1.0), forward)
            self._speeds[key] = _Speed(forward, pair, forward_peak.size, pair_peak.size)
        return self._speeds[key]

    def _run(self, live: Live, attack: Attack, positions: Sequence[int], *, stop: bool) -> Outcome:
        data = live.task.data
        return self._bench.bind(live.task, live.candidate).attack(
            attack,
            data.pixels(positions),
            positions,
            keys=[data.keys[position] for position in positions],
            seed=self._seed,
            batch_size=self._batch_size,
            stop=stop,
        )

    def _whole(self, live: Live, attack: Attack, *, stop: bool = False) -> tuple[float, float]:
        """Forward and backward passes per sample of an attack on what does not fall.

        Args:
            live: the question.
            attack: the attack.
            stop: whether it may give up searches, as it may where only verdicts are wanted.
        """
        classes = len(live.task.data.classes)
        if live.task.name != "zero-shot" or classes < 2:  # goal by goal: only the task itself knows
            with live.candidate.defended():
                outcome = self._run(live, attack, [0], stop=False)
            return float(outcome.forwards[0]), float(outcome.backwards[0])
        key = (repr(attack), classes, stop)
        if key not in self._most:
            labels = torch.zeros(1, dtype=torch.int64, device="cpu")
            objective = ClassificationObjective(_firm(classes), labels, classes, stop=stop)
            outcome = attack(objective, torch.full((1, 3, 8, 8), 0.5, device="cpu"), seed=self._seed)
            self._most[key] = float(outcome.forwards[0]), float(outcome.backwards[0])
        return self._most[key]

    def _expected(self, live: Live, attack: Attack) -> tuple[tuple[float, float], int]:
        """Passes per sample of a white-box attack, and how many of the probed samples stand.

        Of those that fall to a short attack its own passes; of the others all. An attack that gives searches up is
        run itself on some of these, since only they tell how soon.
        """
        task, short, most = live.task, attack, (0.0, 0.0)
        positions = range(min(_PROBED, len(task.data)))
        if task.name == "zero-shot":
            most = self._whole(live, attack)
            if sum(self._whole(live, attack, stop=True)) > _SHORT:
                short = APGDEnsemble(norm=attack.norm, eps=attack.eps)
        with live.candidate.defended():
            bound = self._bench.bind(task, live.candidate)
            answers = bound.answers(task.data.pixels(positions), positions, self._batch_size)
            tried = [at for at, answer in zip(positions, answers, strict=True) if answer.score > task.low]
            if not tried:
                return (0.0, 0.0), 0
            outcome = self._run(live, short, tried, stop=True)
            standing = [at for at, fooled in zip(tried, outcome.fooled.tolist(), strict=True) if not fooled]
            if standing and short is not attack and most != self._whole(live, attack, stop=True):
                most = _median(self._run(live, attack, standing[:_STANDING], stop=True))
        forwards, backwards = outcome.forwards.double(), outcome.backwards.double()
        if short is not attack:
            forwards = torch.where(outcome.fooled, forwards, most[0])
            backwards = torch.where(outcome.fooled, backwards, most[1])
        passes = float(forwards.sum()) / len(positions), float(backwards.sum()) / len(positions)
        return passes, len(standing)


def _median(outcome: Outcome) -> tuple[float, float]:
    """Of the passes: one of the few samples whose searches all go on, as a check, does not stand for the others."""
    return float(outcome.forwards.double().quantile(0.5)), float(outcome.backwards.double().quantile(0.5))


def _firm(classes: int) -> Callable[[Tensor], Tensor]:
    """A classifier that keeps to class 0 on all images, with gradients that are not zero."""

    def logits(pixels: Tensor) -> Tensor:
        mean = pixels.mean((1, 2, 3))
        others = torch.stack([(number + 1) / classes * mean for number in range(classes - 1)], 1)
        return torch.cat([mean[:, None] + 10.0, others], 1)

    return logits


def costs_of(
    bench: Bench,
    done: Callable[[Unit], Collection[int]],
    checked: Callable[[Unit], int],
    *,
    batch_size: int,
    seed: int,
    sanity: bool,
) -> Cost:
    """What is left of an evaluation, and what it will cost on this device.

    Args:
        bench: holds models and data.
        done: positions of the samples of a unit that are measured.
        checked: on how many of them the sanity checks ran.
        batch_size, seed, sanity: of the evaluation.
    """
    started, probe = time.perf_counter(), _Probe(bench, batch_size, seed, sanity)
    found, shared = list[UnitCost](), set[str]()
    for unit in bench.units():
        known = set(done(unit))
        chunks = batches(len(unit.digests), unit.setting.chunk_size)
        todo = [chunk for chunk in chunks if not known.issuperset(chunk)]  # a chunk is measured whole
        left = sum(map(len, todo))
        if left:
            made = [] if unit.white_box else [chunk for chunk in todo if bench.lies(unit, chunk)]
            share = 0.0 if unit.shared in shared else 1 - sum(map(len, made)) / left
            found.append(probe.cost(unit, left, share))
            shared |= {unit.shared} - {""}
        elif sanity and unit.white_box and checked(unit) < len(unit.digests):
            found.append(probe.cost(unit, 0, 1.0))  # its checks are left
        else:
            found.append(UnitCost(unit=unit, samples=0, forwards=0, backwards=0, seconds=0))
    return Cost(units=tuple(found), probe_seconds=time.perf_counter() - started)
