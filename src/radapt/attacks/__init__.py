"""Attacks: searches for small changes of pixels that fool a model.

Every file here without a leading underscore is an attack; its name is the attack's name, and its ``ATTACK`` the class.
Other packages add theirs through the entry points ``radapt.attacks``.
"""

from __future__ import annotations

from ._api import attack
from ._attack import Attack
from ._ensemble import Ensemble
from ._inputs import images_of, labels_of
from ._objective import (
    AnswerObjective,
    ClassificationObjective,
    EmbeddingObjective,
    Objective,
    Score,
)
from ._outcome import Outcome, merged, untouched
from ._radii import ascending
from ._registry import REGISTRY, make, names
from ._search import Evaluation, State, Stoppable
from ._search_attack import SearchAttack
from ._transforms import EOT, bpda, jpeg, round_8bit
from ._watched import Watched

__all__ = [
    "EOT",
    "REGISTRY",
    "AnswerObjective",
    "Attack",
    "ClassificationObjective",
    "EmbeddingObjective",
    "Ensemble",
    "Evaluation",
    "Objective",
    "Outcome",
    "Score",
    "SearchAttack",
    "State",
    "Stoppable",
    "Watched",
    "ascending",
    "attack",
    "bpda",
    "images_of",
    "jpeg",
    "labels_of",
    "make",
    "merged",
    "names",
    "round_8bit",
    "untouched",
]
