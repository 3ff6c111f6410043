"""From the scores of all samples to a metric's value: a result in per cent and its 95 % interval."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .intervals import class_weights, effective_share, f1_interval, score_interval, wilson
from .records import PLACES, Result, Setting, image_of, other_scores
from .signs import flags_of, joined

__all__ = ["results_of", "summarise"]


def summarise(
    metric: str,
    scores: Sequence[float],
    answers: Sequence[tuple[int, int]],
    images: Sequence[Hashable] | None = None,
) -> tuple[float, float, float]:
    """A result in per cent and its 95 % interval.

    - ``mean-per-class``: the mean over the classes of their accuracies (Wilson, of samples as :func:`class_weights`
      counts them).
    - ``F1``: ``2 TP / (2 TP + FP + FN)`` of the answer 1 (Rijsbergen 1979; see :func:`f1_interval`).
    - any other: the mean of the scores (Wilson in [0, 1], else Student's).

    Where several samples are of one image, intervals are of as many as they count for
    (:func:`radapt.results.effective_share`).

    Args:
        metric: name of the metric.
        scores: the scores of all samples; at least one.
        answers: (label, prediction) of all samples.
        images: what tells the image of each sample from others; None: no two are of one image.
    """
    images = range(len(scores)) if images is None else images
    if metric == "mean-per-class":
        weights, together = class_weights(Counter(label for label, _ in answers))
        total = math.fsum(weights[label] * score for (label, _), score in zip(answers, scores, strict=True))
        total = min(total, together)  # a last digit more, where all are right
        mean = total / together
        moved = [weights[label] * (score - mean) for (label, _), score in zip(answers, scores, strict=True)]
        share = effective_share(moved, images)
        return 100 * mean, *wilson(total * share, together * share)
    if metric == "F1":
        counted = [
            (label == prediction, image)
            for (label, prediction), image in zip(answers, images, strict=True)
            if 1 in (label, prediction)
        ]
        hits = sum(hit for hit, _ in counted)
        share = effective_share(*zip(*counted, strict=True)) if counted else 1.0
        return f1_interval(share * hits, share * (len(counted) - hits))
    n, total = len(scores), math.fsum(scores)
    squares = math.fsum(score * score for score in scores)
    proportion = min(scores) >= 0 and max(scores) <= 1
    share = effective_share(scores, images)
    low, high = score_interval(total, squares, n, proportion=proportion, share=share)
    return 100 * total / n, low, high


def results_of(
    setting: Setting, rows: Sequence[tuple[Any, ...]], *, seconds: float, flags: Mapping[str, object], checked: int
) -> list[Result]:
    """The results of a setting from the rows of its samples, one for each metric, its own first.

    Args:
        setting: the setting.
        rows: columns of the samples, as they are stored: a record of each would take longer than all the rest.
        seconds, flags: stored with the setting; what the signs of the samples say is added to the flags.
        checked: on how many samples the sanity checks ran.
    """
    columns = dict(zip(PLACES, zip(*rows, strict=True), strict=True))
    passes = {name: sum(columns[name]) for name in ("forwards", "backwards")}
    scores = {setting.metric: list(columns["score"])}
    if (also := [other_scores(each) for each in columns["also"]])[0]:
        scores |= {name: [each[name] for each in also] for name in also[0]}
    answers = list(zip(columns["label"], columns["prediction"], strict=True))
    images = [image_of(data, position) for data, position in zip(columns["data"], columns["position"], strict=True)]
    found_flags = joined([flags_of(columns["signs"], columns["iterations"]), flags])
    found = []
    for metric, values in scores.items():
        percent, low, high = summarise(metric, values, answers, images)
        result = Result(
            setting=replace(setting, metric=metric),
            n=len(rows),
            percent=percent,
            low=low,
            high=high,
            seconds=seconds,
            flags=found_flags,
            checked=checked == len(rows),
            main=metric == setting.metric,
            **passes,
        )
        found.append(result)
    return found
