"""What every attack shares: its settings, and the contract of a call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch

from radapt.types import Norm

from ._active_set import Progress
from ._ball import Ball
from ._inputs import TensorLike
from ._objective import Objective
from ._outcome import Outcome
from ._settings import whole

__all__ = ["Attack"]


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

    One that looks for what fools, and may have no larger loss to show where nothing does, sets ``_raises_loss`` to
    False: that the loss has not risen is then no sign of a weak attack.

    Raises:
        SettingsError: a setting is out of range.
    """

    name: ClassVar[str]
    revision: ClassVar[int] = 3
    _raises_loss: ClassVar[bool] = True
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
