"""Rendering of scenes: a batch of 8-bit images from (world, split, seed, indices)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from .scene import BACKGROUNDS, COLOURS, SHAPES, Scene, World, generator, sample, stream

__all__ = ["RENDERER", "render"]

RENDERER = 2
"""Version of the images: raised with every change that alters them, so that no stale cache is read."""

_Mask = NDArray[np.bool_]
_Plane = NDArray[np.float32]
_SUPERSAMPLE = 2


def _polygon(corners: Sequence[tuple[float, float]]) -> Callable[[_Plane, _Plane], _Mask]:
    """Inside test of a convex polygon given counter-clockwise."""

    def inside(x: _Plane, y: _Plane) -> _Mask:
        result = np.ones(x.shape, dtype=bool)
        for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
            result &= (bx - ax) * y - (by - ay) * x >= np.float32((bx - ax) * ay - (by - ay) * ax)
        return result

    return inside


def _regular(n: int, radius: float = 1.0, start: float = np.pi / 2) -> list[tuple[float, float]]:
    angles = start + 2 * np.pi * np.arange(n) / n
    return [(radius * float(np.cos(a)), radius * float(np.sin(a))) for a in angles]


def _star(x: _Plane, y: _Plane) -> _Mask:
    # A pentagram is where at least four of its five edge half-planes hold.
    votes = np.zeros(x.shape, dtype=np.int8)
    for cx, cy in _regular(5, start=-np.pi / 2):
        votes += cx * x + cy * y <= 0.309
    return votes >= 4


def _arrow(x: _Plane, y: _Plane) -> _Mask:
    head = _polygon([(0.05, -0.8), (1.0, 0.0), (0.05, 0.8)])
    return head(x, y) | ((np.abs(y) < 0.28) & (x > -1.0) & (x < 0.1))


def _heart(x: _Plane, y: _Plane) -> _Mask:
    x, y = 1.2 * x, 1.2 * y + 0.1
    return (x * x + y * y - 1) ** 3 <= x * x * y**3


_INSIDE: dict[str, Callable[[_Plane, _Plane], _Mask]] = {
    "circle": lambda x, y: x * x + y * y < 0.9,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) < 0.8,
    "triangle": _polygon(_regular(3)),
    "star": _star,
    "cross": lambda x, y: (np.minimum(np.abs(x), np.abs(y)) < 0.26) & (np.maximum(np.abs(x), np.abs(y)) < 0.95),
    "ring": lambda x, y: np.abs(np.sqrt(x * x + y * y) - 0.74) < 0.22,
    "heart": _heart,
    "diamond": lambda x, y: np.abs(x) / 0.65 + np.abs(y) < 1,
    "crescent": lambda x, y: (x * x + y * y < 0.95) & ((x - 0.5) ** 2 + y * y > 0.62),
    "arrow": _arrow,
    "hexagon": _polygon(_regular(6)),
    "bar": lambda x, y: (np.abs(x) < 1) & (np.abs(y) < 0.3),
}


def _contour(mask: _Mask, width: int) -> _Mask:
    """The inner contour of a mask: the mask without its erosion by ``width`` pixels."""
    eroded = mask.copy()
    for axis in (1, 2):
        layer = eroded.copy()
        for step in range(1, width + 1):
            eroded &= np.roll(layer, step, axis) & np.roll(layer, -step, axis)
    return mask & ~eroded


def _texture(texture: str, x: _Plane, y: _Plane, wave: _Plane, phase: _Plane) -> _Mask:
    """Where the second tone of a texture lies; x, y in image widths."""
    if texture == "plain":
        return np.zeros(x.shape, dtype=bool)
    a, b = np.sin(wave * x + phase), np.sin(wave * y)
    tones: dict[str, _Mask] = {"striped": a > 0, "chequered": a * b > 0, "dotted": (a > 0.1) & (b > 0.1)}
    return tones[texture]


def _pool(mask: _Mask) -> _Plane:
    n, height, width = mask.shape
    s = _SUPERSAMPLE
    pooled: _Plane = mask.reshape(n, height // s, s, width // s, s).mean((2, 4), dtype=np.float32)
    return pooled


def _column(values: Sequence[float]) -> _Plane:
    return np.asarray(values, dtype=np.float32)[:, None, None]


def _masks(scenes: Sequence[Scene], size: int, outline: bool) -> tuple[_Plane, _Plane]:
    """Coverage of the object and of its second tone, per pixel; the scenes share shape and texture."""
    axis = ((np.arange(size * _SUPERSAMPLE) + 0.5) / (size * _SUPERSAMPLE)).astype(np.float32)
    x = axis[None, None, :] - _column([s.x for s in scenes])
    y = _column([s.y for s in scenes]) - axis[None, :, None]
    cos, sin = _column([np.cos(s.angle) for s in scenes]), _column([np.sin(s.angle) for s in scenes])
    x, y = cos * x + sin * y, cos * y - sin * x
    radius = _column([s.radius for s in scenes])
    inside = _INSIDE[scenes[0].shape](x / radius, y / radius)
    if outline:
        inside = _contour(inside, _SUPERSAMPLE * 2)
    wave = _column([2 * np.pi / s.period for s in scenes])
    tone = inside & _texture(scenes[0].texture, x, y, wave, _column([s.phase for s in scenes]))
    return _pool(inside), _pool(tone)


def _natural_noise(rngs: Sequence[np.random.Generator], size: int) -> NDArray[np.float32]:
    """Unit-variance noise with a 1/f amplitude spectrum (Field 1987): N x size x size x 3."""
    white = np.stack([rng.standard_normal((4, size, size), dtype=np.float32) for rng in rngs])
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    gain = 1 / np.maximum(np.hypot(fx, fy), 1 / size)
    gain[0, 0] = 0
    gain = gain.astype(np.float32)
    noise = np.fft.irfft2(np.fft.rfft2(white) * gain, s=(size, size)).astype(np.float32, copy=False)
    noise /= noise.std(axis=(2, 3), keepdims=True)
    return (np.float32(0.8) * noise[:, :1] + np.float32(0.6) * noise[:, 1:]).transpose(0, 2, 3, 1)


def _chunk(world: World, name: str, indices: Sequence[int], size: int) -> tuple[NDArray[np.uint8], list[Scene]]:
    rngs = [generator(name, index) for index in indices]
    scenes = [sample(world, index, rng) for index, rng in zip(indices, rngs, strict=True)]
    object_cover = np.empty((len(scenes), size, size), dtype=np.float32)
    tone_cover = np.empty_like(object_cover)
    for shape in SHAPES:
        for texture in {s.texture for s in scenes if s.shape == shape}:
            rows = [i for i, s in enumerate(scenes) if (s.shape, s.texture) == (shape, texture)]
            object_cover[rows], tone_cover[rows] = _masks([scenes[i] for i in rows], size, world.outline)
    tints = np.stack([rng.uniform(-0.05, 0.05, (2, 3)) for rng in rngs]).astype(np.float32)
    colour = np.array([COLOURS[s.colour] for s in scenes], dtype=np.float32) + tints[:, 0]
    ground = np.array([BACKGROUNDS[s.background] for s in scenes], dtype=np.float32) + tints[:, 1]
    image = np.broadcast_to(ground[:, None, None], (*object_cover.shape, 3)).copy()
    if world.clutter:
        _scatter(image, rngs, world.clutter)
    main, second = (object_cover - tone_cover)[..., None], tone_cover[..., None]
    image *= 1 - object_cover[..., None]
    image += main * colour[:, None, None] + second * (0.4 * colour[:, None, None])
    if world.grey:
        image = np.repeat(image @ np.array([[0.299], [0.587], [0.114]], dtype=np.float32), 3, axis=3)
    image += world.noise * _natural_noise(rngs, size)
    image = np.float32(0.5) + np.float32(world.contrast) * (np.clip(image, 0, 1) - np.float32(0.5))
    return np.rint(image * 255).astype(np.uint8), scenes


def _scatter(image: NDArray[np.float32], rngs: Sequence[np.random.Generator], count: int) -> None:
    """Paint small discs of random colours over the background, in place."""
    size = image.shape[1]
    axis = (np.arange(size) + 0.5) / size
    for canvas, rng in zip(image, rngs, strict=True):
        for x, y, r, *tint in rng.random((count, 6)):
            disc = np.hypot(axis[None, :] - x, axis[:, None] - y) < 0.02 + 0.04 * r
            canvas[disc] = np.asarray(tint, dtype=np.float32)


def render(
    world: World, split: str, indices: Sequence[int], *, size: int = 48, seed: int = 0
) -> tuple[NDArray[np.uint8], list[Scene]]:
    """Render images of a world.

    Image ``i`` depends on (world, split, seed, i, size) only, never on its neighbours.

    Returns:
        uint8 images, N x size x size x 3, and their scenes.
    """
    name = stream(split, seed)
    parts = [_chunk(world, name, indices[i : i + 64], size) for i in range(0, len(indices), 64)]
    if not parts:
        return np.empty((0, size, size, 3), dtype=np.uint8), []
    return np.concatenate([p[0] for p in parts]), [scene for p in parts for scene in p[1]]
