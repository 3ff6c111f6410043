"""Streams samples through a fixed number of slots: batches stay full, and no sample's result sees its neighbours."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from radapt.attacks._objective import Objective, Score
from radapt.attacks._search import Evaluation, Search, State
from radapt.errors import InputError, RadaptError
from radapt.types import Index, PerSample, Pixels

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

    Args:
        search: the attack's own part.
        objective: what is maximised.
        pixels: clean images in [0, 1], float32.
        keys: one name per sample, which its random numbers hang on.
        seed: seed of all random numbers.
        slots: images per pass.
        start: first points of the first restart, instead of the search's own.
        progress: told the number of samples done, and of those fooled.
    """

    def __init__(
        self,
        search: Search,
        objective: Objective,
        *,
        pixels: Pixels,
        keys: Sequence[str],
        seed: int,
        slots: int,
        start: Pixels | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.search, self.objective, self.clean, self.keys = search, objective, pixels, keys
        self.seed, self.slots, self._warm, self._progress = seed, slots, start, progress
        n, device = len(pixels), pixels.device
        self.best = pixels.clone()
        self.value = torch.zeros(n, device=device)
        self.clean_loss = torch.zeros(n, device=device)
        self.fooled = torch.zeros(n, dtype=torch.bool, device=device)
        self.iterations, self.forwards, self.backwards, self.vanished = torch.zeros(4, n, dtype=torch.long).unbind()
        self._queue: deque[tuple[int, int]] = deque()
        self._pool: list[tuple[int, int, Tensor]] = []
        self._done = 0
        # The slots; these two live on the host, as the loop itself hangs on them.
        self._jobs = [(0, 0)] * slots
        self._live = torch.zeros(slots, dtype=torch.bool)
        self._sample = torch.zeros(slots, dtype=torch.long, device=device)
        self._iteration, self._zeros = torch.zeros(2, slots, dtype=torch.long, device=device).unbind()
        self._points = self._clean = pixels[self._sample]
        self._best, self._value, self._fooled = self._points, self.value[self._sample], self.fooled[self._sample]
        self._state: State = {}

    def run(self) -> None:
        """Judge the clean images, then search on those that are not fooled yet."""
        for first in range(0, len(self.clean), self.slots):
            samples = list(range(first, min(first + self.slots, len(self.clean))))
            at, value = self.judge(samples, self.clean[samples])
            self.clean_loss[samples], self.fooled[samples], self.value[samples] = at.loss, at.fooled, value
        fooled = self.fooled.tolist()
        self._queue.extend((sample, 0) for sample, gone in enumerate(fooled) if not gone)
        self._report(sum(fooled))
        while True:
            self._fill()
            if self._live.any():
                self._advance()
            elif not self._pool:
                return
            while len(self._pool) >= self.slots or (self._pool and not self._live.any()):
                self._settle()

    def judge(self, samples: list[int], points: Pixels) -> tuple[Evaluation, PerSample]:
        """Evaluate at most ``slots`` points by one forward pass: the evaluation, and the search's value of it."""
        count = len(samples)
        rows = [*range(count), *[0] * (self.slots - count)]
        points, index = points[rows], self._index([samples[row] for row in rows])
        with torch.no_grad():
            score = self._score(points, index)
        at = Evaluation(points, score.loss, score.fooled, points.new_empty(0))
        self._refuse(samples, ~score.loss.isfinite()[:count])
        self.forwards[samples] += 1
        value = self.search.value(self.clean[index], at)[:count]
        return Evaluation(points[:count], at.loss[:count], at.fooled[:count], at.gradient), value

    def _fill(self) -> None:
        """Give free slots to waiting jobs."""
        if not self._queue:
            return
        rows = (~self._live).nonzero().flatten().tolist()[: len(self._queue)]
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
        # Started on all slots, not on the free ones only: a reduction may round differently at another batch size.
        points, state = self.search.start(self._clean, self._draw(at, jobs))
        self._state = {k: self._state.get(k, v).index_copy(0, at, v[at]) for k, v in state.items()}
        self._points = self._points.index_copy(0, at, points[at])
        if self._warm is not None:
            first = [row for row, (_, restart) in zip(rows, jobs, strict=True) if restart == 0]
            places = self._index(first)
            self._points = self._points.index_copy(0, places, self._warm[self._sample[places]])

    def _draw(self, at: Index, jobs: list[tuple[int, int]]) -> State:
        shape = self.clean.shape[1:]
        draws = [self.search.draw(shape, self._generator(*job)) for job in jobs]
        result = {}
        for name in draws[0]:
            numbers = torch.stack([draw[name] for draw in draws]).to(self.clean.device)
            blank = numbers.new_zeros((self.slots, *numbers.shape[1:]))
            result[name] = blank.index_copy(0, at, numbers)
        return result

    def _generator(self, sample: int, restart: int) -> torch.Generator:
        words = "\0".join((str(self.seed), self.search.name, self.keys[sample], str(restart)))
        return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(words.encode()).digest()[:4], "big"))

    def _advance(self) -> None:
        """One step of all slots, then let the fooled and the finished leave."""
        at = self._evaluate()
        value = self.search.value(self._clean, at)
        better = torch.where(at.fooled == self._fooled, value > self._value, at.fooled)
        self._best = torch.where(better[:, None, None, None], at.points, self._best)
        self._value = torch.where(better, value, self._value)
        self._fooled = self._fooled | at.fooled
        broken = ~at.loss.isfinite()
        if self.search.needs_gradient:
            steepest = at.gradient.abs().amax((1, 2, 3))
            self._zeros = self._zeros + (steepest <= _VANISHED)
            broken = broken | ~steepest.isfinite()
        self._points, self._state = self.search.step(self._clean, at, self._state, self._iteration)
        # Free slots go on unseen; their count must not run away from what a search knows.
        self._iteration = (self._iteration + 1).clamp(max=self.search.steps)
        # The one place where the host waits for the device.
        stacked = torch.stack([at.fooled.long(), broken.long(), self._iteration, self._zeros]).cpu()
        fooled, failed, iteration, zeros = stacked.unbind()
        live = self._live.nonzero().flatten()
        self._refuse([self._jobs[row][0] for row in live.tolist()], failed[live].bool())
        stopped = self._live & fooled.bool() & self.search.stops_when_fooled
        finished = self._live & (iteration >= self.search.steps) & ~stopped
        if stopped.any() or finished.any():
            self._leave(stopped, finished, iteration, zeros)

    def _evaluate(self) -> Evaluation:
        if not self.search.needs_gradient:
            score = self._score(self._points, self._sample)
            return Evaluation(self._points, score.loss, score.fooled, self._points.new_empty(0))
        points = self._points.detach().requires_grad_(True)
        with torch.enable_grad():
            score = self._score(points, self._sample)
            gradient = None
            if score.loss.requires_grad:
                (gradient,) = torch.autograd.grad(score.loss.sum(), points, allow_unused=True)
        if gradient is None:
            raise InputError(
                f"the loss has no gradient with respect to the pixels, which {self.search.name} needs; compute it with "
                "differentiable operations and without torch.no_grad, or use an attack that needs no gradient"
            )
        return Evaluation(points.detach(), score.loss.detach(), score.fooled, gradient)

    def _leave(self, stopped: Tensor, finished: Tensor, iteration: Tensor, zeros: Tensor) -> None:
        rows = (stopped | finished).nonzero().flatten()
        samples = torch.tensor([self._jobs[row][0] for row in rows.tolist()])
        at, places = self._index(rows.tolist()), self._index(samples.tolist())
        self.best[places], self.value[places] = self._best[at], self._value[at]
        self.fooled[places] = self._fooled[at]
        # The step that followed the point which fooled was never used.
        self.iterations[samples] += iteration[rows] - stopped[rows].long()
        self.forwards[samples] += iteration[rows]
        self.vanished[samples] += zeros[rows]
        if self.search.needs_gradient:
            self.backwards[samples] += iteration[rows]
        for row in finished.nonzero().flatten().tolist():
            self._pool.append((*self._jobs[row], self._points[row].clone()))
        self._live &= ~(stopped | finished)
        self._report(int(stopped.sum()))

    def _settle(self) -> None:
        """Judge the last points of finished jobs; those not fooled start again while they have restarts left."""
        batch, self._pool = self._pool[: self.slots], self._pool[self.slots :]
        samples = [sample for sample, _, _ in batch]
        at, value = self.judge(samples, torch.stack([points for _, _, points in batch]))
        places = self._index(samples)
        before, held = self.fooled[places], self.value[places]
        better = torch.where(at.fooled == before, value > held, at.fooled)
        self.best[places] = torch.where(better[:, None, None, None], at.points, self.best[places])
        self.value[places] = torch.where(better, value, held)
        self.fooled[places] = before | at.fooled
        done = 0
        for (sample, restart, _), fooled in zip(batch, self.fooled[places].tolist(), strict=True):
            if restart + 1 < self.search.restarts and not (fooled and self.search.stops_when_fooled):
                self._queue.append((sample, restart + 1))
            else:
                done += 1
        self._report(done)

    def _report(self, done: int) -> None:
        if done:
            self._done += done
            if self._progress is not None:
                self._progress(self._done, int(self.fooled.sum()))

    def _score(self, points: Pixels, index: Index) -> Score:
        try:
            loss, fooled = self.objective(points, index, loss=self.search.loss)
        except (RadaptError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            names = self._names(sorted(set(index.tolist())))
            raise InputError(f"the objective failed on samples {names}: {type(error).__name__}: {error}") from error
        if loss.shape != (len(points),) or fooled.shape != loss.shape or fooled.dtype != torch.bool:
            raise InputError(
                f"an objective must give one loss and one flag per sample, got shapes {tuple(loss.shape)} and "
                f"{tuple(fooled.shape)} ({fooled.dtype}) for {len(points)} samples"
            )
        return Score(loss.float().to(points.device), fooled.to(points.device))

    def _refuse(self, samples: list[int], failed: Tensor) -> None:
        if failed.any():
            names = self._names([sample for sample, bad in zip(samples, failed.tolist(), strict=True) if bad])
            raise InputError(
                f"the objective's loss or gradient is not a finite number for samples {names}; "
                "leave them out, or look for an overflow in the model"
            )

    def _names(self, samples: list[int]) -> str:
        names = [repr(self.keys[sample]) for sample in samples]
        return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")

    def _index(self, numbers: list[int]) -> Index:
        return torch.tensor(numbers, dtype=torch.long, device=self.clean.device)
