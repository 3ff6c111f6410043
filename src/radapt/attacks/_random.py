"""The random numbers of searches: they depend on the seed, the attack, the sample's key and the restart only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from ._search import Search, State

__all__ = ["random_state"]


def random_state(search: Search, seed: int, restarts: Sequence[tuple[str, int]], rows: Tensor, images: Tensor) -> State:
    """What a search draws for some restarts, one row per image; zeros where none begins.

    Args:
        search: the search.
        seed: seed of all random numbers.
        restarts: key of the sample, and number of the restart.
        rows: which of the images each restart is for.
        images: one per slot; only their shape and device matter.
    """
    drawn = [search.draw(images.shape[1:], _generator(seed, search.name, key, number)) for key, number in restarts]
    stacked = {name: torch.stack([each[name] for each in drawn]).to(images.device) for name in drawn[0]}
    blank = {name: each.new_zeros(len(images), *each.shape[1:]) for name, each in stacked.items()}
    return {name: blank[name].index_copy(0, rows, each) for name, each in stacked.items()}


def _generator(seed: int, attack: str, key: str, restart: int) -> torch.Generator:
    words = "\0".join((str(seed), attack, key, str(restart)))
    return torch.Generator("cpu").manual_seed(int.from_bytes(hashlib.sha256(words.encode()).digest()[:4], "big"))
