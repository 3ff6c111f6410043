"""Places for text labels near their points, so that they overlap as little as possible."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["Box", "overlap", "place"]

Box = tuple[float, float, float, float]
"""left, bottom, right, top, in pixels."""


def overlap(one: Box, other: Box) -> float:
    """Area that two boxes share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def place(
    anchors: Sequence[tuple[float, float]], sizes: Sequence[tuple[float, float]], obstacles: Sequence[Box], bounds: Box
) -> list[Box]:
    """A box for every label: of the places around its anchor, the nearest that covers no other label and few marks.

    Args:
        anchors: the points that the labels name, in pixels.
        sizes: width and height of each label, in pixels.
        obstacles: boxes that labels should not cover: marks and lines.
        bounds: the box that labels must stay in.
    """
    placed: list[Box] = []
    for (x, y), (width, height) in zip(anchors, sizes, strict=True):
        candidates = []
        for radius in (0.8, 1.5, 2.4, 3.6, 5.0):
            for step in range(16):
                angle = math.tau * step / 16
                reach = radius * height
                centre_x = x + math.cos(angle) * (reach + width / 2)
                centre_y = y + math.sin(angle) * (reach + height / 2)
                box = (centre_x - width / 2, centre_y - height / 2, centre_x + width / 2, centre_y + height / 2)
                outside = width * height - overlap(box, bounds)
                labels = sum(overlap(box, other) for other in placed)
                marks = sum(overlap(box, other) for other in obstacles)
                candidates.append((round(outside + labels, 3), 40 * marks + 30 * reach, box))
        placed.append(min(candidates)[-1])
    return placed
