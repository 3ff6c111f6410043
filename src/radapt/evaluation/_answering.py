"""What the tasks of generative models share: they are attacked answer by answer, and scored by what they then say."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from radapt.attacks import AnswerObjective, Attack, Objective, Outcome, merged, round_8bit, untouched
from radapt.data import Dataset
from radapt.models import VLM, Tokens, generative
from radapt.types import Flags, Index, PerSample, Pixels

from ._task import Answer, BoundTask, batches

__all__ = ["AnsweringTask", "Goal", "gradients_of", "undefended_answers"]

_HALF = torch.bfloat16
_BATCH = 32


@dataclass(frozen=True, eq=False)
class Goal:
    """One answer per sample of the dataset, that an attack drives the model away from, or towards.

    Args:
        name: enters the random numbers.
        answers: one per sample.
        targeted: whether the model is to say it.
        again: whether the attack begins at the worst image so far, with the answer that gave it, in full precision;
            such a goal has no answers of its own, and follows those that have.
        decisive: on which samples the score is zero once the goal is reached, so that a search may stop there
            (for an answer not to be said: where the model says exactly that about the clean image).
    """

    name: str
    answers: Sequence[str] = ()
    targeted: bool = False
    again: bool = False
    decisive: Flags | None = None


class AnsweringTask(BoundTask):
    """A generative model on a dataset.

    Every attack is run for each goal in turn, on the samples whose score is not low yet, and the per-sample worst image
    is kept: the pipeline of RobustVLM (Schlarmann & Hein 2023, arXiv:2308.10741, section 3.3), in batches. On a device
    that computes faster in bfloat16, the goals but the last ones use it for gradients.

    Args:
        model: the model.
        data: the dataset.
        prompts: what is asked of each sample.
        low: the highest score that an attack is content with.
        max_new_tokens: most tokens of an answer.
    """

    def __init__(self, model: VLM, data: Dataset, prompts: Sequence[str], *, low: float, max_new_tokens: int) -> None:
        super().__init__(model, data)
        self.speaker = generative(model)
        self.prompts, self.low, self.max_new_tokens = prompts, low, max_new_tokens
        self.asked = self.speaker.tokenize(prompts)

    @abstractmethod
    def _goals(self) -> list[Goal]:
        """What an attack goes for, in order; the first is that of :meth:`objective`."""

    @abstractmethod
    def score(self, text: str, position: int) -> Answer:
        """The score of what the model said about a sample."""

    @cached_property
    def goals(self) -> list[Goal]:
        """What an attack goes for, in order; the first is that of :meth:`objective`."""
        return self._goals()

    @cached_property
    def _tokens(self) -> Tokens:
        """All samples with the answers of all goals, goal by goal, all of one width."""
        answers = [text for goal in self.goals for text in goal.answers]
        return self.speaker.tokenize(list(self.prompts) * (len(answers) // len(self.prompts)), answers)

    def _towards(self, goal: Goal, block: Tensor, positions: Sequence[int], stop: bool) -> Objective:
        """The objective of a goal; ``block`` says whose answers are meant: how many goals have theirs before it."""
        at = torch.as_tensor(positions, dtype=torch.int64, device="cpu")
        rows = block * len(self.prompts) + at

        def scores(pixels: Pixels, index: Index) -> tuple[PerSample, Flags]:
            return self.speaker.answer_scores(pixels, self._tokens[rows[index.cpu()]])

        decisive = goal.decisive[at] if stop and goal.decisive is not None else None
        if decisive is not None and not goal.targeted:
            decisive &= self._says(rows)
        return AnswerObjective(scores, len(rows), targeted=goal.targeted, stop=decisive)

    def _says(self, rows: Tensor) -> Flags:
        """Whether the model, as it stands, says these answers about the clean images."""
        flags = []
        with torch.no_grad():
            for some in batches(len(rows), _BATCH):
                pixels = self.data.pixels(rows[some] % len(self.prompts)).to(self.model.device)
                flags.append(self.speaker.answer_scores(pixels, self._tokens[rows[some]])[1].cpu())
        return torch.cat(flags)

    def objective(self, positions: Sequence[int], *, stop: bool) -> Objective:
        return self._towards(
            self.goals[0], torch.zeros(len(positions), dtype=torch.int64, device="cpu"), positions, stop
        )

    def answer(self, pixels: Pixels, positions: Sequence[int]) -> list[Answer]:
        tokens = self.asked[torch.as_tensor(positions, dtype=torch.int64, device="cpu")]
        texts = self.speaker.generate(pixels.to(self.model.device), tokens, max_new_tokens=self.max_new_tokens)
        return [self.score(text, position) for text, position in zip(texts, positions, strict=True)]

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
        clean = pixels.to(self.model.device)

        def scores(images: Pixels, rows: Tensor) -> Tensor:
            answers = self.answers(images, [positions[row] for row in rows.tolist()], batch_size)
            return torch.tensor([answer.score for answer in answers], dtype=torch.float32, device="cpu")

        everything = torch.arange(len(positions), device="cpu")
        worst = scores(clean, everything)
        total = untouched(clean, (worst <= self.low).to(clean.device))
        best, block = torch.zeros(len(positions), dtype=torch.int64, device="cpu"), 0
        fast = _HALF if gradients_of(self.model) else None
        for number, goal in enumerate(self.goals):
            # Images for another model are attacked at least once: what fails here may be right there.
            rows = everything if number == 0 and not stop else (worst > self.low).nonzero().flatten()
            if not len(rows):
                break
            some = [positions[row] for row in rows.tolist()]
            outcome = attack(
                self._towards(goal, best[rows] if goal.again else torch.full_like(rows, block), some, stop),
                clean[rows],
                keys=[f"{keys[row]}/{goal.name}" for row in rows.tolist()],
                seed=seed,
                batch_size=batch_size,
                start=total.pixels[rows] if goal.again else None,
                precision=None if goal.again or goal.targeted else fast,
            )
            found = scores(outcome.pixels, rows)
            won = (found <= worst[rows]) | (number == 0 and not stop)
            outcome = replace(outcome, fooled=(found <= self.low).to(clean.device))
            total = merged(total, outcome, rows.to(clean.device), number, won.to(clean.device))
            worst[rows] = torch.where(won, found, worst[rows])
            if not goal.again:
                best[rows] = torch.where(won, block, best[rows])
                block += 1
        rounded = scores(round_8bit(total.pixels), everything) <= self.low
        fooled = (worst <= self.low).to(clean.device)
        return replace(total, fooled=fooled, fooled_8bit=rounded.to(clean.device) & fooled)


def gradients_of(model: VLM) -> str:
    """The precision of an attack's gradients on a model that generates text, where it is not that of the weights."""
    return "bfloat16" if model.device.type == "cuda" and model.dtype == torch.float32 else ""


def undefended_answers(bound: AnsweringTask, known: dict[VLM, list[str]]) -> list[str]:
    """What the model says about every clean image without what is attached to it; asked once."""
    model, data = bound.model, bound.data
    if model not in known:
        with model.undefended():
            texts = list[str]()
            for rows in batches(len(data), _BATCH):
                pixels, asked = data.pixels(rows).to(model.device), bound.asked[torch.tensor(rows, device="cpu")]
                texts += bound.speaker.generate(pixels, asked, max_new_tokens=bound.max_new_tokens)
            known[model] = texts
    return known[model]
