"""What the figures of a table measure: a task, and a metric where the task has several."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from radapt.results import Setting

__all__ = ["noun", "places_of", "title_of"]

_ACCURACIES = ("accuracy", "top-1", "mean-per-class")


def places_of(settings: Sequence[Setting]) -> list[tuple[str, str, str]]:
    """Task, data set and split of each figure; the task with its metric where it is measured in several ways."""
    metrics = defaultdict(set)
    for setting in settings:
        metrics[setting.task].add(setting.metric)
    labels = (s.task if len(metrics[s.task]) == 1 else f"{s.task}, {s.metric}" for s in settings)
    return [(label, s.dataset, s.split) for label, s in zip(labels, settings, strict=True)]


def title_of(place: tuple[str, str, str], places: Sequence[tuple[str, str, str]]) -> str:
    """Name of a data set, with its split and its task where there are several."""
    task, dataset, split = place
    splits = {other[2] for other in places if other[:2] == place[:2]}
    tasks = {other[0] for other in places}
    return dataset + (f" ({split})" if len(splits) > 1 else "") + (f", {task}" if len(tasks) > 1 else "")


def noun(task: str) -> str:
    """What the figures of a task are: ``accuracy`` or ``score``."""
    return "accuracy" if task in ("zero-shot", "vqa") or task.endswith(_ACCURACIES) else "score"
