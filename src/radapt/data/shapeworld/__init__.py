"""ShapeWorld: a procedural world of shapes, colours, textures, sizes and backgrounds, with its language."""

from .language import article, caption, mentioned, questions
from .render import RENDERER, render
from .scene import ATTRIBUTES, Scene, World, draw, generator, held_out, stream

__all__ = [
    "ATTRIBUTES",
    "RENDERER",
    "Scene",
    "World",
    "article",
    "caption",
    "draw",
    "generator",
    "held_out",
    "mentioned",
    "questions",
    "render",
    "stream",
]
