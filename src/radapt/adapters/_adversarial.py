"""Adversarial training on a few thousand images: batches, the adversary, and the two losses that adapters minimise."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radapt.attacks import ClassificationObjective, EmbeddingObjective, Objective, labels_of
from radapt.attacks.pgd import PGD
from radapt.data import Dataset, warn_of_test_split
from radapt.errors import InputError, shown
from radapt.fingerprint import digest
from radapt.models import VLM, load, zero_shot
from radapt.training import epoch_rows
from radapt.types import AnchorLoss, Classifier, Embeddings, Labels, Pixels

__all__ = ["TrainingImages", "loaded", "named"]


@dataclass(eq=False)
class TrainingImages:
    """The images that an adapter is trained on, in batches that depend on (seed, step) only.

    Args:
        original: the model without any adapter; its embeddings of the clean images are the reference.
        clean: images in [0, 1], N x 3 x H x W; or a dataset, of which each batch is read when its turn comes.
        labels, classifier: true classes and unit text embeddings, for the loss ``text``; None for ``embedding``.
        attack: the adversary.
        batch_size, seed: of the batches; the seed is the adversary's, too.

    Raises:
        InputError: no images, labels that do not match, or labels for a loss that takes none.
        ModelError: images of another size than the model's.

    Warns:
        UserWarning: the images are of a test split.
    """

    original: VLM
    clean: Pixels | Dataset
    labels: Labels | None
    classifier: Classifier | None
    attack: PGD
    batch_size: int
    seed: int
    reference: Embeddings = field(init=False)

    def __post_init__(self) -> None:
        given: object = self.clean
        if not isinstance(given, Tensor | Dataset):
            got = type(given).__name__
            raise InputError(f"pixels must be a tensor, N x 3 x H x W in [0, 1], or a dataset, got {got}")
        if len(self.clean) == 0:
            raise InputError("no training images; the paper takes 2,000")
        self.original.check_size(self.pixels(torch.arange(1, device="cpu")))
        if isinstance(self.clean, Dataset):
            warn_of_test_split(self.clean, level=5)
        if self.labels is not None:
            self.labels = labels_of(self.labels, classes=None if self.classifier is None else len(self.classifier))
        if self.labels is not None and len(self.labels) != len(self.clean):
            counts = f"{len(self.labels)} labels for {len(self.clean)} images"
            raise InputError(f"there must be one label per image, got {counts}")
        device = self.original.device
        with torch.no_grad():
            self.reference = torch.cat(
                [self.original.encode_image(self.pixels(part).to(device)).float() for part in self.parts()]
            )

    def facts(self) -> dict[str, object]:
        """What tells a training on these images from others."""
        data = {"labels": self.labels, "classifier": self.classifier}
        images = digest([self.clean] if isinstance(self.clean, Tensor) else map(self.pixels, self.parts()))
        return {"images": images, **{name: None if each is None else digest([each]) for name, each in data.items()}}

    def pixels(self, rows: Tensor) -> Pixels:
        """Clean images of some rows."""
        return self.clean[rows] if isinstance(self.clean, Tensor) else self.clean.pixels(rows)

    def parts(self) -> list[Tensor]:
        """All rows, in parts of the size of a batch."""
        return list(torch.arange(len(self.clean), device="cpu").split(self.batch_size))

    def rows(self, step: int) -> Tensor:
        """Rows of a step: a fresh permutation of all images every epoch."""
        total = len(self.clean)
        return torch.from_numpy(epoch_rows(step, min(self.batch_size, total), total, self.seed))

    def used(self, steps: int) -> Tensor:
        """The rows that some steps reach, each once and in order."""
        reached = torch.zeros(len(self.clean), dtype=torch.bool, device="cpu")
        for step in range(steps):
            reached[self.rows(step)] = True
            if reached.all():
                break
        return reached.nonzero()[:, 0]

    def adversarial(self, model: VLM, rows: Tensor, stream: str) -> Pixels:
        """Adversarial images of some rows against a model as it stands, for the loss that its training minimises."""
        keys = [f"{stream}/{row}" for row in rows.tolist()]
        pixels = self.pixels(rows).to(model.device)
        objective = self._objective(model, rows)
        return self.attack.perturb(objective, pixels, keys=keys, seed=self.seed, batch_size=len(rows))

    def _objective(self, model: VLM, rows: Tensor) -> Objective:
        if self.classifier is None or self.labels is None:
            return EmbeddingObjective(model.encode_image, self.reference[rows])
        logits = partial(zero_shot(model).logits, classifier=self.classifier)
        return ClassificationObjective(logits, self.labels[rows], len(self.classifier), stop=False)

    def loss(self, model: VLM, pixels: Pixels, rows: Tensor) -> Tensor:
        """Embedding: ||f(x_adv) - f_original(x)||^2 (as FARE, eq. 3); text: cross-entropy of the logits (as TeCoA)."""
        if self.classifier is not None and self.labels is not None:
            logits = zero_shot(model).logits(pixels, self.classifier)
            return F.cross_entropy(logits, self.labels[rows].to(logits.device))
        return (model.encode_image(pixels).float() - self.reference[rows]).square().sum(1).mean()


def loaded(
    model: str | Path | VLM | nn.Module, loss: AnchorLoss, labels: Labels | None, classifier: Classifier | None
) -> VLM:
    """The model to be trained on, where the loss has what it needs.

    Raises:
        InputError: the loss ``text`` lacks labels or a classifier, or ``embedding`` was given some.
    """
    if {labels is not None, classifier is not None} != {loss == "text"}:
        raise InputError(
            "loss='text' needs labels and a classifier (model.classifier(prompts)); 'embedding' takes neither"
        )
    if classifier is not None and not isinstance(classifier, Tensor):
        raise InputError(
            f"the classifier must be a tensor, as model.classifier(prompts) gives it; got {shown(classifier)}"
        )
    return model if isinstance(model, VLM) else load(model)


def named(pixels: Pixels | Dataset) -> dict[str, object]:
    """Which dataset and split training images are of, where they come as a dataset."""
    return {} if isinstance(pixels, Tensor) else {"data": pixels.name, "split": pixels.split}
