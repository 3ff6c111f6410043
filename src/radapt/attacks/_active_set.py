"""Streams samples through a fixed batch size: batches stay full, and no sample's result depends on its neighbours."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from radapt.types import Flags, Index, PerSample, Pixels

from ._early_stopping import EarlyStopping
from ._evaluator import Evaluator, out_of_memory
from ._losses import excluded
from ._random import random_state
from ._restarts import Job, RestartQueue
from ._search import Evaluation, State, is_broken
from ._slots import SlotState, is_better

__all__ = ["ActiveSet", "Progress"]

Progress = Callable[[int, int], None]
"""Called with the number of samples done and of those fooled."""

_NARROWER = 4
_VANISHED = 1e-10
"""A gradient whose largest entry is not above this counts as zero: a saturated softmax, or masked gradients."""


class ActiveSet:
    """Runs a search on every sample; what it finds is in ``restarts``.

    A sample that is fooled or finished leaves its slot to the next one. Every pass of the model sees exactly
    ``batch_size`` images (free slots repeat a sample and are ignored), every sample has its own random generator, and
    all state is per slot; so at a fixed batch size a sample's result is the same bit for bit whatever its
    neighbours and their order. A point reached by the last step needs no gradient: such points are collected and
    judged together by a forward pass. Slots that would be free take later restarts ahead of their turn (see
    :class:`RestartQueue`).

    Where the search allows it, one that has no prospect of success leaves early, too (see :class:`EarlyStopping`). The
    few samples whose searches go on as a check come last, in passes a quarter as wide: most slots would be free.

    A sample whose loss or gradient is not finite leaves at once and is marked as failed. When memory runs out, the
    batch size is halved and the jobs that were running begin again.

    Args:
        evaluator: the search, and what runs the model for it.
        pixels: clean images in [0, 1], float32.
        seed: seed of all random numbers; a sample's depend on its key, too.
        batch_size: images per pass.
        start: first points of the first restart, instead of the search's own.
        deadline: time (``time.monotonic``) after which samples that are still searching keep what they have and are
            marked as unfinished.
        progress: called with the number of samples done, and of those fooled.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        pixels: Pixels,
        *,
        seed: int,
        batch_size: int,
        start: Pixels | None = None,
        deadline: float | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.search, self.keys, self.clean = evaluator.search, evaluator.keys, pixels
        self.seed, self.batch_size = seed, batch_size
        self._evaluator, self._start, self._progress, self._deadline = evaluator, start, progress, deadline
        self.restarts = RestartQueue(self.search, pixels)
        self._early_stopping = EarlyStopping(self.search if evaluator.may_stop_early else None, self.keys, seed)
        self.clean_loss, self._clean_value = pixels.new_zeros(2, len(pixels)).unbind()
        self._clean_logits = pixels.new_zeros(len(pixels), 0)
        self._last_points: list[tuple[Job, Tensor]] = []
        self._reported = 0
        self._reset_slots()

    def _reset_slots(self) -> None:
        """Free all slots, ``batch_size`` of them. Which are taken, and by what, is known on the host."""
        self._jobs: list[Job | None] = [None] * self.batch_size
        self._slots = SlotState(self.clean, self._clean_value, self.batch_size)

    def run(self) -> None:
        """Judge the clean images, then search on those that are not fooled yet."""
        self.clean_loss, fooled, self._clean_value = self.judge(self.clean, keep_logits=True)
        self.restarts.failed |= is_broken(self.clean_loss, fooled).cpu()
        self.restarts.begin(self._clean_value, fooled)
        left, exempt = ~(self.restarts.fooled | self.restarts.failed), self._early_stopping.exempt
        self._drop_needless()
        self._search_on((left & ~exempt).nonzero().flatten().tolist())
        batch_size, self.batch_size = self.batch_size, max(1, self.batch_size // _NARROWER)
        self._reset_slots()
        self._search_on((left & exempt).nonzero().flatten().tolist())
        self.batch_size = batch_size

    def _search_on(self, samples: list[int]) -> None:
        """Search on some samples until each is done, or time is up."""
        self.restarts.open(samples)
        while not self._overdue():
            self._fill_slots()
            if any(self._jobs):
                self._with_memory_fallback(self._step)
            elif not self._last_points:
                return
            while len(self._last_points) >= self.batch_size or (self._last_points and not any(self._jobs)):
                self._with_memory_fallback(self._judge_last_points)

    def judge(self, points: Pixels, *, keep_logits: bool = False) -> tuple[PerSample, Flags, PerSample]:
        """Loss, verdict and the search's value of one point per sample; ``keep_logits`` as those of clean images."""
        loss, value = points.new_zeros(2, len(points)).unbind()
        fooled = torch.zeros(len(points), dtype=torch.bool, device=points.device)
        logits, done = list[Tensor](), 0

        def judge_some() -> None:
            nonlocal done
            samples = list(range(done, min(done + self.batch_size, len(points))))
            evaluation, value[samples] = self._forward_pass(samples, points[samples])
            loss[samples], fooled[samples] = evaluation.loss, evaluation.fooled
            self.restarts.forwards[samples] += 1
            if keep_logits and evaluation.logits is not None:
                logits.append(evaluation.logits.to(points.device, copy=True))
            done += len(samples)

        while done < len(points):
            self._with_memory_fallback(judge_some)
        if logits:
            self._clean_logits = torch.cat(logits)
        return loss, fooled, value

    def _forward_pass(self, samples: list[int], points: Pixels) -> tuple[Evaluation, PerSample]:
        """Evaluate at most ``batch_size`` points: the evaluation, and the search's value of it."""
        count = len(samples)
        rows = [*range(count), *[0] * (self.batch_size - count)]
        points, index = points[rows], self._index([samples[row] for row in rows])
        full = self._evaluator.forward_pass(points, index)
        value = self.search._value(self.clean[index], full)[:count]
        logits = None if full.logits is None else full.logits[:count]
        return Evaluation(points[:count], full.loss[:count], full.fooled[:count], full.gradient, logits), value

    def _with_memory_fallback(self, work: Callable[[], None]) -> None:
        """Do some work that runs the model; when memory runs out, go on at half the batch size."""
        try:
            work()
        except Exception as error:
            if self.batch_size == 1 or not out_of_memory(error):
                raise
        else:
            return
        # Out of the handler, where nothing holds on to the failed pass any more.
        half = self.batch_size // 2
        warnings.warn(f"out of memory at batch size {self.batch_size}; going on with {half}", RuntimeWarning, 2)
        self.restarts.put_back([job for job in self._jobs if job])
        self.batch_size = half
        self._reset_slots()

    def _overdue(self) -> bool:
        """Whether time is up; then the samples that are not done keep what they have."""
        if self._deadline is None or time.monotonic() < self._deadline:
            return False
        counts = torch.stack([self._slots.iteration, self._slots.vanished], 1).tolist()
        taken = [(row, job) for row, job in enumerate(self._jobs) if job]
        running = [self._leave(row, job, *counts[row], finished=False) for row, job in taken]
        self.restarts.close([*running, *(job for job, _ in self._last_points)])
        self._drop_needless()
        return True

    def _fill_slots(self) -> None:
        """Give free slots to waiting jobs."""
        started: dict[int, Job] = {}
        for row, job in enumerate(self._jobs):
            if job is None and (waiting := self.restarts.take()):
                self._jobs[row] = started[row] = waiting
        if not started:
            return
        slots, rows, jobs = self._slots, self._index(list(started)), list(started.values())
        slots.begin(rows, self._index([job.sample for job in jobs]), self.clean, self._clean_value)
        restarts = [(self.keys[job.sample], job.restart) for job in jobs]
        drawn = random_state(self.search, self.seed, restarts, rows, slots.clean)
        if self._clean_logits.numel():
            drawn |= self._choose_classes(rows, jobs)
        # Started on all slots, not on the free ones only: a reduction may round differently at another batch size.
        slots.place(rows, *self.search.start(slots.clean, drawn))
        if self._start is not None:
            first = self._index([row for row, job in started.items() if job.restart == 0])
            slots.points = slots.points.index_copy(0, first, self._start[slots.sample[first]])

    def _choose_classes(self, rows: Index, jobs: list[Job]) -> State:
        """The class of each clean image, and the one that a targeted search goes for, in all slots."""
        slots, logits = self._slots, self._clean_logits[self._slots.sample]
        slots.label = logits.argmax(1)
        classes = {"label": slots.label}
        if self.search.targeted:
            likeliest = logits[rows].argsort(1, descending=True)
            # Classes that the model excludes come last, and no search goes for them.
            rivals = (~excluded(logits[rows])).sum(1).sub(1).clamp(min=1)
            ranks = 1 + self._index([job.restart for job in jobs]) % rivals
            slots.target = slots.target.index_copy(0, rows, likeliest.gather(1, ranks[:, None]).squeeze(1))
            classes["target"] = slots.target
        self._early_stopping.begin(rows, logits, slots.label, classes.get("target"))
        return classes

    def _step(self) -> None:
        """One step of all slots, then let the fooled and the finished leave."""
        search, slots = self.search, self._slots
        current, comparable = self._evaluator.gradient_pass(slots)
        fooled = search._succeeded(slots.clean, current)
        slots.remember(current.points, search._value(slots.clean, comparable), fooled)
        broken = is_broken(current.loss, current.fooled)
        if search.needs_gradient:
            steepest = current.gradient.abs().flatten(1).amax(1)
            slots.vanished = slots.vanished + (steepest <= _VANISHED)
            broken = broken | ~steepest.isfinite()
        hopeless = self._early_stopping.hopeless(current, slots.clean, slots.iteration)
        slots.points, slots.state = search.step(slots.clean, current, slots.state, slots.iteration)
        # Free slots go on, ignored; their count must not run away from what a search knows.
        slots.iteration = (slots.iteration + 1).clamp(max=search.steps)
        # The one place where the host waits for the device.
        columns = [fooled.long(), broken.long(), hopeless.long(), slots.iteration, slots.vanished]
        for row, values in enumerate(torch.stack(columns, 1).tolist()):
            if job := self._jobs[row]:
                self._after_step(row, job, *values)
        self._drop_needless()

    def _after_step(self, row: int, job: Job, fooled: int, broken: int, hopeless: int, steps: int, zeros: int) -> None:
        """Let a job leave its slot if it is over: fooled, failed, given up or finished."""
        job.fooled, job.failed = job.fooled or bool(fooled), bool(broken)
        stopped = job.failed or (bool(fooled) and self.search._stops_when_fooled)
        finished = steps >= self.search.steps and not stopped
        if hopeless and not stopped and not finished:
            job.audited = bool(self._early_stopping.exempt[job.sample])
            job.given_up = not job.audited
        if finished:
            last_point = self._slots.points[row].clone()
            self._last_points.append((self._leave(row, job, steps, zeros, finished=True), last_point))
        elif stopped or job.given_up:
            self.restarts.end(self._leave(row, job, steps, zeros, finished=False))

    def _leave(self, row: int, job: Job, steps: int, zeros: int, *, finished: bool) -> Job:
        """Free a slot; the job with what it has found."""
        self._jobs[row] = None
        job.best, job.value = self._slots.best[row].clone(), self._slots.value[row].clone()
        # Only one that is finished has used the step that followed the last point.
        job.iterations = steps if finished else max(steps - 1, 0)
        job.forwards, job.backwards = steps, steps if self.search.needs_gradient else 0
        job.vanished = zeros
        return job

    def _judge_last_points(self) -> None:
        """Judge the last points of finished jobs, at most ``batch_size`` of them."""
        batch = self._last_points[: self.batch_size]
        jobs = [job for job, _ in batch]
        samples = [job.sample for job in jobs]
        last, value = self._forward_pass(samples, torch.stack([points for _, points in batch]))
        del self._last_points[: len(batch)]
        fooled = self.search._succeeded(self.clean[self._index(samples)], last)
        best_fooled = torch.tensor([job.fooled for job in jobs], device=fooled.device)
        better = is_better(fooled, value, best_fooled, torch.stack([job.value for job in jobs]))
        flags = torch.stack([better, fooled, is_broken(last.loss, last.fooled)], 1).tolist()
        for row, (job, (is_best, success, broken)) in enumerate(zip(jobs, flags, strict=True)):
            if is_best:
                job.best, job.value = last.points[row], value[row]
            job.fooled, job.failed = job.fooled or success, broken
            job.forwards += 1
            self.restarts.end(job)
        self._drop_needless()

    def _drop_needless(self) -> None:
        """Free the slots of jobs whose sample is done, and report progress."""
        self._jobs = [job if job and self.restarts.is_needed(job) else None for job in self._jobs]
        self._last_points = [(job, point) for job, point in self._last_points if self.restarts.is_needed(job)]
        if self._progress is not None and self.restarts.done > self._reported:
            self._reported = self.restarts.done
            self._progress(self._reported, int(self.restarts.fooled.sum()))

    def _index(self, numbers: list[int]) -> Index:
        return torch.tensor(numbers, dtype=torch.long, device=self.clean.device)
