"""Captioning: CIDEr of what a generative model says about an image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from radapt.data import Dataset
from radapt.io import digest_of
from radapt.models import VLM

from ._answering import AnsweringTask, Goal, gradients_of, undefended_answers
from ._task import Answer, Task, check_captions
from ._text_metrics import Cider, bleu, words

__all__ = ["TASK", "Captioning"]

_LOW = 0.1
_LONGEST = 20
_REFERENCES = 5


class Captioning(Task):
    """CIDEr, with BLEU-4, the share of answers that are a true caption word by word, and the relative score beside it.

    The relative score is the CIDEr of an answer against what the model without its defence says about the clean
    image, divided by the CIDEr of that sentence against itself: 1 where a defended model says the very same.

    Attacks go against each of five true captions, then once more from the worst image (Schlarmann & Hein 2023).
    """

    name = "captioning"
    low = _LOW
    checked = 4

    def __init__(self, data: Dataset) -> None:
        check_captions(data, "each is scored by its own captions alone")
        super().__init__(data)
        self.own: dict[VLM, list[str]] = {}

    @cached_property
    def cider(self) -> Cider:
        """CIDEr with the word weights of the dataset."""
        return Cider(self.data.corpus or self.data.captions)

    @property
    def content(self) -> str:
        texts = self.data.captions  # what words weigh, and how many captions every image is attacked with
        return digest_of([self.data.content, self.data.corpus or texts, _goals_of(texts)])

    def before(self, model: VLM) -> None:
        self.own.pop(model, None)
        undefended_answers(self.bind(model), self.own)

    def gradients(self, source: VLM) -> str:
        return gradients_of(source)

    def bind(self, model: VLM) -> _Bound:
        return _Bound(self, model)

    def truth(self, position: int) -> str:
        return self.data.captions[position][0]


class _Bound(AnsweringTask):
    def __init__(self, task: Captioning, model: VLM) -> None:
        prompts = [task.data.prompt()] * len(task.data)
        super().__init__(model, task.data, prompts, low=_LOW, max_new_tokens=_LONGEST)
        self._task, self._cider = task, task.cider

    def _goals(self) -> list[Goal]:
        texts = self.data.captions
        each = [[own[number % len(own)] for own in texts] for number in range(_goals_of(texts))]
        goals = [Goal(name=f"caption {number}", answers=answers) for number, answers in enumerate(each)]
        return [*goals, Goal(name="again", again=True)]

    def score(self, text: str, position: int) -> Answer:
        references, own = self.data.captions[position], undefended_answers(self, self._task.own)[position]
        itself = self._cider(own, [own])
        relative = self._cider(text, [own]) / itself if itself else float(text == own)
        exact = float(words(text) in map(words, references))
        also = {"BLEU-4": bleu(text, references), "exact": exact, "relative": min(1.0, relative)}
        return Answer(-1, self._cider(text, references), text, also)


def _goals_of(captions: Sequence[Sequence[str]]) -> int:
    return min(_REFERENCES, max(map(len, captions), default=0))


TASK = Captioning
