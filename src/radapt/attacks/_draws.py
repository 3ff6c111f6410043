"""The random numbers of searches: they hang on the seed, the attack, the sample's key and the restart only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from radapt.attacks._search import Search, State

__all__ = ["draws"]


def draws(search: Search, shape: Sequence[int], seed: int, jobs: Sequence[tuple[str, int]]) -> State:
    """What a search draws for some samples and restarts, one row for each, on the CPU.

    Args:
        search: the search.
        shape: of an image, 3 x height x width.
        seed: seed of all random numbers.
        jobs: key of the sample, and number of the restart.
    """
    drawn = [search.draw(shape, _generator(seed, search.name, key, restart)) for key, restart in jobs]
    return {name: torch.stack([each[name] for each in drawn]) for name in drawn[0]}


def _generator(seed: int, attack: str, key: str, restart: int) -> torch.Generator:
    words = "\0".join((str(seed), attack, key, str(restart)))
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(words.encode()).digest()[:4], "big"))
