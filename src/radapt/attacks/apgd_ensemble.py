"""A short ensemble: APGD on the objective's own loss, then targeted APGD on what that left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

from ._ensemble import Ensemble
from ._objective import Objective, checked
from ._search_attack import SearchAttack
from ._settings import whole
from .apgd import APGD

__all__ = ["ATTACK", "APGDEnsemble"]


@final
@dataclass(frozen=True, kw_only=True)
class APGDEnsemble(Ensemble):
    """APGD, then for a classifier targeted APGD on the survivors (Croce & Hein 2020, arXiv:2003.01690), in few steps.

    Cross-entropy alone overstates robustness: on some images its gradient points away from the one class that would
    do. Going for the likeliest wrong classes by their margin, in a few steps each, finds most of these. So AutoAttack
    begins, with more steps: this is for quick figures that it hardly lowers, and does not replace it.

    Where there are no classes to go for (captions, answers), or no verdicts by which the second search would know the
    survivors (images that are made for another model), it is APGD with all the steps.

    Args:
        norm: ``linf`` or ``l2``.
        eps: radius of the ball in pixel units (4/255); at most 1 for ``linf``.
        steps: steps of the first search.
        n_target_classes: classes that the targeted search goes for, the likeliest ones.
        targeted_steps: steps for each of them.

    Raises:
        SettingsError: a setting is out of range.
    """

    name: ClassVar[str] = "apgd-ensemble"
    steps: int = 12
    n_target_classes: int = 6
    targeted_steps: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("n_target_classes", self.n_target_classes)
        whole("targeted_steps", self.targeted_steps)

    def stages(self, objective: Objective) -> dict[str, SearchAttack]:
        """The two searches; one where there are no classes, or no verdicts."""
        classes = checked(objective).classes
        if classes is None or not objective.stop:
            steps = self.steps + self.n_target_classes * self.targeted_steps
            return {"apgd": APGD(norm=self.norm, eps=self.eps, steps=steps)}
        targeted: dict[str, Any] = {"steps": self.targeted_steps, "restarts": min(self.n_target_classes, classes - 1)}
        return {
            "apgd-ce": APGD(norm=self.norm, eps=self.eps, steps=self.steps, loss="ce"),
            "apgd-t": APGD(norm=self.norm, eps=self.eps, loss="margin-targeted", **targeted),
        }


ATTACK = APGDEnsemble
