"""A short ensemble: APGD on the objective's own loss, then targeted APGD on what that left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from ._attack import SearchAttack
from ._ensemble import Ensemble
from ._objective import Objective, checked
from ._settings import whole
from .apgd import APGD

__all__ = ["ATTACK", "APGDEnsemble"]


@final
@dataclass(frozen=True, kw_only=True)
class APGDEnsemble(Ensemble):
    """APGD, then for a classifier targeted APGD on the survivors (Croce & Hein 2020, arXiv:2003.01690), in few steps.

    Cross-entropy alone overstates robustness: on some images its gradient points away from the one class that would
    do. Going for the likeliest wrong classes by their margin finds most of these. This is the start of AutoAttack with
    fewer steps and targets, for quick figures that a full AutoAttack hardly lowers; it does not replace it.

    An objective without classes (captions, answers) has no targets: there it is APGD with all the steps.

    Args:
        norm: ``linf`` or ``l2``.
        eps: radius of the ball in pixel units (4/255); at most 1 for ``linf``.
        steps: steps of each search.
        targets: classes that the targeted search goes for, the likeliest ones.

    Raises:
        SettingsError: a setting is out of range.
    """

    name: ClassVar[str] = "apgd-ensemble"
    steps: int = 10
    targets: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("targets", self.targets)

    def stages(self, objective: Objective) -> dict[str, SearchAttack]:
        """The two searches; one where there are no classes."""
        classes = checked(objective).classes
        if classes is None:
            whole_budget = self.steps * (1 + self.targets)
            return {"apgd": APGD(norm=self.norm, eps=self.eps, steps=whole_budget)}
        targets = min(self.targets, classes - 1)
        loss = "dlr-targeted" if "dlr-targeted" in objective.losses else "margin-targeted"
        return {
            "apgd-ce": APGD(norm=self.norm, eps=self.eps, steps=self.steps, loss="ce"),
            "apgd-t": APGD(norm=self.norm, eps=self.eps, steps=self.steps, loss=loss, restarts=targets),
        }


ATTACK = APGDEnsemble
