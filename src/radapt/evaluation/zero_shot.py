"""Zero-shot classification: the class whose prompts are nearest to the image (Radford et al. 2021)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial

import torch

from radapt.attacks import ClassificationObjective, Objective
from radapt.data import Dataset
from radapt.errors import InputError
from radapt.models import VLM, zero_shot
from radapt.types import Pixels

from ._task import Answer, BoundTask, Task

__all__ = ["TASK", "ZeroShot"]


class ZeroShot(Task):
    """Top-1 accuracy over the classes of a dataset."""

    name = "zero-shot"

    def __init__(self, data: Dataset) -> None:
        if not data.classes:
            raise InputError(f"{data.name} has no classes (it is a set for {data.card.task}); zero-shot needs them")
        super().__init__(data)

    def bind(self, model: VLM) -> BoundTask:
        return _Bound(model, self.data)

    def truth(self, position: int) -> str:
        return self.data.classes[self.label(position)]

    def label(self, position: int) -> int:
        return int(self.data.labels[position])

    def constant(self, positions: Sequence[int]) -> tuple[str, float] | None:
        label, count = Counter(map(self.label, positions)).most_common(1)[0]
        return self.data.classes[label], float(count)


class _Bound(BoundTask):
    def __init__(self, model: VLM, data: Dataset) -> None:
        super().__init__(model, data)
        self._scorer = zero_shot(model)
        self.classifier = self._scorer.classifier(data.prompts)

    def objective(self, positions: Sequence[int], *, stop: bool) -> Objective:
        logits = partial(self._scorer.logits, classifier=self.classifier)
        labels = self.data.labels[torch.as_tensor(positions, dtype=torch.int64, device="cpu")]
        return ClassificationObjective(logits, labels, len(self.classifier), stop=stop)

    def answer(self, pixels: Pixels, positions: Sequence[int]) -> list[Answer]:
        with torch.no_grad():
            logits = self._scorer.logits(pixels.to(self.model.device), self.classifier).cpu()
        labels = self.data.labels[torch.as_tensor(positions, dtype=torch.int64, device="cpu")]
        right = logits.gather(1, labels[:, None]).squeeze(1)
        # A tie counts as wrong, as it does for the attack: what the model would say is then a matter of chance.
        best, rival = logits.scatter(1, labels[:, None], -torch.inf).max(1)
        correct = right > best
        predictions = torch.where(correct, labels, rival).tolist()
        finite = ~logits.isnan().any(1)
        return [
            Answer(prediction, float(keep), self.data.classes[prediction], finite=valid)
            for prediction, keep, valid in zip(predictions, correct.tolist(), finite.tolist(), strict=True)
        ]


TASK = ZeroShot
