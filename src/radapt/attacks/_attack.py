"""What every attack shares: its settings, the checks on what goes in and out, and the outcome."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import ClassVar

import torch

from radapt.errors import CheckError, InputError, SettingsError
from radapt.registry import nearest
from radapt.types import Flags, Index, Norm

from ._active_set import ActiveSet, Progress
from ._ball import Ball
from ._evaluator import SCALE, Evaluator
from ._inputs import TOLERANCE, TensorLike, images_of
from ._objective import Objective, Subset, checked
from ._outcome import Outcome, Stage, merged
from ._search import Search, is_broken
from ._settings import check_call, whole, word
from ._transforms import round_8bit

__all__ = ["Attack", "SearchAttack"]


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """What finds images in a ball that fool an objective.

    Args:
        norm: ``linf`` or ``l2``.
        eps: radius of the ball in pixel units (4/255); at most 1 for ``linf``.
        steps: steps per restart.

    Attributes:
        name: its name on the command line.
        revision: raised whenever the same settings begin to give other figures, so that no stored figure is taken for
            one of the new kind.

    Raises:
        SettingsError: a setting is out of range.
    """

    name: ClassVar[str]
    revision: ClassVar[int] = 3
    norm: Norm = "linf"
    eps: float
    steps: int

    def __post_init__(self) -> None:
        _ = self.ball
        whole("steps", self.steps)

    @cached_property
    def ball(self) -> Ball:
        """The ball that the attack searches."""
        return Ball(self.norm, self.eps)

    @abstractmethod
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
        """Attack every image.

        The same call gives the same outcome, bit for bit. A sample's random numbers depend on (``seed``, attack, its
        key, restart) only, so among other samples, or at another batch size, its outcome differs by rounding only.

        Args:
            objective: what is maximised; its sample ``i`` is ``pixels[i]``.
            pixels: clean images in [0, 1], before normalisation, batch x 3 x height x width: floating-point numbers of
                any precision, as a tensor, an array or a list of images; they are not changed.
            keys: one name per sample that does not depend on how a dataset is split; its position by default.
            seed: seed of all random numbers.
            batch_size: images per pass of the model at most; where fewer are searched on, passes are narrower.
            start: first points of the first restart (a warm start), projected onto the ball; random by default.
            precision: ``torch.bfloat16`` or ``torch.float16``: gradients are computed under autocast first, successes
                verified in the model's own precision, and the survivors attacked again in that.
            seconds: time limit; what is found by then is kept, the rest marked as unfinished. None: no limit.
            progress: called with the number of samples done, and of those fooled, as samples finish.

        Raises:
            InputError: images, keys or starting points are wrong, or the objective fails on some samples.
            SettingsError: the objective does not have this loss, or ``batch_size`` is not positive.
            CheckError: an adversarial image is not finite, or outside the ball or [0, 1].
        """


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
        objective = checked(objective)
        if self.loss and self.loss not in objective.losses:
            raise SettingsError(f"unknown loss {self.loss!r}{nearest(self.loss, objective.losses)}")
        with torch.inference_mode(False), torch.no_grad():
            clean = images_of("pixels", pixels)
            if objective.size != len(clean):
                raise InputError(f"the objective has {objective.size} samples, but there are {len(clean)} images")
            keys = [str(position) for position in range(len(clean))] if keys is None else list(keys)
            if len(keys) != len(clean):
                raise InputError(f"there must be one key per image, got {len(keys)} keys for {len(clean)} images")
            first = None
            if start is not None:
                first = images_of("start", start).to(clean.device)
                if first.shape != clean.shape:
                    raise InputError(f"start has shape {tuple(first.shape)}, but the images {tuple(clean.shape)}")
                first = self.ball.project(first, clean)
            deadline = None if seconds is None else time.monotonic() + seconds

            def run(rows: Index, precision: torch.dtype | None = None, scale: float = SCALE) -> Outcome:
                names = [keys[row] for row in rows.tolist()]
                active = ActiveSet(
                    Evaluator(self, Subset(objective, rows), names, precision, scale),
                    clean[rows],
                    seed=seed,
                    batch_size=batch_size,
                    start=None if first is None else first[rows],
                    deadline=deadline,
                    progress=progress,
                )
                active.run()
                return self._verify(active)

            outcome = run(torch.arange(len(clean), device="cpu"), precision)
            if precision is not None:  # what stands in half precision is attacked again in the model's own
                outcome = _again(outcome, run, ~outcome.fooled, objective.stop)
            if self.needs_gradient:  # or the factor that keeps small gradients from vanishing was too large
                outcome = _again(outcome, partial(run, scale=1.0), outcome.failed, objective.stop)
        # Where verdicts are wanted, the flags say it: one sample must not take those of later batches with it.
        if outcome.failed.all() and not objective.stop:
            raise InputError(
                "the objective's loss or gradient is not a finite number for any of the samples; "
                "look for an overflow in the model"
            )
        return outcome

    def _verify(self, active: ActiveSet) -> Outcome:
        """Check the images, and judge them again in float32."""
        restarts, pixels, clean = active.restarts, active.restarts.best, active.clean
        with torch.autocast(pixels.device.type, enabled=False):
            loss, fooled, _ = active.judge(pixels)
            _, fooled_8bit, _ = active.judge(round_8bit(pixels))
        restarts.failed |= is_broken(loss, fooled).cpu()
        distance = self.ball.distance(pixels, clean)
        slack = TOLERANCE * max(1, self.eps)
        rules = {
            "are not finite": ~pixels.isfinite().flatten(1).all(1),
            f"are farther than eps = {self.eps} from the clean ones": ~(distance <= self.eps + slack),
            "leave [0, 1]": ((pixels < -TOLERANCE) | (pixels > 1 + TOLERANCE)).flatten(1).any(1),
        }
        for what, broken in rules.items():
            if broken.any():
                names = ", ".join(repr(active.keys[sample]) for sample in broken.nonzero().flatten().tolist()[:8])
                raise CheckError(f"images made by {self.name} {what} (samples {names}); this is a bug of the attack")
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
