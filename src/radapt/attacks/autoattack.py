"""AutoAttack: an ensemble of attacks without settings to tune, and its per-sample worst case."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, final

import torch

from radapt.errors import InputError
from radapt.types import Index

from ._active_set import Progress
from ._attack import Attack, SearchAttack
from ._inputs import TensorLike, images_of
from ._objective import Objective, Subset, checked
from ._outcome import Outcome, chain, merged
from ._settings import check_call, check_growth, unused, whole, word
from ._transforms import EOT
from .apgd import APGD
from .fab import FAB
from .square import SAFE_GROWTH, Square

__all__ = ["ATTACK", "AutoAttack"]

_VERSIONS = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
    "robustvlm": ("apgd-ce", "apgd-t"),
}


@final
@dataclass(frozen=True, kw_only=True)
class AutoAttack(Attack):
    """AutoAttack (Croce & Hein 2020, arXiv:2003.01690): each attack takes the samples that no earlier one fooled.

    - ``standard``: APGD-CE, APGD-T (targeted DLR, nine targets), FAB-T (nine targets), Square with 5,000 queries.
    - ``plus``: APGD-CE, APGD-DLR and FAB with five restarts each, Square, APGD-T, FAB-T.
    - ``rand``: APGD-CE and APGD-DLR on the mean of 20 passes, for models that are random.
    - ``robustvlm``: APGD-CE and APGD-T, as Schlarmann et al. 2024 (arXiv:2402.12336) evaluate vision-language models.

    With ``K`` classes there are at most ``K - 1`` targets. Losses that need more classes than there are are replaced,
    with a warning: targeted DLR (four) by targeted cross-entropy, and DLR (three) by the margin.

    Args:
        norm: ``linf`` or ``l2``.
        eps: radius of the ball in pixel units (4/255); at most 1 for ``linf``.
        version: which attacks.
        steps: steps of APGD and FAB.
        targets: classes that a targeted attack goes for, the likeliest ones.
        queries: steps of Square.
        samples: passes per step of ``rand``.
        growth: where progress that grows like ``iteration ** growth`` from now on would not suffice, a search is given
            up; one sample in sixteen goes on, as a check. Where Square has then come farther than the attacks with
            gradients, it begins again and is given up at a growth of 1 only. None: every search goes on to its end, as
            in the paper.

    Raises:
        SettingsError: a setting is out of range.
    """

    name: ClassVar[str] = "autoattack"
    version: str = "standard"
    steps: int = 100
    targets: int = 9
    queries: int = 5000
    samples: int = 20
    growth: float | None = 0.35

    def __post_init__(self) -> None:
        super().__post_init__()
        word("version", self.version, _VERSIONS)
        for name in ("targets", "queries", "samples"):
            whole(name, getattr(self, name))
        check_growth(self.growth)
        attacks = _VERSIONS[self.version]
        used = {"targets": any(name.endswith("-t") for name in attacks), "queries": "square" in attacks}
        used["samples"] = self.version == "rand"
        unused(self, [name for name, has in used.items() if not has], f"in version {self.version!r}")

    def stages(self, objective: Objective) -> dict[str, SearchAttack]:
        """The attacks by name, in order, with losses that the objective has.

        Raises:
            InputError: the objective is not a classifier's.
        """
        classes = checked(objective).classes
        if classes is None:
            raise InputError("autoattack is for classifiers; use apgd for an objective without classes")
        targets, restarts = min(self.targets, classes - 1), 5 if self.version == "plus" else 1
        dlr = "dlr" if "dlr" in objective.losses else "margin"
        dlr_targeted = "dlr-targeted" if "dlr-targeted" in objective.losses else "ce-targeted"
        ball: dict[str, Any] = {"norm": self.norm, "eps": self.eps, "growth": self.growth}
        apgd, fab = partial(APGD, **ball, steps=self.steps), partial(FAB, **ball, steps=self.steps)
        builders: dict[str, Callable[[], SearchAttack]] = {
            "apgd-ce": partial(apgd, loss="ce", restarts=restarts),
            "apgd-dlr": partial(apgd, loss=dlr, restarts=restarts),
            "apgd-t": partial(apgd, loss=dlr_targeted, restarts=targets),
            "fab": partial(fab, restarts=restarts),
            "fab-t": partial(fab, loss="margin-targeted", restarts=targets),
            "square": partial(Square, **ball, steps=self.queries),
        }
        replaced = {"apgd-dlr": ("dlr", dlr), "apgd-t": ("dlr-targeted", dlr_targeted)}
        for name in _VERSIONS[self.version]:
            wanted, used = replaced.get(name, ("", ""))
            if wanted != used:
                warnings.warn(
                    f"{name} of autoattack: {wanted} needs more than {classes} classes, so it uses {used}", stacklevel=3
                )
        return {name: builders[name]() for name in _VERSIONS[self.version]}

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
        attacks = list(self.stages(objective).values())
        pixels = images_of("pixels", pixels)
        keys = [str(position) for position in range(len(pixels))] if keys is None else list(keys)
        deadline = None if seconds is None else time.monotonic() + seconds
        attacked: Objective = EOT(objective, self.samples) if self.version == "rand" else objective

        # The largest margin that attacks with gradients reached, where their loss is the margin.
        lead = torch.full((len(pixels),), -torch.inf, dtype=pixels.dtype, device=pixels.device)
        reported = 0

        def run_stage(rows: Index, number: int) -> Outcome:
            attack = attacks[number]
            outcome = run_attack(attack, rows, number, len(pixels) - len(rows))
            if attack.targeted or (attack.needs_gradient and attack.loss == "margin"):
                lead[rows] = torch.fmax(lead[rows], outcome.loss)
            if isinstance(attack, Square) and attack.growth is not None and attack.growth < SAFE_GROWTH:
                ahead = (outcome.given_up & (outcome.loss >= lead[rows])).nonzero().flatten()
                if len(ahead):
                    fooled_before = len(pixels) - len(rows) + int(outcome.fooled.sum())
                    longer = replace(attack, growth=SAFE_GROWTH)
                    again = run_attack(longer, rows[ahead.cpu()], number, fooled_before)
                    given_up = outcome.given_up.index_fill(0, ahead, False)
                    outcome = merged(replace(outcome, given_up=given_up), again, ahead, number, again.fooled)
            return outcome

        def run_attack(attack: SearchAttack, rows: Index, number: int, fooled_before: int) -> Outcome:
            def report(done: int, fooled: int) -> None:
                nonlocal reported
                reported = max(reported, fooled_before + (done if number + 1 == len(attacks) else fooled))
                if progress is not None:
                    progress(reported, fooled_before + fooled)

            # The first stage gets all arguments, so that its checks see them.
            first = number == 0
            return attack(
                attacked if first else Subset(attacked, rows),
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


ATTACK = AutoAttack
