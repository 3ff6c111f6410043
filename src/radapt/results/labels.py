"""Labels of results: their task and dataset, and the ball of their attack."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from .records import Setting

__all__ = [
    "ABANDONED",
    "attack_text",
    "ball_text",
    "eps_text",
    "names_of",
    "norm_text",
    "noun",
    "places_of",
    "title_of",
]

_NORMS = {"linf": "l∞", "l1": "l1", "l2": "l2"}
_ACCURACIES = ("accuracy", "top-1", "mean-per-class")


ABANDONED = " (early abandonment)"


def attack_text(setting: Setting) -> str:
    """Name of the attack; with a note where searches were given up that seemed hopeless, which is not as published."""
    return setting.attack + (ABANDONED if setting.options.get("growth") is not None else "")


def names_of(settings: Sequence[Setting]) -> list[str]:
    """Name of the candidate of each result: its label, with the model, the adapter or the weights where one label has
    several of them, on whatever dataset: what is not one model has neither one line nor a mean."""
    names = [setting.method for setting in settings]
    for parts in (
        [setting.model for setting in settings],
        [setting.adapter[:8] or "no adapter" for setting in settings],
        [f"weights {setting.depends.get('model', 'unknown')[:8]}" for setting in settings],
    ):
        found = defaultdict(set)
        for name, part in zip(names, parts, strict=True):
            found[name].add(part)
        names = [f"{name} · {part}" if len(found[name]) > 1 else name for name, part in zip(names, parts, strict=True)]
    return names


def places_of(settings: Sequence[Setting]) -> list[tuple[str, str, str]]:
    """Task, dataset and split of each result; the task with its metric where it is measured in several ways."""
    metrics = defaultdict(set)
    for setting in settings:
        metrics[setting.task].add(setting.metric)
    labels = (s.task if len(metrics[s.task]) == 1 else f"{s.task}, {s.metric}" for s in settings)
    return [(label, s.dataset, s.split) for label, s in zip(labels, settings, strict=True)]


def title_of(place: tuple[str, str, str], places: Sequence[tuple[str, str, str]]) -> str:
    """Name of a dataset, with its split and its task where there are several."""
    task, dataset, split = place
    splits = {other[2] for other in places if other[:2] == place[:2]}
    tasks = {other[0] for other in places}
    return dataset + (f" ({split})" if len(splits) > 1 else "") + (f", {task}" if len(tasks) > 1 else "")


def noun(task: str) -> str:
    """What the results of a task are: ``accuracy`` or ``score``."""
    return "accuracy" if task in ("zero-shot", "vqa") or task.endswith(_ACCURACIES) else "score"


def eps_text(eps: float) -> str:
    """A radius in pixel units, as k/255 where k is a whole number: ``4/255``, ``0.5``."""
    steps = round(eps * 255)
    return f"{steps}/255" if 0 < steps < 255 and math.isclose(eps * 255, steps, abs_tol=1e-4) else f"{eps:.4g}"


def ball_text(norm: str, eps: float) -> str:
    """Norm and radius: ``l∞ 4/255``."""
    return f"{norm_text(norm)} {eps_text(eps)}"


def norm_text(norm: str) -> str:
    """A norm as it is written: ``l∞``."""
    return _NORMS.get(norm.lower(), norm)
