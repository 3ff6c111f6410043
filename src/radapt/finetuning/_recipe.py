"""The settings of a training, together: without a recipe, as published, and for the micro models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

from radapt.errors import SettingsError
from radapt.io import fraction
from radapt.numbers import flag, whole
from radapt.registry import nearest
from radapt.training import Schedule
from radapt.types import Decayed, OptimizerName, Precision

from ._attack import TrainingPGD

__all__ = ["ROBUSTVLM", "Recipe", "recipe_of"]

_OF_THE_BATCHES = ("eps", "attack_steps", "step_size", "attack_momentum", "last_iterate", "precision")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a twin is trained. What a recipe does not say is as without one: the values here.

    Args:
        eps: l-inf radius of the inner attack, in pixel units.
        attack_steps: its steps.
        step_size: their length in pixel units; None: 2.5 eps / attack_steps.
        attack_momentum: share of the last direction that each of them keeps, cut to signs at every step.
        last_iterate: whether the attack gives its last point, rather than the one with the largest loss.
        steps: optimiser steps; None: as many as ``epochs`` take.
        epochs: passes over the images.
        batch_size: images that are attacked together.
        accumulate: batches per step and process.
        optimizer: ``adamw`` or ``sgd`` (with momentum 0.9).
        lr: peak learning rate.
        warmup: share of the steps spent warming up.
        warmup_steps: their number instead; None: the share counts.
        weight_decay: decay of what ``decayed`` names.
        decayed: ``matrices`` alone, or ``all`` parameters.
        max_grad_norm: largest norm of the gradient; 0: it is not clipped.
        ema: decay of the moving average of the weights that is then the result (0: the last weights are).
        precision: of the attack and the loss.
    """

    eps: float = 4 / 255
    attack_steps: int = 10
    step_size: float | None = None
    attack_momentum: float = 0.0
    last_iterate: bool = False
    steps: int | None = 20_000
    epochs: int | None = None
    batch_size: int = 128
    accumulate: int = 1
    optimizer: OptimizerName = "adamw"
    lr: float = 1e-5
    warmup: float = 0.07
    warmup_steps: int | None = None
    weight_decay: float = 1e-4
    decayed: Decayed = "matrices"
    max_grad_norm: float = 0.0
    ema: float = 0.0
    precision: Precision = "float32"

    def with_options(self, **options: Any) -> Recipe:
        """This recipe with the options that are not None in the place of its own settings.

        Raises:
            SettingsError: an option is out of range, or warm-up is given twice.
        """
        given = {name: value for name, value in options.items() if value is not None}
        if "warmup" in given and "warmup_steps" in given:
            raise SettingsError("give warmup, a share of the steps, or warmup_steps, their number; not both")
        # An option replaces what says the same in another way.
        if "warmup" in given:
            given["warmup_steps"] = None
        if "steps" in given:
            given["epochs"] = None
        for name in ("eps", "step_size"):
            if name in given:
                given[name] = fraction(given[name])
        recipe = replace(self, **given)
        _ = recipe.attack(), recipe.schedule(1)
        if recipe.precision not in get_args(Precision):
            raise SettingsError(
                f"unknown precision {recipe.precision!r}{nearest(recipe.precision, get_args(Precision))}"
            )
        return recipe

    def attack(self) -> TrainingPGD:
        """The inner attack.

        Raises:
            SettingsError: a setting is out of range.
        """
        whole("attack_steps", self.attack_steps)
        flag("last_iterate", self.last_iterate)
        return TrainingPGD(
            eps=self.eps,
            steps=self.attack_steps,
            step_size=self.step_size,
            momentum=self.attack_momentum,
            last=self.last_iterate,
        )

    def schedule(self, per_epoch: int) -> Schedule:
        """The optimiser's settings, where an epoch takes ``per_epoch`` steps.

        Raises:
            SettingsError: a setting is out of range.
        """
        steps = self.steps if self.epochs is None else self.epochs * per_epoch
        names = (
            "lr",
            "warmup",
            "warmup_steps",
            "weight_decay",
            "decayed",
            "max_grad_norm",
            "optimizer",
            "accumulate",
            "ema",
        )
        return Schedule(steps=steps, **{name: getattr(self, name) for name in names})  # type: ignore[arg-type]

    def of_the_batches(self) -> dict[str, object]:
        """What a checkpoint must know beside the schedule: how adversarial images and their loss are made."""
        return {name: getattr(self, name) for name in _OF_THE_BATCHES}

    def values(self, schedule: Schedule) -> dict[str, object]:
        """All settings as plain values: with the steps of the schedule, and the step of the attack written out."""
        plain = asdict(self)
        del plain["epochs"]
        step_size = 2.5 * self.eps / self.attack_steps if self.step_size is None else self.step_size
        return plain | {"steps": schedule.steps, "step_size": step_size}


# github.com/chs20/RobustVLM, the commands of its README for ViT-L/14.
ROBUSTVLM = Recipe(
    eps=4 / 255, attack_steps=10, step_size=1 / 255, attack_momentum=0.9, last_iterate=True,
    steps=20_000, batch_size=128, lr=1e-5, warmup_steps=1400, weight_decay=1e-4, decayed="all",
)  # fmt: skip
"""What FARE and TeCoA share as published."""


def recipe_of(method: str, recipes: Mapping[str, Recipe], name: str | None) -> Recipe:
    """A recipe of a method by name; None: what holds without one.

    Raises:
        SettingsError: the method has none of this name.
    """
    if name is None:
        return Recipe()
    if name not in recipes:
        raise SettingsError(
            f"{method} has no recipe {name!r}{nearest(name, recipes) if recipes else '; leave recipe out'}"
        )
    return recipes[name]
