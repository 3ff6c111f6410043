"""AutoAttack: an ensemble of attacks without settings to tune, and its per-sample worst case."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, final

from torch import Tensor

from radapt.errors import InputError
from radapt.types import PerSample

from ._ensemble import Ensemble
from ._objective import Objective, checked
from ._outcome import Outcome
from ._search_attack import SearchAttack
from ._settings import check_growth, unused, whole, word
from ._transforms import EOT
from .apgd import APGD
from .fab import FAB
from .square import SAFE_GROWTH, Square

__all__ = ["ATTACK", "AutoAttack"]

_GROWTH = 0.35
_VERSIONS = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "fast": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
    "robustvlm": ("apgd-ce", "apgd-t"),
}


@final
@dataclass(frozen=True, kw_only=True)
class AutoAttack(Ensemble):
    """AutoAttack (Croce & Hein 2020, arXiv:2003.01690): each attack takes the samples that no earlier one fooled.

    - ``standard``: APGD-CE, APGD-T (targeted DLR, nine targets), FAB-T (nine targets), Square with 5,000 queries; every
      search goes on to its end, as published.
    - ``fast``: the same, but searches without prospect are given up early: ``growth`` is 0.35.
    - ``plus``: APGD-CE, APGD-DLR and FAB with five restarts each, Square, APGD-T, FAB-T.
    - ``rand``: APGD-CE and APGD-DLR on the mean of 20 passes, for stochastic models.
    - ``robustvlm``: APGD-CE, five times, and APGD-T, as Schlarmann et al. 2024 (arXiv:2402.12336) evaluate
      vision-language models.

    With ``K`` classes there are at most ``K - 1`` targets. Losses that need more classes than there are are replaced,
    with a warning: targeted DLR (four) by targeted cross-entropy, and DLR (three) by the margin.

    Args:
        norm: ``linf`` or ``l2``.
        eps: radius of the ball in pixel units (4/255); at most 1 for ``linf``.
        version: which attacks.
        steps: steps of APGD and FAB.
        n_target_classes: classes that a targeted attack goes for, the likeliest ones.
        n_queries: steps of Square.
        eot_iter: passes per step of ``rand``.
        growth: where progress that grows like ``iteration ** growth`` from now on would not suffice, a search is given
            up; one sample in sixteen goes on, as a check. Where Square has then come farther than the attacks with
            gradients, it begins again and is given up at a growth of 1 only. None: every search goes on to its end, as
            in the paper; for ``fast`` 0.35.

    Raises:
        SettingsError: a setting is out of range.
    """

    name: ClassVar[str] = "autoattack"
    revision: ClassVar[int] = 4
    version: str = "standard"
    steps: int = 100
    n_target_classes: int = 9
    n_queries: int = 5000
    eot_iter: int = 20
    growth: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.version == "fast" and self.growth is None:
            object.__setattr__(self, "growth", _GROWTH)
        word("version", self.version, _VERSIONS)
        for name in ("n_target_classes", "n_queries", "eot_iter"):
            whole(name, getattr(self, name))
        check_growth(self.growth)
        attacks = _VERSIONS[self.version]
        used = {"n_target_classes": any(name.endswith("-t") for name in attacks), "n_queries": "square" in attacks}
        used["eot_iter"] = self.version == "rand"
        unused(self, [name for name, has in used.items() if not has], f"in version {self.version!r}")

    def stages(self, objective: Objective) -> dict[str, SearchAttack]:
        """The attacks by name, in order, with losses that the objective has; without verdicts the first alone.

        Raises:
            InputError: the objective is not a classifier's.
        """
        classes = checked(objective).classes
        if classes is None:
            raise InputError("autoattack is for classifiers; use apgd for an objective without classes")
        targets, restarts = min(self.n_target_classes, classes - 1), 5 if self.version in ("plus", "robustvlm") else 1
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
            "square": partial(Square, **ball, steps=self.n_queries),
        }
        replaced = {"apgd-dlr": ("dlr", dlr), "apgd-t": ("dlr-targeted", dlr_targeted)}
        # Without verdicts, as for images that are shown to another model, no later attack would change an image.
        names = _VERSIONS[self.version][: None if objective.stop else 1]
        for name in names:
            wanted, used = replaced.get(name, ("", ""))
            if wanted != used:
                warnings.warn(
                    f"{name} of autoattack: {wanted} needs more than {classes} classes, so it uses {used}", stacklevel=3
                )
        return {name: builders[name]() for name in names}

    def _seen(self, objective: Objective) -> Objective:
        """The mean of several passes, for models that are random."""
        return EOT(objective, self.eot_iter) if self.version == "rand" else objective

    def _again(self, attack: SearchAttack, outcome: Outcome, lead: PerSample) -> tuple[Tensor, SearchAttack] | None:
        """Where Square was given up although it had come farther than the attacks with gradients: longer."""
        if not isinstance(attack, Square) or attack.growth is None or attack.growth >= SAFE_GROWTH:
            return None
        ahead = (outcome.given_up & (outcome.loss >= lead)).nonzero().flatten()
        return (ahead, replace(attack, growth=SAFE_GROWTH)) if len(ahead) else None


ATTACK = AutoAttack
