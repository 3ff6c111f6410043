"""What models say about one image, and what an attack drives them away from: for class names, and for questions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from threading import RLock
from typing import NamedTuple, final

import torch

from radapt.attacks import AnswerObjective, ClassificationObjective, Objective, Score
from radapt.data import PROMPTS, fill
from radapt.errors import InputError
from radapt.models import VLM, Generative, generative, zero_shot
from radapt.registry import nearest
from radapt.types import Classifier, Flags, Index, PerSample, Pixels

from ._words import class_names, one_text, templates

__all__ = ["Answer", "Asked", "Asker", "Words"]

_SHOWN, _KEPT, _LONGEST = 6, 64, 12


class Answer(NamedTuple):
    """Something that a model may say, and how sure it is of it, from 0 to 1; None where it is not known."""

    text: str
    share: float | None


class Words(NamedTuple):
    """What was typed: class names and templates, or a question; and the right answer, empty where it is not known."""

    classes: str
    templates: str
    question: str
    right: str


class Asked(ABC):
    """What a model is asked about an image."""

    @abstractmethod
    def answers(self, model: VLM, pixels: Pixels) -> list[Answer]:
        """What the model says about one image, the likeliest first."""

    @abstractmethod
    def objective(self, model: VLM, pixels: Pixels, right: str, *, stop: bool) -> Objective:
        """What an attack maximises that drives the model away from the right answer.

        Args:
            model: the model whose gradients the attack has.
            pixels: the image.
            right: the right answer.
            stop: whether the attack is over once this model is fooled; an attack for another one takes all its steps.
        """

    def says(self, score: Score) -> str:
        """What a score of the objective tells of the answer, as far as it does."""
        return ""

    @abstractmethod
    def check(self, right: str) -> str:
        """The right answer in the form in which models give it.

        Raises:
            InputError: it is none that they could give.
        """


@final
class _Classes(Asked):
    """Which of some classes an image shows."""

    def __init__(self, names: tuple[str, ...], classifier: Classifier) -> None:
        self.names, self.classifier = names, classifier

    def answers(self, model: VLM, pixels: Pixels) -> list[Answer]:
        with torch.no_grad():
            shares = zero_shot(model).logits(pixels.to(model.device), self.classifier)[0].softmax(0)
        best = shares.argsort(descending=True)[:_SHOWN].tolist()
        return [Answer(self.names[at], float(shares[at])) for at in best]

    def objective(self, model: VLM, pixels: Pixels, right: str, *, stop: bool) -> Objective:
        logits = partial(zero_shot(model).logits, classifier=self.classifier)
        return ClassificationObjective(logits, [self.names.index(right)], len(self.names), stop=stop)

    def says(self, score: Score) -> str:
        return "" if score.logits is None else self.names[int(score.logits[0].argmax())]

    def check(self, right: str) -> str:
        if right not in self.names:
            raise InputError(
                f"the right answer must be one of the class names, got {right!r}{nearest(right, self.names)}"
            )
        return right


@final
class _Question(Asked):
    """What a model that generates text answers to a question."""

    def __init__(self, question: str, lock: RLock) -> None:
        self.prompt, self._lock = PROMPTS["vqa"].replace("{q}", question), lock

    def answers(self, model: VLM, pixels: Pixels) -> list[Answer]:
        speaker, pixels = generative(model), pixels.to(model.device)
        with self._lock:  # the tokenizer is one, whoever asks
            text = speaker.generate(pixels, [self.prompt], max_new_tokens=_LONGEST)[0]
            tokens = speaker.tokenize([self.prompt], [text]) if text else None
        if tokens is None:
            return [Answer("(nothing)", None)]
        with torch.no_grad():
            return [Answer(text, float((-speaker.answer_scores(pixels, tokens)[0][0]).exp()))]

    def objective(self, model: VLM, pixels: Pixels, right: str, *, stop: bool) -> Objective:
        speaker = generative(model)
        with self._lock:
            tokens = speaker.tokenize([self.prompt], [right])

        def scores(images: Pixels, index: Index) -> tuple[PerSample, Flags]:
            return speaker.answer_scores(images, tokens)

        if not stop:
            return AnswerObjective(scores, 1)
        # Where the model does not say exactly that about the clean image, there is no moment at which it is fooled.
        with torch.no_grad():
            given = scores(pixels.to(model.device), torch.zeros(1, dtype=torch.int64))[1].cpu()
        return AnswerObjective(scores, 1, stop=given)

    def check(self, right: str) -> str:
        return right


class Asker:
    """Turns what was typed into what a model is asked, and keeps what texts are encoded to."""

    def __init__(self) -> None:
        self._locks: dict[str, RLock] = {}
        self._lock = RLock()
        self._kept: dict[tuple[str, tuple[str, ...], tuple[str, ...]], Classifier] = {}

    def asked(self, model: VLM, words: Words) -> Asked:
        """What a model is asked.

        Args:
            model: without a defence.
            words: what was typed.

        Raises:
            InputError: there are no classes or no question, or too many.
        """
        with self._lock:
            lock = self._locks.setdefault(model.name, RLock())
        if isinstance(model, Generative):
            question = one_text("question", words.question)
            if not question:
                raise InputError("ask a question about the picture, such as: what shape is it?")
            return _Question(question, lock)
        names, sentences = class_names(words.classes), templates(words.templates)
        key = model.name, names, sentences
        with lock:
            if key not in self._kept:
                prompts = [[fill(sentence, name) for sentence in sentences] for name in names]
                if len(self._kept) >= _KEPT:
                    self._kept.clear()
                self._kept[key] = zero_shot(model).classifier(prompts)
            return _Classes(names, self._kept[key])
