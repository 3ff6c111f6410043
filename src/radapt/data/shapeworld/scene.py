"""Scenes of the procedural world: what an image shows, drawn per (seed, index)."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from radapt.errors import SettingsError
from radapt.registry import nearest
from radapt.schema import STRICT, parse

__all__ = [
    "ATTRIBUTES",
    "BACKGROUNDS",
    "COLOURS",
    "SHAPES",
    "SIZES",
    "TEXTURES",
    "Scene",
    "World",
    "draw",
    "generator",
    "held_out",
    "sample",
    "stream",
]

SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "cross",
    "ring",
    "heart",
    "diamond",
    "crescent",
    "arrow",
    "hexagon",
    "bar",
)
COLOURS = {
    "red": (0.88, 0.10, 0.12),
    "green": (0.12, 0.66, 0.20),
    "blue": (0.12, 0.30, 0.92),
    "yellow": (0.95, 0.88, 0.12),
    "orange": (0.98, 0.52, 0.06),
    "purple": (0.55, 0.16, 0.72),
    "pink": (0.98, 0.55, 0.76),
    "cyan": (0.20, 0.85, 0.92),
    "brown": (0.52, 0.31, 0.14),
    "white": (0.96, 0.96, 0.96),
}
TEXTURES = ("plain", "striped", "dotted", "chequered")
SIZES = {"small": (0.23, 0.27), "medium": (0.32, 0.36), "large": (0.42, 0.46)}
BACKGROUNDS = {
    "black": (0.06, 0.06, 0.06),
    "grey": (0.50, 0.50, 0.50),
    "navy": (0.06, 0.08, 0.36),
    "teal": (0.04, 0.42, 0.42),
    "maroon": (0.36, 0.05, 0.12),
    "olive": (0.40, 0.42, 0.08),
    "beige": (0.86, 0.78, 0.62),
    "lavender": (0.72, 0.66, 0.90),
}

_MOST_CLUTTER = 1000

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "texture": TEXTURES,
    "size": tuple(SIZES),
    "background": tuple(BACKGROUNDS),
}
"""The five attributes of a scene and their values, in class order."""


@dataclass(frozen=True, kw_only=True)
class World:
    """A distribution over scenes; the defaults are the training distribution.

    Args:
        shape, colour, texture, size, background: allowed values (empty: all of them).
        pairs: which shape x colour compositions occur: ``seen``, ``held_out`` or ``all``.
        balance: the attribute (or ``composition``) that cycles with the index, so that classes are balanced.
        radius: overrides the object's radius range, in image widths.
        shift: largest offset of the object's centre, in image widths.
        angle: largest rotation, in radians.
        outline: draw only the contour of the object.
        grey: draw object and background without colour.
        noise: standard deviation of the natural-spectrum (1/f) noise, in pixel units.
        clutter: number of small distractor discs.
        contrast: contrast of the finished image about mid-grey, relative to the palette. The default halves it, so
            that a perturbation of 4/255 is as large beside the cues as it is in photographs.

    Raises:
        SettingsError: a value is unknown or out of range, or nothing can be drawn.
    """

    __pydantic_config__: ClassVar = STRICT

    shape: tuple[str, ...] = ()
    colour: tuple[str, ...] = ()
    texture: tuple[str, ...] = ()
    size: tuple[str, ...] = ()
    background: tuple[str, ...] = ()
    pairs: str = "seen"
    balance: str = "shape"
    radius: tuple[float, float] | None = None
    shift: float = 0.08
    angle: float = 0.4
    outline: bool = False
    grey: bool = False
    noise: float = 0.05
    clutter: int = 0
    contrast: float = 0.5

    def __post_init__(self) -> None:
        for name, values in ATTRIBUTES.items():
            chosen = getattr(self, name)
            for got in chosen:
                if got not in values:
                    raise SettingsError(f"unknown {name} {got!r}{nearest(got, values)}")
            if len(set(chosen)) < len(chosen):
                raise SettingsError(f"{name} names a value twice: {', '.join(chosen)}")
        for name, got, allowed in (
            ("pairs", self.pairs, ("seen", "held_out", "all")),
            ("balance", self.balance, (*ATTRIBUTES, "composition")),
        ):
            if got not in allowed:
                raise SettingsError(f"unknown {name} {got!r}{nearest(got, allowed)}")
        for name, number, high in (
            ("shift", self.shift, 0.5),
            ("angle", self.angle, math.pi),
            ("noise", self.noise, 1),
        ):
            if not 0 <= number <= high:
                raise SettingsError(f"{name} must be from 0 to {high:.5g}, got {number}")
        if not 0 < self.contrast <= 1:
            raise SettingsError(f"contrast must be more than 0 and at most 1, got {self.contrast}")
        if not 0 <= self.clutter <= _MOST_CLUTTER:
            raise SettingsError(f"clutter must be 0 or more, at most {_MOST_CLUTTER}, got {self.clutter}")
        if self.radius is not None and not 0 < self.radius[0] <= self.radius[1] <= 0.5:
            raise SettingsError(f"radius must be two rising numbers, more than 0 and at most 0.5, got {self.radius}")
        self._check_drawable()

    def _check_drawable(self) -> None:
        """Every value that may be drawn first must leave something to draw after it."""
        pairs = _compositions(self)
        missing = set(self.shape or SHAPES) - {shape for _, shape in pairs}
        if self.balance == "colour":
            missing = set(self.colour or COLOURS) - {colour for colour, _ in pairs}
        if not pairs or (missing and self.balance != "composition"):
            names = ", ".join(sorted(missing))
            raise SettingsError(f"{names} cannot be drawn: pairs={self.pairs!r} leaves out all pairs; use pairs='all'")
        if self.balance == "background":
            return
        for colour in dict.fromkeys(colour for colour, _ in pairs):
            if not _visible(self, colour):
                raise SettingsError(f"{colour} objects would be invisible on every allowed background; allow others")

    @classmethod
    def from_dict(cls, options: Mapping[str, object], *, where: str = "world") -> World:
        """Build a world from plain YAML values; a single name stands for a list of one.

        Args:
            options: some of the fields above.
            where: what to call them in error messages.

        Raises:
            SettingsError: an unknown key or a wrong value.
        """
        lists = {
            key: [value] if key in ATTRIBUTES and isinstance(value, str) else value for key, value in options.items()
        }
        world: World = parse(cls, lists, where=where)
        return world

    def classes(self, label: str) -> list[tuple[str, ...]]:
        """Values of a label attribute, in class order; compositions are (colour, shape) pairs."""
        if label == "composition":
            return _compositions(self)
        return [(value,) for value in getattr(self, label) or ATTRIBUTES[label]]


@functools.lru_cache(maxsize=64)
def _compositions(world: World) -> list[tuple[str, ...]]:
    return [
        (colour, shape)
        for shape in world.shape or SHAPES
        for colour in world.colour or COLOURS
        if world.pairs == "all" or held_out(shape, colour) == (world.pairs == "held_out")
    ]


@dataclass(frozen=True, slots=True)
class Scene:
    """What one image shows; lengths in image widths, angles in radians."""

    shape: str
    colour: str
    texture: str
    size: str
    background: str
    radius: float
    x: float
    y: float
    angle: float
    period: float
    phase: float

    def describe(self, label: str) -> tuple[str, ...]:
        """Value of a label attribute, in the form of :meth:`World.classes`."""
        return (self.colour, self.shape) if label == "composition" else (getattr(self, label),)


def held_out(shape: str, colour: str) -> bool:
    """Whether a composition is kept out of every training image (24 of the 120)."""
    return (SHAPES.index(shape) + 2 * list(COLOURS).index(colour)) % 5 == 0


def stream(split: str, seed: int) -> str:
    """Name of a split's random stream."""
    return f"{seed}/{split}"


