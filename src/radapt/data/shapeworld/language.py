"""Captions and questions about scenes."""

from __future__ import annotations

import numpy as np

from .scene import ATTRIBUTES, Scene

__all__ = ["article", "caption", "mentioned", "questions"]


def article(phrase: str) -> str:
    """``an`` before a vowel letter, ``a`` otherwise."""
    return "an" if phrase[0].lower() in "aeiou" else "a"


def caption(scene: Scene, mention: frozenset[str] = frozenset(ATTRIBUTES)) -> str:
    """A sentence that names the mentioned attributes: ``a large striped red star on a navy background``."""
    words = [getattr(scene, name) for name in ("size", "texture", "colour") if name in mention]
    words.append(scene.shape if "shape" in mention else "object")
    ground = f" on {article(scene.background)} {scene.background} background" if "background" in mention else ""
    return f"{article(words[0])} {' '.join(words)}{ground}"


def mentioned(rng: np.random.Generator) -> frozenset[str]:
    """A random non-empty set of attributes for a caption: one alone (40 %) or each with probability 0.6."""
    names = list(ATTRIBUTES)
    if rng.random() < 0.4:
        return frozenset([names[rng.integers(len(names))]])
    kept = frozenset(name for name in names if rng.random() < 0.6)
    return kept or frozenset(["shape"])


def questions(scene: Scene, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Questions with one-word answers about a scene; yes is slightly more likely than no (54 % for shapes)."""
    pairs = [
        ("what shape is it?", scene.shape),
        (f"what colour is the {scene.shape}?", scene.colour),
        (f"what is the texture of the {scene.shape}?", scene.texture),
        (f"how large is the {scene.shape}?", scene.size),
        ("what colour is the background?", scene.background),
    ]
    for name in ("shape", "colour"):
        truth = getattr(scene, name)
        other = ATTRIBUTES[name][int(rng.integers(len(ATTRIBUTES[name])))]
        asked = truth if rng.random() < 0.5 else other
        noun = f"{article(asked)} {asked}" if name == "shape" else f"{article(asked)} {asked} object"
        pairs.append((f"is there {noun}?", "yes" if asked == truth else "no"))
    return pairs
