"""Retrieval: captions of an image among those of all images, and images of a caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from radapt.attacks import Attack, ClassificationObjective, Ensemble, Objective, Outcome, merged, round_8bit
from radapt.data import Dataset
from radapt.errors import InputError
from radapt.io import digest_of
from radapt.models import VLM, contrastive
from radapt.results import Sample
from radapt.types import Logits, Pixels

from ._task import Answer, BoundTask, Task, check_captions

__all__ = ["TASK", "Retrieval"]

_RANKS = (1, 5, 10)
_ALSO = (*(f"recall@{k}" for k in _RANKS[1:]), *(f"text to image recall@{k}" for k in _RANKS))
_BATCH = 32


class Retrieval(Task):
    """Recall at 1, 5 and 10, from image to caption and from caption to image.

    An image is found at ``k`` where one of its own captions is among the ``k`` nearest; a caption of it where the
    image is among the ``k`` nearest, its result being the mean over the captions. An attack changes one image; the rest
    of the gallery stays as it is, so that the result of a sample does not depend on what happened to the others. It
    drives the image away from its own captions with its whole budget, as a worse rank is worse at 5 and at 10, too. An
    ensemble does that with its first attack; where an own caption is nearest all the same, its whole chain goes for it.
    """

    name = "retrieval"
    revision = 2

    def __init__(self, data: Dataset) -> None:
        check_captions(data, "equal images count as lost to each other")
        if len(data) < 2:
            raise InputError(f"{data.name}: retrieval needs at least two images, got {len(data)}")
        super().__init__(data)
        self.context = {"gallery": len(data)}

    @property
    def content(self) -> str:
        return digest_of([self.data.content, *self.data.digests])  # the whole gallery

    def lost(self, clean: Sample) -> bool:
        return not clean.score and not any(clean.also.values())

    def bind(self, model: VLM) -> BoundTask:
        return _Bound(model, self.data)

    def truth(self, position: int) -> str:
        return self.data.captions[position][0]


class _Bound(BoundTask):
    def __init__(self, model: VLM, data: Dataset) -> None:
        super().__init__(model, data)
        self._encoder = contrastive(model)
        self._owner = torch.tensor([at for at, texts in enumerate(data.captions) for _ in texts], device="cpu")
        flat = [text for texts in data.captions for text in texts]
        parts = [self._encoder.encode_text(flat[first : first + 256]) for first in range(0, len(flat), 256)]
        self._captions = F.normalize(torch.cat(parts).float(), dim=-1)

    @cached_property
    def _gallery(self) -> Tensor:
        """Unit embeddings of the clean images, by the model as it stands when this is first asked."""
        return torch.cat([self._embed(part) for part in self.data.pixels(range(len(self.data))).split(_BATCH)])

    def _embed(self, pixels: Pixels) -> Tensor:
        with torch.no_grad():
            return F.normalize(self.model.encode_image(pixels.to(self.model.device)).float(), dim=-1)

    def logits(self, pixels: Pixels) -> Logits:
        """For every image of the dataset, the scaled cosine of the nearest of its captions."""
        embedding = F.normalize(self.model.encode_image(pixels).float(), dim=-1)
        cosine = embedding @ self._captions.T
        owner = self._owner.to(cosine.device).expand_as(cosine)
        best = torch.full((len(cosine), len(self.data)), -torch.inf, dtype=cosine.dtype, device=cosine.device)
        return self._encoder.logit_scale * best.scatter_reduce(1, owner, cosine, "amax")

    def objective(self, positions: Sequence[int], *, stop: bool) -> Objective:
        labels = torch.as_tensor(positions, dtype=torch.int64, device="cpu")
        return ClassificationObjective(self.logits, labels, len(self.data), stop=False)

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
        """As for every task; an ensemble, whose later attacks take what stands, then attacks what is still found."""
        total = super().attack(attack, pixels, positions, keys=keys, seed=seed, batch_size=batch_size, stop=stop)
        found = (~total.fooled).nonzero().flatten().tolist()
        if not (stop and found and isinstance(attack, Ensemble)):
            return total
        own = [positions[row] for row in found]
        objective = ClassificationObjective(self.logits, own, len(self.data))
        names = [keys[row] for row in found]
        left = pixels[found].to(self.model.device)
        later = attack(objective, left, keys=names, seed=seed, batch_size=batch_size)
        later = self.judged(later, own, batch_size)
        return merged(total, later, torch.tensor(found, device=total.pixels.device), 1, later.fooled)

    def judged(self, outcome: Outcome, positions: Sequence[int], batch_size: int) -> Outcome:
        def lost(images: Pixels) -> Tensor:
            answers = self.answers(images, positions, batch_size)
            return torch.tensor([answer.score == 0 for answer in answers], device=images.device)

        return replace(outcome, fooled=lost(outcome.pixels), fooled_8bit=lost(round_8bit(outcome.pixels)))

    def answer(self, pixels: Pixels, positions: Sequence[int]) -> list[Answer]:
        return [self._one(unit, position) for unit, position in zip(self._embed(pixels), positions, strict=True)]

    def _one(self, unit: Tensor, position: int) -> Answer:
        cosine = self._captions @ unit
        if not cosine.isfinite().all():  # no comparison with it means anything
            return Answer(-1, 0.0, "", dict.fromkeys(_ALSO, 0.0), finite=False)
        own = self._owner.to(cosine.device) == position
        nearest = int(torch.where(own, cosine, -torch.inf).argmax())
        # A tie counts as lost: what would then be shown first is a matter of chance.
        rank = int((cosine[~own] >= cosine[nearest]).sum())
        gallery = self._gallery.clone()
        gallery[position] = unit
        near = self._captions[own] @ gallery.T
        ranks = (near >= near[:, [position]]).sum(1) - 1
        scores = [*(float(rank < k) for k in _RANKS[1:]), *(float((ranks < k).float().mean()) for k in _RANKS)]
        also = dict(zip(_ALSO, scores, strict=True))
        first = int(cosine.argmax())
        texts = [text for texts in self.data.captions for text in texts]
        return Answer(rank, float(rank == 0), texts[first], also)


TASK = Retrieval
