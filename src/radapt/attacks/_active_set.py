"""Runs the searches of many samples in one batch, which takes up new ones while there are any and then narrows."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from radapt.types import Flags, Index, PerSample, Pixels

from ._abandonment import Abandonment
from ._evaluator import Evaluator, out_of_memory
from ._losses import excluded
from ._random import random_state
from ._restarts import Job, RestartQueue
from ._search import Evaluation, is_broken
from ._slots import SlotState, is_better
from ._verdicts import Verdict, Verdicts

__all__ = ["ActiveSet", "Progress"]

Progress = Callable[[int, int], None]
"""Called with the number of samples done and of those fooled."""

_AHEAD = 4
"""A batch is filled up to this part of its size with restarts ahead of their turn."""
_VANISHED = 1e-10
"""A gradient whose largest entry is not above this counts as zero: a saturated softmax, or masked gradients."""


class ActiveSet:
    """Runs a search on every sample; what it finds is in ``restarts``.

    A sample that is fooled or finished leaves the batch, and the next one takes its place; when none waits, the batch
    narrows, down to a single image. Nothing is padded. Every sample has its own random numbers, and what a search
    remembers is per row, so a sample's result depends on its neighbours only as far as a pass of the model rounds
    differently at another width; the same samples give the same bits. A point reached by the last step needs no
    gradient: such points are collected and judged together by a forward pass. A narrow batch takes later restarts ahead
    of their turn (see :class:`RestartQueue`).

    On a GPU the host reads the verdicts of a step while the next one runs; a search that is over has then made one more
    pass, which counts as a pass and changes nothing.

    Where the search allows it, one that has no prospect of success leaves early, too (see :class:`Abandonment`). A
    sample whose loss or gradient is not finite leaves at once and is marked as failed. When memory runs out, the batch
    size is halved and the searches that were running begin again.

    Args:
        evaluator: the search, and what runs the model for it.
        pixels: clean images in [0, 1], float32.
        seed: seed of all random numbers; a sample's depend on its key, too.
        batch_size: images per pass at most.
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
        self._abandonment = Abandonment(self.search if evaluator.may_stop_early else None, self.keys, seed)
        self._exempt = torch.tensor(self._abandonment.exempt, dtype=torch.bool, device=pixels.device)
        self.clean_loss, self._clean_value = pixels.new_zeros(2, len(pixels)).unbind()
        self._clean_logits = pixels.new_zeros(len(pixels), 0)
        self._labels = None if evaluator.labels is None else evaluator.labels.to(pixels.device)
        self._jobs: list[Job] = []
        self._slots = self._new_slots([])
        self._verdicts = Verdicts()
        self._last_points: list[tuple[Job, Tensor]] = []
        self._reported = 0

    def run(self) -> None:
        """Judge the clean images, then search on those that are not fooled yet."""
        self.clean_loss, fooled, self._clean_value = self.judge(self.clean, keep_logits=True)
        self.restarts.failed |= is_broken(self.clean_loss, fooled).cpu()
        self.restarts.begin(self._clean_value, fooled)
        self._report()
        self.restarts.open((~(self.restarts.fooled | self.restarts.failed)).nonzero().flatten().tolist())
        while not self._overdue():
            self._begin_jobs()
            if self._jobs:
                self._with_memory_fallback(self._step)
            elif not self._last_points:
                return
            while len(self._last_points) >= self.batch_size or (self._last_points and not self._jobs):
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
            if keep_logits and evaluation.logits is not None:
                logits.append(evaluation.logits.to(points.device, copy=True))
            done += len(samples)

        while done < len(points):
            self._with_memory_fallback(judge_some)
        if logits:
            self._clean_logits = torch.cat(logits)
            self._labels = self._clean_logits.argmax(1) if self._labels is None else self._labels
        return loss, fooled, value

    def _forward_pass(self, samples: list[int], points: Pixels) -> tuple[Evaluation, PerSample]:
        """Evaluate some points: the evaluation, and the search's value of it."""
        index = self._index(samples)
        label = None if self._labels is None else self._labels[index]
        evaluation = self._evaluator.forward_pass(points, index, label)
        self.restarts.count(samples, forwards=self._evaluator.passes)
        return evaluation, self.search._value(self.clean[index], evaluation)

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
        self.restarts.put_back(self._jobs)
        self.batch_size = half
        self._verdicts.clear()
        self._keep([])

    def _overdue(self) -> bool:
        """Whether time is up; then the samples that are not done keep what they have."""
        if self._deadline is None or time.monotonic() < self._deadline:
            return False
        self._read_verdicts()
        counts = torch.stack([self._slots.iteration, self._slots.vanished], 1).tolist()
        for job, (steps, zeros) in zip(self._jobs, counts, strict=True):
            # The step that followed the last point was not used.
            job.iterations, job.vanished = max(steps - 1, 0), zeros
        running = list(self._jobs)
        self._hand_over(range(len(running)))
        self._keep([])
        self.restarts.close([*running, *(job for job, _ in self._last_points)])
        self._last_points.clear()
        self._report()
        return True

    def _begin_jobs(self) -> None:
        """Fill the batch up with searches that wait."""
        jobs = list[Job]()
        while len(self._jobs) + len(jobs) < self.batch_size:
            narrow = (len(self._jobs) + len(jobs)) * _AHEAD < self.batch_size
            if (job := self.restarts.take(ahead=narrow)) is None:
                break
            jobs.append(job)
        if not jobs:
            return
        slots = self._new_slots([job.sample for job in jobs])
        restarts = [(self.keys[job.sample], job.restart) for job in jobs]
        drawn = random_state(self.search, self.seed, restarts, self.clean.shape[1:], self.clean.device)
        if self._labels is not None and self._clean_logits.numel():
            slots.label = self._labels[slots.sample]
            self._choose_classes(slots, jobs)
            drawn["label"] = slots.label
            if self.search.targeted:
                drawn["target"] = slots.target
        slots.points, slots.state = self.search.start(slots.clean, drawn)
        if self._start is not None:
            first = self._index([row for row, job in enumerate(jobs) if job.restart == 0])
            slots.points = slots.points.index_copy(0, first, self._start[slots.sample[first]])
        self._slots = self._slots.extended(slots) if self._jobs else slots
        self._jobs += jobs

    def _new_slots(self, samples: list[int]) -> SlotState:
        index = self._index(samples)
        return SlotState.begin(index, self.clean[index], self._clean_value[index])

    def _choose_classes(self, slots: SlotState, jobs: list[Job]) -> None:
        """The class that a targeted search goes for: one of the likeliest of the clean image, the label left out."""
        logits = self._clean_logits[slots.sample]
        if self.search.targeted:
            others = logits.scatter(1, slots.label[:, None], -torch.inf)
            # Classes that the model excludes come last, and no search goes for them.
            ranks = self._index([job.restart for job in jobs]) % (~excluded(others)).sum(1).clamp(min=1)
            slots.target = others.argsort(1, descending=True).gather(1, ranks[:, None]).squeeze(1)
        self._abandonment.begin(slots, logits)

    def _step(self) -> None:
        """One step of all searches, then let the fooled and the finished leave."""
        search, slots = self.search, self._slots
        current, comparable = self._evaluator.gradient_pass(slots)
        for job in self._jobs:
            job.passes += 1
        samples = [job.sample for job in self._jobs]
        self.restarts.count(samples, forwards=self._evaluator.passes, backwards=self._evaluator.backwards)
        fooled = search._succeeded(slots.clean, current)
        slots.remember(current.points, search._value(slots.clean, comparable), fooled)
        broken = is_broken(current.loss, current.fooled)
        if search.needs_gradient:
            steepest = current.gradient.abs().flatten(1).amax(1)
            slots.vanished = slots.vanished + (steepest <= _VANISHED)
            broken = broken | ~steepest.isfinite()
        hopeless = self._abandonment.hopeless(slots, current)
        slots.points, slots.state = search.step(slots.clean, current, slots.state, slots.iteration)
        slots.over = slots.over | broken | (hopeless & ~self._exempt[slots.sample])
        if search._stops_when_fooled:
            slots.over = slots.over | fooled
        slots.iteration = (slots.iteration + 1).clamp(max=search.steps)
        self._verdicts.send(self._jobs, fooled, broken, hopeless, slots.iteration, slots.vanished)
        last = any(job.passes >= search.steps for job in self._jobs)
        self._read_verdicts(but=1 if self._verdicts.may_wait and not last else 0)

    def _read_verdicts(self, *, but: int = 0) -> None:
        """Let go the searches that are over, by what all steps said but for the last ones."""
        left = {job for job, verdict in self._verdicts.read(but=but) if not job.ended and self._ends(job, verdict)}
        rows = [row for row, job in enumerate(self._jobs) if job in left]
        self._hand_over(rows)
        for row in rows:
            job = self._jobs[row]
            if job.finished:
                self._last_points.append((job, self._slots.points[row].clone()))
            else:
                self.restarts.end(job)
        self._drop_needless()

    def _ends(self, job: Job, verdict: Verdict) -> bool:
        """Whether a search is over after a step: fooled, failed, given up or finished."""
        job.fooled, job.failed = job.fooled or verdict.fooled, verdict.broken
        stopped = job.failed or (verdict.fooled and self.search._stops_when_fooled)
        job.finished = verdict.steps >= self.search.steps and not stopped
        if verdict.hopeless and not stopped and not job.finished:
            job.audited = self._abandonment.exempt[job.sample]
            job.given_up = not job.audited
        # Only a search that is finished has used the step that followed the last point.
        job.iterations, job.vanished = verdict.steps - (not job.finished), verdict.zeros
        job.ended = stopped or job.finished or job.given_up
        return job.ended

    def _hand_over(self, rows: Iterable[int]) -> None:
        """Give some jobs what they have found."""
        for row in rows:
            self._jobs[row].best, self._jobs[row].value = self._slots.best[row].clone(), self._slots.value[row].clone()

    def _keep(self, rows: list[int]) -> None:
        """Narrow the batch to some of its rows."""
        if len(rows) < len(self._jobs):
            self._jobs = [self._jobs[row] for row in rows]
            self._slots = self._slots.select(self._index(rows))

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
            self.restarts.end(job)
        self._drop_needless()

    def _drop_needless(self) -> None:
        """Drop what has ended and what no longer matters, and report progress."""
        self._keep([row for row, job in enumerate(self._jobs) if not job.ended and self.restarts.is_needed(job)])
        self._last_points = [(job, point) for job, point in self._last_points if self.restarts.is_needed(job)]
        self._report()

    def _report(self) -> None:
        if self._progress is not None and self.restarts.done > self._reported:
            self._reported = self.restarts.done
            self._progress(self._reported, int(self.restarts.fooled.sum()))

    def _index(self, numbers: list[int]) -> Index:
        return torch.tensor(numbers, dtype=torch.long, device=self.clean.device)
