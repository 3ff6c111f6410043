"""An ensemble of attacks: each takes the samples that no earlier one fooled, and the worst case per sample counts."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from radapt.types import Index, PerSample

from ._active_set import Progress
from ._attack import Attack
from ._inputs import TensorLike, images_of
from ._objective import Objective, Subset
from ._outcome import Outcome, chain, merged
from ._search_attack import SearchAttack
from ._settings import check_call

__all__ = ["Ensemble"]


@dataclass(frozen=True, kw_only=True)
class Ensemble(Attack, ABC):
    """Several attacks, one after the other.

    Args:
        norm, eps, steps: as in every attack.

    Raises:
        SettingsError: a setting is out of range.
    """

    @abstractmethod
    def stages(self, objective: Objective) -> dict[str, SearchAttack]:
        """The attacks by name, in order, with losses that the objective has.

        Raises:
            InputError: the attack is not for this objective.
        """

    def _seen(self, objective: Objective) -> Objective:
        """What the attacks see of the objective."""
        return objective

    def _again(self, attack: SearchAttack, outcome: Outcome, lead: PerSample) -> tuple[Tensor, SearchAttack] | None:
        """Which samples of a stage are to be attacked once more, and by what.

        Args:
            attack: the stage's.
            outcome: what it found.
            lead: the largest margin that attacks with gradients reached on each sample, where their loss is one.
        """
        return None

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
        """Attack every image, as every attack does; ``outcome.stage`` numbers the attack that made an image.

        A sample that nothing fools keeps the image of the first attack. ``start`` is for the first attack, too.

        Raises:
            InputError, SettingsError, CheckError: as for every attack.
        """
        check_call(seed=seed, batch_size=batch_size, precision=precision, seconds=seconds)
        attacks, seen = list(self.stages(objective).values()), self._seen(objective)
        pixels = images_of("pixels", pixels)
        keys = [str(position) for position in range(len(pixels))] if keys is None else list(keys)
        deadline = None if seconds is None else time.monotonic() + seconds
        lead = torch.full((len(pixels),), -torch.inf, dtype=pixels.dtype, device=pixels.device)
        reported = 0

        def run_stage(rows: Index, number: int) -> Outcome:
            attack = attacks[number]
            outcome = run_attack(attack, rows, number, len(pixels) - len(rows))
            if attack.targeted or (attack.needs_gradient and attack.loss == "margin"):
                lead[rows] = torch.fmax(lead[rows], outcome.loss)
            if again := self._again(attack, outcome, lead[rows]):
                some, other = again
                fooled_before = len(pixels) - len(rows) + int(outcome.fooled.sum())
                later = run_attack(other, rows[some.cpu()], number, fooled_before)
                outcome = replace(outcome, given_up=outcome.given_up.index_fill(0, some, False))
                outcome = merged(outcome, later, some, number, later.fooled)
            return outcome

        def run_attack(attack: SearchAttack, rows: Index, number: int, fooled_before: int) -> Outcome:
            def report(done: int, fooled: int) -> None:
                nonlocal reported
                reported = max(reported, fooled_before + (done if number + 1 == len(attacks) else fooled))
                if progress is not None:
                    progress(reported, fooled_before + fooled)

            # The first stage gets all arguments, so that its checks see them.
            first = number == 0 and len(rows) == len(pixels)
            return attack(
                seen if first else Subset(seen, rows),
                pixels if first else pixels[rows],
                keys=keys if first else [keys[row] for row in rows.tolist()],
                seed=seed,
                batch_size=batch_size,
                start=start if first else None,
                precision=precision,
                seconds=None if deadline is None else max(deadline - time.monotonic(), 0.0),
                progress=report,
            )

        return chain([partial(run_stage, number=number) for number in range(len(attacks))], len(pixels))
