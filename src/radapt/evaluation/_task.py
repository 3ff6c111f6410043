"""What a task is: it attacks a model on the samples of a dataset, and scores what the model answers."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

from radapt.attacks import Attack, Objective, Outcome
from radapt.data import METRICS, Dataset
from radapt.errors import InputError
from radapt.models import VLM
from radapt.results import Sample
from radapt.types import Pixels

__all__ = ["Answer", "BoundTask", "Task", "batches", "check_captions"]


class Answer(NamedTuple):
    """A model's answer on one sample.

    Its number (-1 for free text), its score (of the task's metric), the words for it, its scores by other metrics, and
    whether what the model put out was finite.
    """

    prediction: int
    score: float
    text: str
    also: Mapping[str, float] = {}
    finite: bool = True


class BoundTask(ABC):
    """A task on a dataset, bound to one model as it stands (with or without an adapter).

    Args:
        model: the model.
        data: the dataset.
    """

    def __init__(self, model: VLM, data: Dataset) -> None:
        self.model, self.data = model, data

    @abstractmethod
    def objective(self, positions: Sequence[int], *, stop: bool) -> Objective:
        """What an attack maximises on these samples.

        ``stop`` says whether a fooled sample is done (white-box), or whether the attack spends its whole budget, as
        images that are made to be shown to another model must.
        """

    def attack(
        self,
        attack: Attack,
        pixels: Pixels,
        positions: Sequence[int],
        *,
        keys: Sequence[str],
        seed: int,
        batch_size: int,
        stop: bool,
    ) -> Outcome:
        """Attack images of these samples; ``fooled`` says whose score is low enough.

        Args:
            attack: the attack.
            pixels: the clean images.
            positions: their numbers in the dataset.
            keys, seed, batch_size: as for the attack.
            stop: as for :meth:`objective`.
        """
        objective = self.objective(positions, stop=stop)
        outcome = attack(objective, pixels.to(self.model.device), keys=keys, seed=seed, batch_size=batch_size)
        return self.judged(outcome, positions, batch_size)

    def judged(self, outcome: Outcome, positions: Sequence[int], batch_size: int) -> Outcome:
        """An outcome with the task's own verdicts, where those of its objective are others."""
        return outcome

    @abstractmethod
    def answer(self, pixels: Pixels, positions: Sequence[int]) -> list[Answer]:
        """The model's answers on images of these samples."""

    def answers(self, pixels: Pixels, positions: Sequence[int], batch_size: int) -> list[Answer]:
        """Answers by batches of ``batch_size``."""
        answers = list[Answer]()
        for rows in batches(len(positions), batch_size):
            answers += self.answer(pixels[rows], [positions[row] for row in rows])
        return answers


def batches(count: int, batch_size: int) -> Iterator[list[int]]:
    """Rows 0 to ``count`` - 1 by batches, the last one as long as it is."""
    for first in range(0, count, batch_size):
        yield list(range(first, min(first + batch_size, count)))


class Task(ABC):
    """A task: what is asked about the samples of a dataset, and how answers are scored.

    Attributes:
        name: its name in reports.
        low: the highest score that an attack is content with.
        checked: samples that the sanity checks of an attack take.
        revision: raised whenever the same answers begin to give other figures, so that no stored figure is taken for
            one of the new kind.
        context: what else its results depend on; recorded with them.
    """

    name: ClassVar[str]
    low: ClassVar[float] = 0.0
    checked: ClassVar[int] = 16
    revision: ClassVar[int] = 1

    def __init__(self, data: Dataset) -> None:
        self.data = data
        self.context: dict[str, object] = {}

    @property
    def metric(self) -> str:
        """What the score of a sample measures: what the card says, where that is a metric of this task."""
        own = self.data.card.metric
        allowed = next((names for task, names in METRICS.items() if task == self.name), ())
        return own if own in allowed or not allowed else allowed[0]

    @property
    def content(self) -> str:
        """Hash of what every result depends on beside its own sample."""
        return self.data.content

    def gradients(self, source: VLM) -> str:
        """The precision of an attack's gradients, where it is not that of the source's weights."""
        return ""

    def before(self, model: VLM) -> None:  # noqa: B027 (most tasks compare with nothing)
        """Look at a model before a defence is put on it, where answers are compared with its own."""

    @abstractmethod
    def bind(self, model: VLM) -> BoundTask:
        """Prepare the task for a model (encode its prompts)."""

    @abstractmethod
    def truth(self, position: int) -> str:
        """The right answer in words."""

    def lost(self, clean: Sample) -> bool:
        """Whether a sample has nothing left to lose without any attack: then it is not attacked, from any source."""
        return clean.score <= self.low

    def label(self, position: int) -> int:
        """The right answer as a number (-1 where there is none)."""
        return -1

    def constant(self, positions: Sequence[int]) -> tuple[str, float] | None:
        """The one answer that is best for all samples at some positions, and the sum of its scores; None: not known.

        It takes no look at the images, so that nothing can fool it.
        """
        return None


def check_captions(data: Dataset, harm: str) -> None:
    """Refuse a dataset without captions, and warn of one with the captions of an image in several samples.

    Args:
        data: the dataset.
        harm: what comes of several samples of one image, for the warning.

    Raises:
        InputError: there are no captions.

    Warns:
        UserWarning: several samples are of one image.
    """
    if not data.captions:
        raise InputError(f"{data.name} has no captions (it is a set for {data.card.task})")
    if data.repeated:
        text = f"{data.name}: {data.repeated} of {len(data)} samples are of an image that an earlier one is of, too"
        warnings.warn(f"{text}, and {harm}; put all captions of an image into one sample", stacklevel=4)
