"""How the tokens of an image lie in a sequence, and how an anchor is laid out there."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from radapt.errors import ModelError

__all__ = ["Grid", "Layout", "numbers", "place_tokens", "square"]

Grid = tuple[int, int]
"""Token rows and columns of one image."""


@dataclass(frozen=True)
class Layout:
    """How the tokens of an image lie in a sequence.

    Args:
        prefix: number of tokens before the patches (the class token).
        merge: side of the squares of patches that lie together (Qwen-VL: 2); 1 is row by row.
        window: side of the windows of such squares that lie together (Qwen2.5-VL), counted in squares; 0: none.
    """

    prefix: int = 0
    merge: int = 1
    window: int = 0

    def order(self, grid: Grid) -> Tensor:
        """Row-major patch number at each position of the sequence."""
        height, width = grid
        m = self.merge
        numbers = torch.arange(height * width, device="cpu").view(height // m, m, width // m, m).permute(0, 2, 1, 3)
        if not self.window:
            return numbers.reshape(-1)
        rows = numbers.split(self.window, 0)
        return torch.cat([window.reshape(-1) for row in rows for window in row.split(self.window, 1)])


def place_tokens(
    tokens: Float[Tensor, "tokens features"], grid: Grid, to: Grid, layout: Layout
) -> Float[Tensor, "placed features"]:
    """Interpolate a token grid to another grid and lay it out in sequence order.

    Prefix tokens are kept; patch tokens are resized bicubically, as position embeddings are.

    Args:
        tokens: prefix tokens, then patches row by row over ``grid``.
        grid: token rows and columns of ``tokens``.
        to: token rows and columns of the image at hand.
        layout: the order of the tower's sequence.
    """
    prefix, patches = tokens[: layout.prefix], tokens[layout.prefix :]
    if grid != to:
        image = patches.T.reshape(1, -1, *grid).float()
        image = F.interpolate(image, size=to, mode="bicubic", align_corners=False, antialias=True)
        patches = image.to(patches.dtype).flatten(2)[0].T
    if layout.merge > 1 or layout.window:
        patches = patches[layout.order(to).to(patches.device)]
    return torch.cat([prefix, patches])


def numbers(shapes: Tensor) -> list[list[int]]:
    """The shapes of images that a tensor holds.

    Raises:
        ModelError: an exporter asks, for which a tensor has no values.
    """
    rows: list[list[int]] = shapes.tolist()
    if not all(isinstance(value, int) for row in rows for value in row):
        raise ModelError(
            "a model that takes the shapes of its images as a tensor cannot be exported with an adapter, since the "
            "filter and the anchor depend on them; export it without one, or use torch.compile"
        )
    return rows


def square(patches: int) -> Grid:
    """Token grid of a square image."""
    side = math.isqrt(patches)
    return side, side
