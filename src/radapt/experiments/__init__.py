"""Experiments: the tables and figures of the paper, experiments of your own, and the demo."""

from .check import Check, check
from .demo import Demo, demo
from .events import Event, Reproduction
from .run import all_experiments, run
from .search import search
from .spec import Experiment, Profile, experiments, read
from .trials import Rung, SearchSpec, Trial
from .tune import Tuned, TuningTrial, pareto_front, tune

__all__ = [
    "Check",
    "Demo",
    "Event",
    "Experiment",
    "Profile",
    "Reproduction",
    "Rung",
    "SearchSpec",
    "Trial",
    "Tuned",
    "TuningTrial",
    "all_experiments",
    "check",
    "demo",
    "experiments",
    "pareto_front",
    "read",
    "run",
    "search",
    "tune",
]
