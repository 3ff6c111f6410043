"""What a task is: it supplies objectives to attacks and scores a model's answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from radapt.attacks import Objective
from radapt.data import Dataset
from radapt.models import VLM
from radapt.types import Pixels

__all__ = ["Answer", "BoundTask", "Task"]


class Answer(NamedTuple):
    """A model's answer on one sample: its number, its score in [0, 1], and the words for it."""

    prediction: int
    score: float
    text: str


class BoundTask(ABC):
    """A task on a data set, bound to one model as it stands (with or without an adapter)."""

    @abstractmethod
    def objective(self, positions: Sequence[int], *, stop: bool) -> Objective:
        """What an attack maximises on these samples.

        ``stop`` says whether a fooled sample is done (white-box), or whether the attack spends its whole budget, as
        images that are made to be shown to another model must.
        """

    @abstractmethod
    def answer(self, pixels: Pixels, positions: Sequence[int]) -> list[Answer]:
        """The model's answers on images of these samples."""


class Task(ABC):
    """A task: what is asked about the samples of a data set, and how answers are scored."""

    name: str

    def __init__(self, data: Dataset) -> None:
        self.data = data

    @abstractmethod
    def bind(self, model: VLM) -> BoundTask:
        """Prepare the task for a model (encode its prompts)."""

    @abstractmethod
    def truth(self, position: int) -> str:
        """The right answer in words."""

    @abstractmethod
    def label(self, position: int) -> int:
        """The right answer as a number (-1 where there is none)."""