def generator(stream: str, index: int) -> np.random.Generator:
    """Counter-based generator of one sample: a function of (stream, index) only."""
    key = int.from_bytes(hashlib.blake2b(stream.encode(), digest_size=8).digest(), "little")
    return np.random.Generator(np.random.Philox(key=np.array([key, index], dtype=np.uint64)))


def _pick(values: Sequence[str], u: float) -> str:
    return values[min(int(u * len(values)), len(values) - 1)]


def _contrast(colour: str, background: str) -> float:
    return float(np.abs(np.subtract(COLOURS[colour], BACKGROUNDS[background])).max())


def _visible(world: World, colour: str) -> list[str]:
    return [b for b in world.background or BACKGROUNDS if _contrast(colour, b) > 0.3]


def sample(world: World, index: int, rng: np.random.Generator) -> Scene:
    """Draw scene ``index`` of a world from its own generator."""
    u = rng.random(11)
    values = {name: _pick(getattr(world, name) or ATTRIBUTES[name], u[i]) for i, name in enumerate(ATTRIBUTES)}
    if world.balance == "composition":
        pairs = world.classes("composition")
        values["colour"], values["shape"] = pairs[index % len(pairs)]
    else:
        classes = world.classes(world.balance)
        values[world.balance] = classes[index % len(classes)][0]
        if world.balance == "colour":
            shapes = [s for c, s in world.classes("composition") if c == values["colour"]]
            values["shape"] = _pick(shapes, u[0])
        else:
            colours = [c for c, s in world.classes("composition") if s == values["shape"]]
            values["colour"] = _pick(colours, u[1])
    if world.balance != "background":  # an object must be visible: backgrounds too close in colour are skipped
        values["background"] = _pick(_visible(world, values["colour"]), u[4])
    low, high = world.radius or SIZES[values["size"]]
    return Scene(
        **values,
        radius=low + (high - low) * u[5],
        x=0.5 + world.shift * (2 * u[6] - 1),
        y=0.5 + world.shift * (2 * u[7] - 1),
        angle=world.angle * (2 * u[8] - 1),
        period=(3.0 + 1.5 * u[9]) / 48,
        phase=2 * np.pi * u[10],
    )


def draw(world: World, split: str, indices: Sequence[int], *, seed: int = 0) -> list[Scene]:
    """Scenes of a split without their images; the same as :func:`render` returns."""
    return [sample(world, index, generator(stream(split, seed), index)) for index in indices]
