"""Tokens: prompts and answers as a language model reads them, and how likely it finds the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from radapt.types import Flags, Index, PerSample

__all__ = ["Tokens", "likelihood"]


@dataclass(frozen=True, eq=False)
class Tokens:
    """Prompts and answers as token numbers; in all rows, prompts end and answers begin at the same column.

    Args:
        ids: rows x columns, with one place for the image in each row; padded on the left of the prompt and on the right
            of the answer.
        mask: which of them are no padding.
        answer: number of columns, the last ones, that hold the answers.
    """

    ids: Int[Tensor, "rows columns"]
    mask: Bool[Tensor, "rows columns"]
    answer: int

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: Index | slice) -> Tokens:
        """Some of the rows."""
        return Tokens(self.ids[rows], self.mask[rows], self.answer)


def likelihood(logits: Tensor, ids: Tensor, mask: Tensor, ends: Sequence[int] = ()) -> tuple[PerSample, Flags]:
    """Loss of the answers at the end of the tokens, and whether greedy decoding gives them.

    See :meth:`radapt.models.Generative.answer_scores`.

    Args:
        logits: at the last token of the prompts and at those of the answers, rows x (answer + 1) x vocabulary.
        ids, mask: all tokens, and which of them are no padding.
        ends: the tokens that end an answer. Where one of them is to come, any of them will do: the loss is that of all
            of them together.
    """
    ahead, columns = logits[:, :-1].float(), logits.shape[1] - 1
    ids, real = ids[:, -columns:], mask[:, -columns:]
    loss, greedy = F.cross_entropy(ahead.transpose(1, 2), ids, reduction="none"), ahead.detach().argmax(2)
    hit = greedy == ids
    if len(ends) > 1:
        which = torch.tensor(ends, device=ids.device)
        ending = torch.isin(ids, which)
        loss = torch.where(ending, ahead.logsumexp(2) - ahead[..., which].logsumexp(2), loss)
        hit = torch.where(ending, torch.isin(greedy, which), hit)
    mean = torch.where(real, loss, 0).sum(1) / real.sum(1)
    return mean, (hit | ~real).all(1)
