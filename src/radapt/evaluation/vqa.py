"""Visual question answering: VQA accuracy, and F1 of questions that are answered by yes or no (POPE)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property

import torch

from radapt.data import Dataset
from radapt.errors import InputError
from radapt.io import digest_of
from radapt.models import VLM

from ._answering import AnsweringTask, Goal, gradients_of, undefended_answers
from ._task import Answer, Task
from ._text_metrics import canonical, says_yes, vqa_accuracy

__all__ = ["TASK", "VQA"]

_LONGEST = {"accuracy": 5, "F1": 10}
_FREQUENT = 5
_TRIED = 20
"""Of the most frequent answers: whether one of them would do for all questions."""
_TARGETS = ("maybe", "Word")


class VQA(Task):
    """One question about each image, its questions in turn: the first image's first, the second's second...

    The metric is VQA accuracy (Antol et al. 2015), or F1 of the answer yes with accuracy beside it (POPE, Li et al.
    2023), with the share of answers that are those of the model without its defence on the clean image.

    Attacks go against each of the five most frequent right answers, then once more from the worst image, then towards
    "maybe" and "Word" (Schlarmann & Hein 2023).
    """

    name = "vqa"
    checked = 4

    def __init__(self, data: Dataset) -> None:
        if not data.questions:
            raise InputError(f"{data.name} has no questions (it is a set for {data.card.task})")
        super().__init__(data)
        self.own: dict[VLM, list[str]] = {}

    def asked(self, position: int) -> tuple[str, tuple[str, ...]]:
        """The question of a sample, and its right answers."""
        own = self.data.questions[position]
        question, *answers = own[position % len(own)]
        return question, tuple(answers)

    @property
    def content(self) -> str:
        return digest_of([self.data.content, max(map(len, self.right), default=0)])  # every image is attacked as often

    @cached_property
    def right(self) -> list[list[str]]:
        """The most frequent right answers of each sample."""
        # An empty answer of somebody counts in the score; there is nothing to drive a model away from.
        asked = (self.asked(position)[1] for position in range(len(self.data)))
        return [[text for text, _ in Counter(filter(None, own)).most_common(_FREQUENT)] for own in asked]

    def before(self, model: VLM) -> None:
        self.own.pop(model, None)
        undefended_answers(self.bind(model), self.own)

    def gradients(self, source: VLM) -> str:
        return gradients_of(source)

    def bind(self, model: VLM) -> _Bound:
        return _Bound(self, model)

    def truth(self, position: int) -> str:
        question, answers = self.asked(position)
        return f"{question} {Counter(filter(None, answers)).most_common(1)[0][0]}"

    def label(self, position: int) -> int:
        return int(says_yes(self.asked(position)[1][0])) if self.metric == "F1" else -1

    def constant(self, positions: Sequence[int]) -> tuple[str, float] | None:
        answers = [self.asked(position)[1] for position in positions]
        if self.metric == "F1":
            yes = sum(says_yes(own[0]) for own in answers)
            return max(("yes", float(yes)), ("no", float(len(answers) - yes)), key=lambda each: each[1])
        tried = [text for text, _ in Counter(text for own in answers for text in set(own)).most_common(_TRIED) if text]
        totals = {text: sum(vqa_accuracy(text, own) for own in answers) for text in tried}
        return max(totals.items(), key=lambda each: each[1], default=None)


class _Bound(AnsweringTask):
    def __init__(self, task: VQA, model: VLM) -> None:
        self._task = task
        prompts = [task.data.prompt(task.asked(position)[0]) for position in range(len(task.data))]
        super().__init__(model, task.data, prompts, low=task.low, max_new_tokens=_LONGEST[task.metric])
        self._right = task.right

    def _goals(self) -> list[Goal]:
        # Where one answer alone is right, the score is 0 as soon as that is not said.
        single = torch.tensor([len({canonical(text) for text in own}) == 1 for own in self._right], device="cpu")
        single &= torch.tensor(self._task.metric == "accuracy", device="cpu")
        number = max(map(len, self._right))
        each = [[own[at % len(own)] for own in self._right] for at in range(number)]
        away = [Goal(name=f"answer {at}", answers=answers, decisive=single) for at, answers in enumerate(each)]
        every = torch.ones(len(self._right), dtype=torch.bool, device="cpu")
        towards = [
            Goal(name=text, answers=[text] * len(self._right), targeted=True, decisive=every) for text in _TARGETS
        ]
        return [*away, Goal(name="again", again=True), *towards]

    def score(self, text: str, position: int) -> Answer:
        answers = self._task.asked(position)[1]
        same = float(canonical(text) == canonical(undefended_answers(self, self._task.own)[position]))
        if self._task.metric == "accuracy":
            return Answer(-1, vqa_accuracy(text, answers), text, {"relative": same})
        yes = says_yes(text)
        right = float(yes == says_yes(answers[0]))
        return Answer(int(yes), right, text, {"accuracy": right, "relative": same})


TASK = VQA
