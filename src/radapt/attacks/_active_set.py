"""Streams samples through a fixed number of slots: batches stay full, and no sample's result sees its neighbours."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from radapt.attacks._draws import draws
from radapt.attacks._outlook import Outlook
from radapt.attacks._probe import Probe, out_of_memory
from radapt.attacks._search import Evaluation, State
from radapt.types import Flags, Index, PerSample, Pixels

__all__ = ["ActiveSet", "Progress"]

Progress = Callable[[int, int], None]
"""Called with the number of samples done and of those fooled."""

_VANISHED = 1e-10
"""A gradient whose largest entry is not above this counts as zero: a saturated softmax, or masked gradients."""


class ActiveSet:
    """Per-sample results of a search, filled in by ``run``.

    A sample that is fooled or finished leaves its slot to the next one. Every pass of the model sees exactly
    ``slots`` images (free slots repeat a sample and are ignored), every sample has its own random generator, and
    all state is per slot; so at a fixed number of slots a sample's result is the same bit for bit whatever its
    neighbours and their order. A point reached by the last step needs no gradient: such points are pooled and
    judged together by a forward pass.

    Where the search allows it, one that has no prospect of success leaves early, too (see :class:`Outlook`).

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
        self._probe, self._warm, self._progress = probe, start, progress
        self._deadline = deadline
        n, device = len(pixels), pixels.device
        self.best = pixels.clone()
        self.value, self.clean_loss = torch.zeros(2, n, device=device).unbind()
        self.fooled, self.failed, self.unfinished = torch.zeros(3, n, dtype=torch.bool, device=device).unbind()
        self.outlook = Outlook(probe.search if probe.gives_up else None, probe.keys, seed)
        self.iterations, self.forwards, self.backwards, self.vanished = torch.zeros(4, n, dtype=torch.long).unbind()
        self._logits = torch.zeros(n, 0, device=device)  # of the clean images
        self._queue: deque[tuple[int, int]] = deque()
        self._pool: list[tuple[int, int, Tensor]] = []
        self._done = 0
        self._empty()

    def _empty(self) -> None:
        """Make the slots; the two that the loop itself hangs on live on the host."""
        slots, device = self.slots, self.clean.device
        self._jobs = [(0, 0)] * slots
        self._live = torch.zeros(slots, dtype=torch.bool)
        self._sample = torch.zeros(slots, dtype=torch.long, device=device)
        self._iteration, self._zeros, self._target = torch.zeros(3, slots, dtype=torch.long, device=device).unbind()
        self._points = self._clean = self.clean[self._sample]
        self._best, self._value, self._fooled = self._points, self.value[self._sample], self.fooled[self._sample]
        self._state: State = {}

    def run(self) -> None:
        """Judge the clean images, then search on those that are not fooled yet."""
        self.clean_loss, self.fooled, self.value = self.judge(self.clean, rank=True)
        gone = (self.fooled | self.failed).tolist()
        self._queue.extend((sample, 0) for sample, left in enumerate(gone) if not left)
        self._report(sum(gone))
        while not self._overdue():
            self._fill()
            if self._live.any():
                self._roomy(self._advance)
            elif not self._pool:
                return
            while len(self._pool) >= self.slots or (self._pool and not self._live.any()):
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
            if rank and at.logits is not None:
                rows.append(at.logits.to(points.device))
            done += len(samples)

        while done < len(points):
            self._roomy(some)
        if rows:
            self._logits = torch.cat(rows)
        return loss, fooled & ~self.failed, value

    def _judge(self, samples: list[int], points: Pixels) -> tuple[Evaluation, PerSample]:
        """Evaluate at most ``slots`` points by one forward pass: the evaluation, and the search's value of it."""
        count = len(samples)
        rows = [*range(count), *[0] * (self.slots - count)]
        points, index = points[rows], self._index([samples[row] for row in rows])
        at = self._probe.judge(points, index)
        self.forwards[samples] += 1
        value = self.search.value(self.clean[index], at)[:count]
        self._fail(samples, ~at.loss.isfinite()[:count])
        logits = None if at.logits is None else at.logits[:count]
        return Evaluation(points[:count], at.loss[:count], at.fooled[:count], at.gradient, logits), value

    def _roomy(self, work: Callable[[], None]) -> None:
        """Do some work that runs the model; when memory runs out, go on with half the slots."""
        full = False
        try:
            work()
        except Exception as error:
            full = out_of_memory(error) and self.slots > 1
            if not full:
                raise
        if not full:
            return
        # Out of the handler, where nothing holds on to the failed pass any more.
        warnings.warn(f"out of memory at {self.slots} slots; going on with {self.slots // 2}", RuntimeWarning, 2)
        self._queue.extendleft(self._jobs[row] for row in reversed(self._rows(self._live)))
        self.slots //= 2
        self._empty()

    def _overdue(self) -> bool:
        """Whether time is up; then the samples that are not done keep what they have."""
        if self._deadline is None or time.monotonic() < self._deadline:
            return False
        left = [sample for sample, *_ in (*self._queue, *self._pool)]
        left += [self._jobs[row][0] for row in self._rows(self._live)]
        self.unfinished[left] = True
        self._leave(self._live.clone(), torch.zeros_like(self._live), self._iteration.cpu(), self._zeros.cpu())
        self._queue.clear()
        self._pool.clear()
        self._report(len(left))
        return True

    def _fill(self) -> None:
        """Give free slots to waiting jobs."""
        if not self._queue:
            return
        rows = self._rows(~self._live)[: len(self._queue)]
        if not rows:
            return
        jobs = [self._queue.popleft() for _ in rows]
        samples = [sample for sample, _ in jobs]
        for row, job in zip(rows, jobs, strict=True):
            self._jobs[row] = job
        self._live[rows] = True
        at, taken = self._index(rows), self._index(samples)
        self._sample = self._sample.index_copy(0, at, taken)
        self._iteration = self._iteration.index_fill(0, at, 0)
        self._zeros = self._zeros.index_fill(0, at, 0)
        self._clean = self._clean.index_copy(0, at, self.clean[taken])
        self._best = self._best.index_copy(0, at, self.best[taken])
        self._value = self._value.index_copy(0, at, self.value[taken])
        self._fooled = self._fooled.index_copy(0, at, self.fooled[taken])
        numbers = draws(self.search, self.clean.shape[1:], self.seed, [(self.keys[i], restart) for i, restart in jobs])
        drawn = {}
        for name, rows_ in numbers.items():
            blank = self.clean.new_zeros(self.slots, *rows_.shape[1:], dtype=rows_.dtype)
            drawn[name] = blank.index_copy(0, at, rows_.to(blank.device))
        if self._logits.numel():
            logits = self._logits[self._sample]
            drawn["label"] = self._label = logits.argmax(1)
            if self.search.targeted:
                ranks = self._index([1 + restart % (logits.shape[1] - 1) for _, restart in jobs])
                order = self._logits[taken].argsort(1, descending=True)
                self._target = self._target.index_copy(0, at, order.gather(1, ranks[:, None]).squeeze(1))
                drawn["target"] = self._target
            self.outlook.begin(at, logits, self._label, drawn.get("target"))
        # Started on all slots, not on the free ones only: a reduction may round differently at another batch size.
        points, state = self.search.start(self._clean, drawn)
        self._state = {k: self._state.get(k, v).index_copy(0, at, v[at]) for k, v in state.items()}
        self._points = self._points.index_copy(0, at, points[at])
        if self._warm is not None:
            first = [row for row, (_, restart) in zip(rows, jobs, strict=True) if restart == 0]
            places = self._index(first)
            self._points = self._points.index_copy(0, places, self._warm[self._sample[places]])

    def _advance(self) -> None:
        """One step of all slots, then let the fooled and the finished leave."""
        label = self._label if self.search.targeted else None
        at, common = self._probe.learn(self._points, self._sample, self._target, label, self._state, self._iteration)
        fooled, value = self.search.succeeded(self._clean, at), self.search.value(self._clean, common)
        better = torch.where(fooled == self._fooled, value > self._value, fooled)
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
        stacked = torch.stack([fooled.long(), broken.long(), hopeless.long(), self._iteration, self._zeros]).cpu()
        success, failed, lost, iteration, zeros = stacked.unbind()
        live = self._rows(self._live)
        self._fail([self._jobs[row][0] for row in live], failed[live].bool())
        stopped = self._live & (failed.bool() | (success.bool() & self.search.stops_when_fooled))
        finished = self._live & (iteration >= self.search.steps) & ~stopped
        self.outlook.succeeded([self._jobs[row] for row in self._rows(self._live & success.bool())])
        given_up = self._live & lost.bool() & ~stopped & ~finished
        for row in self._rows(given_up):
            given_up[row] = self.outlook.give_up(*self._jobs[row])
        if (stopped | finished | given_up).any():
            self._leave(stopped | given_up, finished, iteration, zeros)
            self._report(int(stopped.sum()) + self._follow([self._jobs[row] for row in self._rows(given_up)]))

    def _follow(self, jobs: list[tuple[int, int]]) -> int:
        """Queue the next restart of ended jobs; the number of those that have none left."""
        following = [(sample, restart + 1) for sample, restart in jobs if restart + 1 < self.search.restarts]
        self._queue.extend(following)
        return len(jobs) - len(following)

    def _leave(self, stopped: Tensor, finished: Tensor, iteration: Tensor, zeros: Tensor) -> None:
        rows = (stopped | finished).nonzero().flatten()
        samples = torch.tensor([self._jobs[row][0] for row in rows.tolist()], dtype=torch.long)
        at, places = self._index(rows.tolist()), self._index(samples.tolist())
        self.best[places], self.value[places] = self._best[at], self._value[at]
        self.fooled[places] = self._fooled[at]
        # The step that followed the last point was never used.
        self.iterations[samples] += (iteration[rows] - stopped[rows].long()).clamp(min=0)
        self.forwards[samples] += iteration[rows]
        self.vanished[samples] += zeros[rows]
        if self.search.needs_gradient:
            self.backwards[samples] += iteration[rows]
        for row in self._rows(finished):
            self._pool.append((*self._jobs[row], self._points[row].clone()))
        self._live &= ~(stopped | finished)

    def _settle(self) -> None:
        """Judge the last points of finished jobs; those not fooled start again while they have restarts left."""
        batch = self._pool[: self.slots]
        samples = [sample for sample, _, _ in batch]
        at, value = self._judge(samples, torch.stack([points for _, _, points in batch]))
        del self._pool[: len(batch)]
        places = self._index(samples)
        fooled, before, held = self.search.succeeded(self.clean[places], at), self.fooled[places], self.value[places]
        better = torch.where(fooled == before, value > held, fooled)
        self.best[places] = torch.where(better[:, None, None, None], at.points, self.best[places])
        self.value[places] = torch.where(better, value, held)
        self.fooled[places] = before | fooled
        jobs = [(sample, restart) for sample, restart, _ in batch]
        self.outlook.succeeded([jobs[row] for row in self._rows(fooled)])
        gone = self.fooled | self.failed if self.search.stops_when_fooled else self.failed
        left = [job for job, leaves in zip(jobs, gone[places].tolist(), strict=True) if not leaves]
        self._report(len(jobs) - len(left) + self._follow(left))

    def _report(self, done: int) -> None:
        if done:
            self._done += done
            if self._progress is not None:
                self._progress(self._done, int(self.fooled.sum()))

    def _fail(self, samples: list[int], failed: Tensor) -> None:
        self.failed[self._index([sample for sample, bad in zip(samples, failed.tolist(), strict=True) if bad])] = True

    @staticmethod
    def _rows(flags: Tensor) -> list[int]:
        rows: list[int] = flags.nonzero().flatten().tolist()
        return rows

    def _index(self, numbers: list[int]) -> Index:
        return torch.tensor(numbers, dtype=torch.long, device=self.clean.device)
