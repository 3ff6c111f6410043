"""The random numbers of searches: they hang on the seed, the attack, the sample's key and the restart only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from radapt.attacks._search import Search, State

__all__ = ["draws"]


def draws(search: Search, seed: int, jobs: Sequence[tuple[str, int]], at: Tensor, images: Tensor) -> State:
    """What a search draws for some samples and restarts, one row per image; zeros where no job begins.

    Args:
        search: the search.
        seed: seed of all random numbers.
        jobs: key of the sample, and number of the restart.
        at: which of the images each job is for.
        images: one per slot; only their shape and device matter.
    """
    drawn = [search.draw(images.shape[1:], _generator(seed, search.name, key, restart)) for key, restart in jobs]
    rows = {name: torch.stack([each[name] for each in drawn]).to(images.device) for name in drawn[0]}
    blank = {name: each.new_zeros(len(images), *each.shape[1:]) for name, each in rows.items()}
    return {name: blank[name].index_copy(0, at, each) for name, each in rows.items()}


def _generator(seed: int, attack: str, key: str, restart: int) -> torch.Generator:
    words = "\0".join((str(seed), attack, key, str(restart)))
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(words.encode()).digest()[:4], "big"))
