"""Evaluation: what a model gets right, clean and under attack, with the source of every attack.

Every file here without a leading underscore is a task; its name is the task's name, and its ``TASK`` the class.
"""

from ._candidates import (
    Candidate,
    CandidateLike,
    ModelLike,
    Models,
    candidates_of,
    defence_of,
    split_candidate,
)
from ._cost import Cost, UnitCost
from ._defence import Defence, InputDefence
from ._evaluate import estimate_cost, evaluate
from ._executor import check_executor, one_cluster
from ._inputs import threats_of
from ._loading import check_loading
from ._plan import REGISTRY, RESERVED
from ._task import Answer, BoundTask, Task
from ._threat import Threat

__all__ = [
    "REGISTRY",
    "RESERVED",
    "Answer",
    "BoundTask",
    "Candidate",
    "CandidateLike",
    "Cost",
    "Defence",
    "InputDefence",
    "ModelLike",
    "Models",
    "Task",
    "Threat",
    "UnitCost",
    "candidates_of",
    "check_executor",
    "check_loading",
    "defence_of",
    "estimate_cost",
    "evaluate",
    "names",
    "one_cluster",
    "split_candidate",
    "threats_of",
]


def names() -> list[str]:
    """Names of all tasks."""
    return REGISTRY.names()
