"""Evaluate: what a model gets right, clean and under attack, with the source of every attack."""

from ._plan import Attachable, Candidate, Threat
from ._run import evaluate
from ._task import Answer, BoundTask, Task

__all__ = ["Answer", "Attachable", "BoundTask", "Candidate", "Task", "Threat", "evaluate"]
