"""Streams samples through a fixed number of slots: batches stay full, and no sample's result sees its neighbours."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from radapt.attacks._draws import draws
from radapt.attacks._ledger import Job, Ledger
from radapt.attacks._outlook import Outlook
from radapt.attacks._probe import Probe, out_of_memory
from radapt.attacks._search import Evaluation, State
from radapt.types import Flags, Index, PerSample, Pixels

__all__ = ["ActiveSet", "Progress"]

Progress = Callable[[int, int], None]
"""Called with the number of samples done and of those fooled."""

_NARROWER = 4
_VANISHED = 1e-10
"""A gradient whose largest entry is not above this counts as zero: a saturated softmax, or masked gradients."""


class ActiveSet:
    """Runs a search on every sample; what it finds is in ``found``.

    A sample that is fooled or finished leaves its slot to the next one. Every pass of the model sees exactly
    ``slots`` images (free slots repeat a sample and are ignored), every sample has its own random generator, and
    all state is per slot; so at a fixed number of slots a sample's result is the same bit for bit whatever its
    neighbours and their order. A point reached by the last step needs no gradient: such points are pooled and
    judged together by a forward pass. Slots that would be free take later restarts ahead of their turn (see
    :class:`Ledger`).

    Where the search allows it, one that has no prospect of success leaves early, too (see :class:`Outlook`). The few
    samples whose searches go on as a check come last, in passes a quarter as wide: most slots would be free.

    A sample whose loss or gradient is not finite leaves at once and is marked as failed. When memory runs out, the
    slots are halved and the jobs that were in them begin again.

    Args:
        probe: the search, and what it may ask.
        pixels: clean images in [0, 1], float32.
        seed: seed of all random numbers; a sample's hang on its key, too.
        slots: images per pass.
        start: first points of the first restart, instead of the search's own.
        deadline: time (``time.monotonic``) after which samples that are still searching keep what they have and are
            marked as unfinished.
        progress: told the number of samples done, and of those fooled.
    """

    def __init__(
        self,
        probe: Probe,
        pixels: Pixels,
        *,
        seed: int,
        slots: int,
        start: Pixels | None = None,
        deadline: float | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.search, self.keys, self.clean, self.seed, self.slots = probe.search, probe.keys, pixels, seed, slots
        self._probe, self._warm, self._progress, self._deadline = probe, start, progress, deadline
        self.found = Ledger(probe.search, pixels)
        self.outlook = Outlook(probe.search if probe.gives_up else None, probe.keys, seed)
        self.clean_loss, self._clean_value = torch.zeros(2, len(pixels), device=pixels.device).unbind()
        self._logits = torch.zeros(len(pixels), 0, device=pixels.device)  # of the clean images
        self._pool: list[tuple[Job, Tensor]] = []
        self._told = 0
        self._empty()

    def _empty(self) -> None:
        """Make the slots; which are taken, and by what, is known on the host."""
        slots, device = self.slots, self.clean.device
        self._jobs: list[Job | None] = [None] * slots
        self._sample = torch.zeros(slots, dtype=torch.long, device=device)
        self._iteration, self._zeros, self._target = torch.zeros(3, slots, dtype=torch.long, device=device).unbind()
        self._points = self._clean = self._best = self.clean[self._sample]
        self._value, self._fooled = self._clean_value[self._sample], torch.zeros_like(self._sample, dtype=torch.bool)
        self._state: State = {}

    def run(self) -> None:
        """Judge the clean images, then search on those that are not fooled yet."""
        self.clean_loss, fooled, self._clean_value = self.judge(self.clean, rank=True)
        self.found.begin(self._clean_value, fooled)
        left, exempt = ~(self.found.fooled | self.found.failed), self.outlook.exempt
        self._drop()
        self._stream((left & ~exempt).nonzero().flatten().tolist())
        wide, self.slots = self.slots, max(1, self.slots // _NARROWER)
        self._empty()
        self._stream((left & exempt).nonzero().flatten().tolist())
        self.slots = wide

    def _stream(self, samples: list[int]) -> None:
        """Search on some samples."""
        self.found.open(samples)
        while not self._overdue():
            self._fill()
            if any(self._jobs):
                self._roomy(self._advance)
            elif not self._pool:
                return
            while len(self._pool) >= self.slots or (self._pool and not any(self._jobs)):
                self._roomy(self._settle)

    def judge(self, points: Pixels, *, rank: bool = False) -> tuple[PerSample, Flags, PerSample]:
        """Loss, verdict and the search's value of one point per sample; ``rank`` to keep the logits."""
        loss, value = torch.zeros(2, len(points), device=points.device).unbind()
        fooled = torch.zeros(len(points), dtype=torch.bool, device=points.device)
        rows, done = list[Tensor](), 0

        def some() -> None:
            nonlocal done
            samples = list(range(done, min(done + self.slots, len(points))))
            at, worth = self._judge(samples, points[samples])
            loss[samples], fooled[samples], value[samples] = at.loss, at.fooled, worth
            self.found.forwards[samples] += 1
            if rank and at.logits is not None:
                rows.append(at.logits.to(points.device))
            done += len(samples)

        while done < len(points):
            self._roomy(some)
        self.found.failed |= ~loss.isfinite().cpu()
        if rows:
            self._logits = torch.cat(rows)
        return loss, fooled & ~self.found.failed.to(fooled.device), value

    def _judge(self, samples: list[int], points: Pixels) -> tuple[Evaluation, PerSample]:
        """Evaluate at most ``slots`` points by one forward pass: the evaluation, and the search's value of it."""
        count = len(samples)
        rows = [*range(count), *[0] * (self.slots - count)]
        points, index = points[rows], self._index([samples[row] for row in rows])
        at = self._probe.judge(points, index)
        value = self.search.value(self.clean[index], at)[:count]
        logits = None if at.logits is None else at.logits[:count]
        return Evaluation(points[:count], at.loss[:count], at.fooled[:count], at.gradient, logits), value

    def _roomy(self, work: Callable[[], None]) -> None:
        """Do some work that runs the model; when memory runs out, go on with half the slots."""
        try:
            work()
        except Exception as error:
            if self.slots == 1 or not out_of_memory(error):
                raise
        else:
            return
        # Out of the handler, where nothing holds on to the failed pass any more.
        warnings.warn(f"out of memory at {self.slots} slots; going on with {self.slots // 2}", RuntimeWarning, 2)
        self.found.put_back([job for job in self._jobs if job])
        self.slots //= 2
        self._empty()

    def _overdue(self) -> bool:
        """Whether time is up; then the samples that are not done keep what they have."""
        if self._deadline is None or time.monotonic() < self._deadline:
            return False
        counts = torch.stack([self._iteration, self._zeros], 1).tolist()
        taken = [(row, job) for row, job in enumerate(self._jobs) if job]
        running = [self._leave(row, job, *counts[row], finished=False) for row, job in taken]
        self.found.close([*running, *(job for job, _ in self._pool)])
        self._drop()
        return True

    def _fill(self) -> None:
        """Give free slots to waiting jobs."""
        taken: dict[int, Job] = {}
        for row, job in enumerate(self._jobs):
            if job is None and (new := self.found.take()):
                self._jobs[row] = taken[row] = new
        if not taken:
            return
        at, samples = self._index(list(taken)), self._index([job.sample for job in taken.values()])
        self._sample = self._sample.index_copy(0, at, samples)
        self._iteration = self._iteration.index_fill(0, at, 0)
        self._zeros = self._zeros.index_fill(0, at, 0)
        self._clean = self._clean.index_copy(0, at, self.clean[samples])
        self._best = self._best.index_copy(0, at, self.clean[samples])
        self._value = self._value.index_copy(0, at, self._clean_value[samples])
        self._fooled = self._fooled.index_fill(0, at, False)
        named = [(self.keys[job.sample], job.restart) for job in taken.values()]
        drawn = draws(self.search, self.seed, named, at, self._clean)
        if self._logits.numel():
            logits = self._logits[self._sample]
            drawn["label"] = self._label = logits.argmax(1)
            if self.search.targeted:
                ranks = self._index([1 + job.restart % (logits.shape[1] - 1) for job in taken.values()])
                order = self._logits[samples].argsort(1, descending=True)
                self._target = self._target.index_copy(0, at, order.gather(1, ranks[:, None]).squeeze(1))
                drawn["target"] = self._target
            self.outlook.begin(at, logits, self._label, drawn.get("target"))
        # Started on all slots, not on the free ones only: a reduction may round differently at another batch size.
        points, state = self.search.start(self._clean, drawn)
        self._state = {k: self._state.get(k, v).index_copy(0, at, v[at]) for k, v in state.items()}
        self._points = self._points.index_copy(0, at, points[at])
        if self._warm is not None:
            places = self._index([row for row, job in taken.items() if job.restart == 0])
            self._points = self._points.index_copy(0, places, self._warm[self._sample[places]])

    def _advance(self) -> None:
        """One step of all slots, then let the fooled and the finished leave."""
        label = self._label if self.search.targeted else None
        at, common = self._probe.learn(self._points, self._sample, self._target, label, self._state, self._iteration)
        fooled, value = self.search.succeeded(self._clean, at), self.search.value(self._clean, common)
        better = _better(fooled, value, self._fooled, self._value)
        self._best = torch.where(better[:, None, None, None], at.points, self._best)
        self._value = torch.where(better, value, self._value)
        self._fooled = self._fooled | fooled
        broken = ~at.loss.isfinite()
        if self.search.needs_gradient:
            steepest = at.gradient.abs().flatten(1).amax(1)
            self._zeros = self._zeros + (steepest <= _VANISHED)
            broken = broken | ~steepest.isfinite()
        hopeless = self.outlook.hopeless(at, self._clean, self._iteration)
        self._points, self._state = self.search.step(self._clean, at, self._state, self._iteration)
        # Free slots go on unseen; their count must not run away from what a search knows.
        self._iteration = (self._iteration + 1).clamp(max=self.search.steps)
        # The one place where the host waits for the device.
        told = torch.stack([fooled.long(), broken.long(), hopeless.long(), self._iteration, self._zeros], 1).tolist()
        for row, (job, (success, failed, lost, iteration, zeros)) in enumerate(zip(self._jobs, told, strict=True)):
            if job is None:
                continue
            job.fooled, job.failed = job.fooled or bool(success), bool(failed)
            stopped = job.failed or (success and self.search.stops_when_fooled)
            finished = iteration >= self.search.steps and not stopped
            if lost and not stopped and not finished:
                job.audited = bool(self.outlook.exempt[job.sample])
                job.given_up = not job.audited
            if finished:
                self._pool.append((self._leave(row, job, iteration, zeros, finished=True), self._points[row].clone()))
            elif stopped or job.given_up:
                self.found.end(self._leave(row, job, iteration, zeros, finished=False))
        self._drop()

    def _leave(self, row: int, job: Job, iteration: int, zeros: int, *, finished: bool) -> Job:
        """Free a slot; the job with what it has found."""
        self._jobs[row] = None
        job.best, job.value = self._best[row].clone(), self._value[row].clone()
        # Only one that is finished has used the step that followed the last point.
        job.iterations = iteration if finished else max(iteration - 1, 0)
        job.forwards, job.backwards = iteration, iteration if self.search.needs_gradient else 0
        job.vanished = zeros
        return job

    def _settle(self) -> None:
        """Judge the last points of finished jobs."""
        batch = self._pool[: self.slots]
        jobs = [job for job, _ in batch]
        at, value = self._judge([job.sample for job in jobs], torch.stack([points for _, points in batch]))
        del self._pool[: len(batch)]
        clean = self.clean[self._index([job.sample for job in jobs])]
        fooled, held = self.search.succeeded(clean, at), torch.stack([job.value for job in jobs])
        before = torch.tensor([job.fooled for job in jobs], device=fooled.device)
        better = _better(fooled, value, before, held)
        told = torch.stack([better, fooled, at.loss.isfinite()], 1).tolist()
        for row, (job, (best, success, sound)) in enumerate(zip(jobs, told, strict=True)):
            if best:
                job.best, job.value = at.points[row], value[row]
            job.fooled, job.failed = job.fooled or success, not sound
            job.forwards += 1
            self.found.end(job)
        self._drop()

    def _drop(self) -> None:
        """Let go of jobs whose sample is done, and report."""
        self._jobs = [job if job and self.found.counts(job) else None for job in self._jobs]
        self._pool = [(job, points) for job, points in self._pool if self.found.counts(job)]
        if self._progress is not None and self.found.done > self._told:
            self._told = self.found.done
            self._progress(self._told, int(self.found.fooled.sum()))

    def _index(self, numbers: list[int]) -> Index:
        return torch.tensor(numbers, dtype=torch.long, device=self.clean.device)


def _better(fooled: Flags, value: PerSample, before: Flags, held: PerSample) -> Flags:
    """Which points are better than those held: one that fools than one that does not, then the larger value."""
    return torch.where(fooled == before, value > held, fooled)
