"""The random numbers of searches: they depend on the seed, the attack, the sample's key and the restart only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from ._search import Search, State

__all__ = ["random_state"]


def random_state(
    search: Search, seed: int, restarts: Sequence[tuple[str, int]], shape: Sequence[int], device: torch.device
) -> State:
    """What a search draws for some restarts, one row each.

    Args:
        search: the search.
        seed: seed of all random numbers.
        restarts: key of the sample, and number of the restart.
        shape: of an image, 3 x height x width.
        device: where the numbers go.
    """
    drawn = [search.draw(shape, _generator(seed, search.name, key, number)) for key, number in restarts]
    return {name: torch.stack([each[name] for each in drawn]).to(device) for name in drawn[0]}


def _generator(seed: int, attack: str, key: str, restart: int) -> torch.Generator:
    words = "\0".join((str(seed), attack, key, str(restart)))
    return torch.Generator("cpu").manual_seed(int.from_bytes(hashlib.sha256(words.encode()).digest()[:4], "big"))
