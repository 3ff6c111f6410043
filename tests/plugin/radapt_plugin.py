"""A package of somebody else that adds one member of every kind to radapt, through entry points alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radapt.adapters import Adapter, AdapterMethod, training_free
from radapt.analysis import Analysis
from radapt.attacks import ClassificationObjective, EmbeddingObjective, Evaluation, Objective, SearchAttack, State
from radapt.data import Dataset
from radapt.evaluation import Answer, BoundTask, Task
from radapt.finetuning import Method, Twin
from radapt.models import VLM, Contrastive, zero_shot
from radapt.results.plots import Curves, Line, Plot

CARD = {
    "name": "bright-shapes",
    "title": "Bright shapes",
    "task": "zero-shot",
    "source": "shapeworld",
    "metric": "top-1",
    "licence": "made here",
    "citation": "none",
    "description": "Shapes of the embedded world.",
    "tests": "nothing in particular",
    "options": {"label": "shape"},
    "templates": ["a bright {c}."],
    "n": 20,
}


@dataclass(frozen=True, kw_only=True)
class RandomSign(SearchAttack):
    """Every value moves by eps, up or down by chance; no gradient, and nothing to search."""

    name: ClassVar[str] = "random-sign"
    needs_gradient: ClassVar[bool] = False
    steps: int = 1

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> State:
        return {"signs": 2.0 * torch.randint(2, tuple(shape), generator=generator) - 1}

    def start(self, clean: Tensor, drawn: State) -> tuple[Tensor, State]:
        return self.ball.project(clean + self.eps * drawn["signs"], clean), {}

    def step(self, clean: Tensor, current: Evaluation, state: State, iteration: Tensor) -> tuple[Tensor, State]:
        return current.points, state


class MeanColour(nn.Module):
    """A model whose only feature is the mean colour of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(3, 12, bias=False)


class MeanColourVLM(Contrastive):
    """What radapt sees of it."""

    def image_parameters(self) -> dict[str, Tensor]:
        return dict(self.model.named_parameters())

    @property
    def tower(self) -> Any:
        raise NotImplementedError

    @property
    def defended(self) -> bool:
        return False

    def encode_image(self, pixels: Tensor) -> Tensor:
        return self.model.projection(self.transformed(pixels).mean((2, 3)))

    @property
    def logit_scale(self) -> float:
        return 10.0

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return torch.eye(12)[[len(text) % 12 for text in texts]]

    def preprocess(self, image: Any) -> Tensor:
        raise NotImplementedError

    def save_pretrained(self, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
        raise NotImplementedError


class MeanColourFamily:
    """The model family: which types it takes, and how they are loaded."""

    MODEL_TYPES = ("MeanColour",)
    LOADS = ("MeanColour",)

    @staticmethod
    def load(model: MeanColour, *, name: str, **_: Any) -> MeanColourVLM:
        return MeanColourVLM(name, model, image_size=(48, 48))


class TopTwo(Task):
    """Right where the true class is among the two likeliest ones."""

    name = "top-two"

    @property
    def metric(self) -> str:
        return "top-2"

    def bind(self, model: VLM) -> BoundTask:
        return _BoundTopTwo(model, self.data)

    def truth(self, position: int) -> str:
        return self.data.classes[int(self.data.labels[position])]


class _BoundTopTwo(BoundTask):
    def __init__(self, model: VLM, data: Dataset) -> None:
        super().__init__(model, data)
        self.scorer = zero_shot(model)
        self.classifier = self.scorer.classifier(data.prompts)

    def logits(self, pixels: Tensor) -> Tensor:
        return self.scorer.logits(pixels, self.classifier)

    def objective(self, positions: Sequence[int], *, stop: bool) -> Objective:
        labels = self.data.labels[torch.as_tensor(positions)]
        # An attack must not end where the first guess is wrong: the second may be right.
        return ClassificationObjective(self.logits, labels, len(self.classifier), stop=False)

    def answer(self, pixels: Tensor, positions: Sequence[int]) -> list[Answer]:
        with torch.no_grad():
            likeliest = self.logits(pixels).topk(2, 1).indices
        labels = self.data.labels[torch.as_tensor(positions)]
        right = (likeliest == labels[:, None]).any(1)
        return [
            Answer(int(first), float(keep), self.data.classes[int(first)])
            for first, keep in zip(likeliest[:, 0], right, strict=True)
        ]


class CleanOnly(Method):
    """Keeps the embedding where it is, on clean images; the attack is there, but its images are not used."""

    name = "clean-only"
    needs_labels = False

    def objective(self, twin: Twin, rows: Tensor, clean: Tensor) -> Objective:
        with torch.no_grad():
            reference = twin.original.encode_image(clean)
        return EmbeddingObjective(twin.tuned.encode_image, reference)

    def loss(self, twin: Twin, rows: Tensor, clean: Tensor, adversarial: Tensor) -> Tensor:
        with torch.no_grad():
            reference = twin.original.encode_image(clean)
        return F.mse_loss(twin.tuned.encode_image(clean), reference)


def grey_anchor(model: VLM, *, alpha: float = 0.5) -> Adapter:
    """An anchor of a grey image, without a filter."""
    return training_free(model, alpha=alpha, cutoff=None, image="grey")


GREY_ANCHOR = AdapterMethod(grey_anchor)


@dataclass(frozen=True, kw_only=True)
class WeightChange(Analysis):
    """How far the weights of the twins are from those of the original."""

    name: ClassVar[str] = "weight-change"
    power: int = 2

    def __call__(
        self, models: Mapping[str, VLM], data: Dataset, *, folder: Path | None = None, quiet: bool = False
    ) -> list[Plot]:
        first, *twins = models.values()
        original = list(first.image_parameters().values())
        changes = [
            sum(
                float((a - b).abs().pow(self.power).sum())
                for a, b in zip(original, t.image_parameters().values(), strict=True)
            )
            for t in twins
        ]
        line = Line(name="change", x=tuple(map(float, range(len(changes)))), y=tuple(changes))
        return [Curves(title="Change of the weights", x_label="twin", y_label="distance", lines=(line,))]
