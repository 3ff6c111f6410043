"""What a method of adversarial fine-tuning is, and what it sees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from radapt.attacks import ClassificationObjective, Objective
from radapt.data import Dataset
from radapt.models import VLM, zero_shot
from radapt.registry import Registry
from radapt.training import Dual
from radapt.types import Classifier, Embeddings, Pixels

from ._recipe import Recipe

__all__ = ["REGISTRY", "Method", "Twin", "make"]


REGISTRY = Registry("radapt.finetuning", "fine-tuning method", "METHOD")


@dataclass(frozen=True, kw_only=True)
class Twin:
    """What a method sees: the original model, its copy in training, the images and their labels, and the parameters
    of its multipliers, where it has any."""

    original: VLM
    tuned: VLM
    data: Dataset
    classifier: Classifier
    multipliers: Mapping[str, Tensor] = field(default_factory=dict)
    _seen: list[tuple[Pixels, Embeddings]] = field(default_factory=list, init=False, repr=False)

    def reference(self, clean: Pixels) -> Embeddings:
        """The original's embeddings of clean images in float32; of the same batch as at the last call, those."""
        if not self._seen or self._seen[0][0] is not clean:
            with torch.no_grad():
                self._seen[:] = [(clean, self.original.encode_image(clean).float())]
        return self._seen[0][1]

    def entropy(self, rows: Tensor) -> Objective:
        """Cross-entropy of the zero-shot logits on these rows, as an attack maximises it with its whole budget."""
        logits = partial(zero_shot(self.tuned).logits, classifier=self.classifier)
        return ClassificationObjective(logits, self.data.labels[rows], len(self.classifier), stop=False)


class Method(ABC):
    """A method of adversarial fine-tuning: what its attack maximises and what its training minimises.

    Attributes:
        name: its name on the command line.
        needs_labels: whether the images must have labels.
        recipes: settings by the name of a recipe: ``published`` for what its authors train with, ``micro`` for the
            micro models.
        updates: optimiser steps on every batch of adversarial images.
    """

    name: ClassVar[str]

    needs_labels: ClassVar[bool]

    recipes: ClassVar[Mapping[str, Recipe]] = {}

    updates: int = 1

    @abstractmethod
    def objective(self, twin: Twin, rows: Tensor, clean: Pixels) -> Objective:
        """What the inner attack maximises on these rows."""

    @abstractmethod
    def loss(self, twin: Twin, rows: Tensor, clean: Pixels, adversarial: Pixels) -> Tensor:
        """What the training minimises on these rows."""

    def multipliers(self, original: VLM, seed: int) -> Dual | None:
        """Parameters that are trained beside the model, on its device; the twin holds them as ``multipliers``."""
        return None


def make(name: str) -> Method:
    """A method by name; an unknown one raises ``SettingsError`` with a suggestion."""
    method: Method = REGISTRY.get(name)()
    return method
