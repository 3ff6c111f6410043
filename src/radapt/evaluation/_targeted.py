"""Targeted attacks: can an image make a generative model say a given sentence?"""

from __future__ import annotations

import torch

from radapt.data import Dataset
from radapt.errors import InputError, SettingsError
from radapt.io import digest_of
from radapt.models import VLM, generative

from ._answering import AnsweringTask, Goal, gradients_of
from ._task import Answer, BoundTask, Task

__all__ = ["Targeted"]

_ROOM = 10


class Targeted(Task):
    """The share of images on which the model does not say a sentence; an attack drives it to say that.

    An attack succeeds where the sentence occurs in the answer, whatever else it says (Schlarmann et al. 2024,
    arXiv:2402.12336, section 4.2: success as a substring).

    Args:
        data: a dataset of captions or questions: its images, and what is asked about them.
        sentence: what the attacker wants to be said.

    Raises:
        InputError: the dataset has neither captions nor questions.
        SettingsError: an empty sentence.
    """

    name = "targeted"
    checked = 4

    def __init__(self, data: Dataset, sentence: str) -> None:
        if not sentence.strip():
            raise SettingsError("the target is empty; give the sentence that the attacker wants to be said")
        if not data.captions and not data.questions:
            raise InputError(f"{data.name} has neither captions nor questions, so there is nothing to ask about it")
        super().__init__(data)
        self.sentence = sentence.strip()
        self.context = {"target": self.sentence}

    @property
    def content(self) -> str:
        return digest_of([self.data.content, self.sentence])

    @property
    def metric(self) -> str:
        return "not said"

    def gradients(self, source: VLM) -> str:
        return gradients_of(source)

    def bind(self, model: VLM) -> BoundTask:
        return _Bound(self, model)

    def truth(self, position: int) -> str:
        return f"not: {self.sentence}"


class _Bound(AnsweringTask):
    def __init__(self, task: Targeted, model: VLM) -> None:
        data, sentence = task.data, task.sentence
        asked = [own[position % len(own)][0] for position, own in enumerate(data.questions)] or [""] * len(data)
        length = generative(model).tokenize(["a"], [sentence]).answer
        super().__init__(
            model, data, [data.prompt(each) for each in asked], low=task.low, max_new_tokens=length + _ROOM
        )
        self._sentence = sentence

    def _goals(self) -> list[Goal]:
        every = torch.ones(len(self.data), dtype=torch.bool, device="cpu")
        return [Goal(name="target", answers=[self._sentence] * len(self.data), targeted=True, decisive=every)]

    def score(self, text: str, position: int) -> Answer:
        return Answer(-1, float(self._sentence.lower() not in text.lower()), text)
