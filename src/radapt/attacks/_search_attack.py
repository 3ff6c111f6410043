"""An attack that is one search: its call, and the images alone for a training."""

from __future__ import annotations

import time
from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from radapt.errors import CheckError, InputError, SettingsError
from radapt.precision import own_precision
from radapt.registry import nearest
from radapt.types import Flags, Index, PerSample, Pixels

from ._active_set import ActiveSet, Progress
from ._attack import Attack
from ._evaluator import SCALE, Evaluator
from ._inputs import TOLERANCE, TensorLike, images_of
from ._objective import Objective, Subset, checked
from ._outcome import Outcome, Stage, merged
from ._search import Search, is_broken
from ._settings import check_call, whole, word
from ._transforms import round_8bit

__all__ = ["SearchAttack"]


@dataclass(frozen=True, kw_only=True)
class SearchAttack(Attack, Search, ABC):
    """An attack that is one search; the active set streams its samples.

    Args:
        norm, eps, steps: as in every attack.
        restarts: how often a sample that is not fooled starts again, the first time included.
        loss: one of the objective's losses; empty for its first (cross-entropy for a classifier).

    Raises:
        SettingsError: a setting is out of range.
    """

    restarts: int = 1
    loss: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("restarts", self.restarts)
        word("loss", self.loss)

    @own_precision()
    def __call__(
        self,
        objective: Objective,
        pixels: TensorLike,
        *,
        keys: Sequence[str] | None = None,
        seed: int = 0,
        batch_size: int = 64,
        start: TensorLike | None = None,
        precision: torch.dtype | None = None,
        seconds: float | None = None,
        progress: Progress | None = None,
    ) -> Outcome:
        """Attack every image; see :class:`Attack`."""
        check_call(seed=seed, batch_size=batch_size, precision=precision, seconds=seconds)
        objective = self._checked(objective)
        with torch.inference_mode(False), torch.no_grad():
            deadline = None if seconds is None else time.monotonic() + seconds
            search = self._searches(objective, pixels, keys, seed, batch_size, start, deadline, progress)

            def run(rows: Index, precision: torch.dtype | None = None, scale: float = SCALE) -> Outcome:
                return self._verify(search(rows, precision, scale))

            outcome = run(torch.arange(len(search.clean), device="cpu"), precision)
            if precision is not None:  # what stands in half precision is attacked again in the model's own
                outcome = _again(outcome, run, ~outcome.fooled, objective.stop)
            if self.needs_gradient:  # or the factor that keeps small gradients from vanishing was too large
                outcome = _again(outcome, partial(run, scale=1.0), outcome.failed, objective.stop)
        # Where verdicts are wanted, the flags say it: one sample must not take those of later batches with it.
        if not objective.stop:
            _check_some(outcome.failed)
        return outcome

    def perturb(
        self,
        objective: Objective,
        pixels: TensorLike,
        *,
        keys: Sequence[str] | None = None,
        seed: int = 0,
        batch_size: int = 64,
    ) -> Pixels:
        """The adversarial images of a call, bit for bit, without the two passes of the model that verify them.

        For adversarial training, which wants images and no verdicts: of an attack of one to three steps, these are a
        third to a fifth of all passes. Unlike a call, it leaves autocast on where the caller has it on.

        Args:
            objective, pixels, keys, seed, batch_size: as of a call.

        Raises:
            InputError, SettingsError, CheckError: as of a call.
        """
        check_call(seed=seed, batch_size=batch_size, precision=None, seconds=None)
        objective = self._checked(objective)
        with torch.inference_mode(False), torch.no_grad():
            search = self._searches(objective, pixels, keys, seed, batch_size)
            active = search(torch.arange(len(search.clean), device="cpu"))
            found, failed = active.restarts.best, active.restarts.failed
            rows = failed.nonzero().flatten()
            if self.needs_gradient and len(rows):  # as in a call
                again = search(rows, scale=1.0)
                won = again.restarts.fooled | ~active.restarts.fooled[rows]
                found = found.index_copy(0, rows[won].to(found.device), again.restarts.best[won.to(found.device)])
                failed = failed.index_copy(0, rows, again.restarts.failed)
            self._check_images(found, search.clean, search.keys)
        if not objective.stop:
            _check_some(failed)
        return found

    def _checked(self, objective: Objective) -> Objective:
        """An objective that has what this attack asks of one."""
        objective = checked(objective)
        if self.loss and self.loss not in objective.losses:
            raise SettingsError(f"unknown loss {self.loss!r}{nearest(self.loss, objective.losses)}")
        return objective

    def _searches(
        self,
        objective: Objective,
        pixels: TensorLike,
        keys: Sequence[str] | None,
        seed: int,
        batch_size: int,
        start: TensorLike | None = None,
        deadline: float | None = None,
        progress: Progress | None = None,
    ) -> _Searches:
        """What a call searches, its images, keys and starting points checked."""
        clean = _images(objective, pixels)
        return _Searches(
            attack=self,
            objective=objective,
            clean=clean,
            keys=_names(keys, clean),
            seed=seed,
            batch_size=batch_size,
            start=self._first(clean, start),
            deadline=deadline,
            progress=progress,
        )

    def _first(self, clean: Pixels, start: TensorLike | None) -> Pixels | None:
        """First points of the first restart; None: the search's own."""
        if start is None:
            return clean if self._begins_clean else None
        first = images_of("start", start).to(clean.device)
        if first.shape != clean.shape:
            raise InputError(f"start has shape {tuple(first.shape)}, but the images {tuple(clean.shape)}")
        return self.ball.project(first, clean)

    def _verify(self, active: ActiveSet) -> Outcome:
        """Check the images, and judge them again in the model's own precision."""
        restarts, pixels, clean = active.restarts, active.restarts.best, active.clean
        loss, fooled, _ = active.judge(pixels)
        _, fooled_8bit, _ = active.judge(round_8bit(pixels))
        restarts.failed |= is_broken(loss, fooled).cpu()
        distance = self._check_images(pixels, clean, active.keys)
        counts = {
            name: getattr(restarts, name).to(pixels.device)
            for name in ("failed", "unfinished", "audited", "misjudged", "iterations", "forwards", "backwards")
        }
        return Outcome(
            **counts,
            pixels=pixels,
            fooled=fooled,
            stage=torch.zeros_like(counts["iterations"]),
            unconfirmed=restarts.fooled.to(pixels.device) & ~fooled,
            given_up=restarts.given_up.to(pixels.device) & ~fooled,
            gradient_free=torch.full_like(fooled, not self.needs_gradient),
            fooled_8bit=fooled_8bit,
            loss=loss,
            clean_loss=active.clean_loss,
            loss_rose=loss > active.clean_loss,
            distance=distance,
            zero_gradient=(restarts.vanished / restarts.graded.clamp(min=1)).to(pixels),
        )

    def _check_images(self, pixels: Pixels, clean: Pixels, keys: Sequence[str]) -> PerSample:
        """Distance of adversarial images from the clean ones.

        Raises:
            CheckError: one is not finite, or outside the ball or [0, 1].
        """
        distance = self.ball.distance(pixels, clean)
        slack = TOLERANCE * max(1, self.eps)
        rules = {
            "are not finite": ~pixels.isfinite().flatten(1).all(1),
            f"are farther than eps = {self.eps} from the clean ones": ~(distance <= self.eps + slack),
            "leave [0, 1]": ((pixels < -TOLERANCE) | (pixels > 1 + TOLERANCE)).flatten(1).any(1),
        }
        for what, broken in rules.items():
            if broken.any():
                names = ", ".join(repr(keys[sample]) for sample in broken.nonzero().flatten().tolist()[:8])
                raise CheckError(f"images made by {self.name} {what} (samples {names}); this is a bug of the attack")
        return distance


