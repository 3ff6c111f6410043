"""How photographs are changed in training, on the device of the images and without a look at them from the host."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from radapt.types import PerSample, Pixels

__all__ = ["augment", "mixed"]

_SIDE = (0.65, 1.1)
_STRETCH, _TURN, _SHEAR = 0.15, 0.25, 0.15
_TURNED, _COLOURED, _GREY, _ERASED = 0.5, 0.8, 0.1, 0.25
_LIGHT, _CAST = 0.4, 0.06
_HOLE = (0.2, 0.5)


def augment(pixels: Pixels, random: torch.Generator) -> Pixels:
    """Crop, flip, turn, shear, colour and erase: each image in its own way.

    Args:
        pixels: images in [0, 1].
        random: source of random numbers, on the device of the images.
    """
    draw = _Draws(pixels, random)
    pixels = _moved(pixels, draw)
    coloured = _recoloured(pixels, draw)
    pixels = torch.where(draw.chance(_COLOURED)[:, None, None, None], coloured, pixels)
    grey = pixels.mean(1, keepdim=True).expand_as(pixels)
    pixels = torch.where(draw.chance(_GREY)[:, None, None, None], grey, pixels).clamp(0, 1)
    hole = _boxes(pixels, draw.between(*_HOLE), draw) & draw.chance(_ERASED)[:, None, None, None]
    return torch.where(hole, draw.noise(), pixels)


def mixed(pixels: Pixels, others: Pixels, share: float, random: torch.Generator) -> tuple[Pixels, PerSample]:
    """Images of which some are mixed with another one, half of these by mixup and half by cutmix.

    Args:
        pixels, others: images in [0, 1].
        share: of the images that are mixed.
        random: source of random numbers, on the device of the images.

    Returns:
        The images, and how much of each is the first one.
    """
    draw = _Draws(pixels, random)
    part = draw.between(0, 1)
    blended = torch.lerp(others, pixels, part[:, None, None, None])
    box = _boxes(pixels, (1 - part).sqrt(), draw)
    pasted = torch.where(box, others, pixels)
    kept = 1 - box.float().mean((1, 2, 3))
    which = draw.between(0, 1)
    blend, paste = which < share / 2, (which >= share / 2) & (which < share)
    result = torch.where(blend[:, None, None, None], blended, torch.where(paste[:, None, None, None], pasted, pixels))
    return result, torch.where(blend, part, torch.where(paste, kept, 1.0))


class _Draws:
    """Random numbers, one per image."""

    def __init__(self, pixels: Pixels, random: torch.Generator) -> None:
        self.pixels, self.random = pixels, random

    def between(self, low: float, high: float) -> PerSample:
        """Uniform from ``low`` to ``high``."""
        unit = torch.rand(len(self.pixels), generator=self.random, device=self.pixels.device, dtype=torch.float32)
        return low + (high - low) * unit

    def around(self, centre: float, most: float) -> PerSample:
        """Uniform, at most so far from the centre."""
        return self.between(centre - most, centre + most)

    def chance(self, share: float) -> Tensor:
        """True for this share of the images."""
        return self.between(0, 1) < share

    def noise(self) -> Pixels:
        """An image of uniform noise for each."""
        shape = self.pixels.shape
        return torch.rand(shape, generator=self.random, device=self.pixels.device, dtype=torch.float32)


def _moved(pixels: Pixels, draw: _Draws) -> Pixels:
    side, stretch = draw.between(*_SIDE), draw.around(0, _STRETCH).exp()
    turned = draw.chance(_TURNED)
    angle, shear = draw.around(0, _TURN) * turned, draw.around(0, _SHEAR) * turned
    flip = 1 - 2 * draw.chance(0.5).float()
    across, down = side * stretch, side / stretch
    cosine, sine = angle.cos(), angle.sin()
    rows = (
        torch.stack([flip * across * cosine, down * (shear * cosine - sine), _shift(side, draw)], 1),
        torch.stack([flip * across * sine, down * (shear * sine + cosine), _shift(side, draw)], 1),
    )
    grid = F.affine_grid(torch.stack(rows, 1), list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, align_corners=False, padding_mode="reflection")


def _shift(side: PerSample, draw: _Draws) -> PerSample:
    """Where the middle of the crop is, in half widths of the image: anywhere within the image, and a little beyond."""
    return draw.between(-1, 1) * ((1 - side).clamp(min=0) + 0.1)


def _recoloured(pixels: Pixels, draw: _Draws) -> Pixels:
    light, contrast, colour = (draw.around(1, _LIGHT)[:, None, None, None] for _ in range(3))
    cast = torch.stack([draw.around(0, _CAST) for _ in range(3)], 1)[:, :, None, None]
    pixels = pixels * light
    mean = pixels.mean((1, 2, 3), keepdim=True)
    pixels = mean + contrast * (pixels - mean)
    grey = pixels.mean(1, keepdim=True)
    return grey + colour * (pixels - grey) + cast


def _boxes(pixels: Pixels, side: PerSample, draw: _Draws) -> Tensor:
    """A square in each image, as a mask; the side is a share of the width, the middle anywhere."""
    height, width = pixels.shape[-2:]
    inside = []
    for length in (height, width):
        places = (torch.arange(length, device=pixels.device) + 0.5) / length
        inside.append((places[None] - draw.between(0, 1)[:, None]).abs() < side[:, None] / 2)
    return (inside[0][:, :, None] & inside[1][:, None, :])[:, None]