@dataclass(frozen=True, kw_only=True, eq=False)
class _Searches:
    """Searches on some of the images of a call; see :class:`ActiveSet`."""

    attack: SearchAttack
    objective: Objective
    clean: Pixels
    keys: Sequence[str]
    seed: int
    batch_size: int
    start: Pixels | None = None
    deadline: float | None = None
    progress: Progress | None = None

    def __call__(self, rows: Index, precision: torch.dtype | None = None, scale: float = SCALE) -> ActiveSet:
        names = [self.keys[row] for row in rows.tolist()]
        active = ActiveSet(
            Evaluator(self.attack, Subset(self.objective, rows), names, precision, scale),
            self.clean[rows],
            seed=self.seed,
            batch_size=self.batch_size,
            start=None if self.start is None else self.start[rows],
            deadline=self.deadline,
            progress=self.progress,
        )
        active.run()
        return active


def _images(objective: Objective, pixels: TensorLike) -> Pixels:
    """Clean images, one for each sample of the objective."""
    clean = images_of("pixels", pixels)
    if objective.size != len(clean):
        raise InputError(f"the objective has {objective.size} samples, but there are {len(clean)} images")
    return clean


def _names(keys: Sequence[str] | None, clean: Pixels) -> list[str]:
    """One key for each image."""
    names = [str(position) for position in range(len(clean))] if keys is None else list(keys)
    if len(names) != len(clean):
        raise InputError(f"there must be one key per image, got {len(names)} keys for {len(clean)} images")
    return names


def _check_some(failed: Flags) -> None:
    """Refuse a search that failed on every sample.

    Raises:
        InputError: it did.
    """
    if failed.all():
        raise InputError(
            "the objective's loss or gradient is not a finite number for any of the samples; "
            "look for an overflow in the model"
        )


def _again(outcome: Outcome, stage: Stage, which: Flags, stop: bool) -> Outcome:
    """An outcome after another try of the same attack on some samples, which says whether it failed there."""
    rows = which.nonzero().flatten()
    if not len(rows):
        return outcome
    later = stage(rows.cpu())
    larger = torch.zeros_like(later.fooled) if stop else later.loss > outcome.loss[rows]  # without verdicts
    won = later.fooled | larger | (outcome.failed[rows] & ~outcome.fooled[rows])
    total = merged(outcome, later, rows, 0, won)
    return replace(total, failed=total.failed.index_copy(0, rows, later.failed))
