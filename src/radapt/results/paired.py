"""Paired tests: whether two methods differ on the same samples by more than chance."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from .differences import Pair, difference_of, holm
from .intervals import Interval
from .labels import names_of, places_of
from .records import Kind, Result, Sample, image_of
from .shared import Shared, shared_images
from .store import Results
from .worst_case import Attacks, attacks_of, in_one_ball, lowest_scores

__all__ = ["Comparison", "paired_tests"]

_Scores = dict[int, tuple[float, Sample]]
"""By position the score of a sample, and what was measured on it."""

_Method = tuple[Attacks, _Scores]
"""By what a method was attacked white-box, and what was left of it."""

_Pairs = tuple[str, list[Pair]]
"""The metric of a dataset, and what two methods made of the samples that they share."""

_Threat = tuple[str, Kind, str, float]
"""Task, kind, norm and radius."""

_Question = tuple[str, str, str]
"""Dataset, split, and hash of all that its samples share: classes, prompts, the gallery, the text of a target."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two methods on the same samples.

    Args:
        first, second: the methods.
        task: the task, with its metric where it is measured in several ways.
        datasets: on which datasets (name, split), counted together.
        kind: ``clean``, or ``white-box`` for the worst case over everything that is known in the ball.
        norm, eps: the ball; empty and 0 for clean results.
        n: samples that both were measured on.
        only_first, only_second: samples on which one of the two alone is right.
        difference, low, high: first minus second in the figure that is shown of each (a mean over classes or datasets,
            F1), in percentage points, and its 95 % interval.
        p: of the test.
        test: McNemar's exact test where every sample is of an image of its own and has the same weight in the figure,
            else a randomisation test (see :func:`radapt.results.differences.difference_of`).
        p_adjusted: ``p`` after Holm's correction for all pairs on the same datasets under the same threat.
    """

    first: str
    second: str
    task: str
    datasets: tuple[tuple[str, str], ...]
    kind: Kind
    norm: str = ""
    eps: float = 0.0
    n: int
    only_first: int
    only_second: int
    difference: float
    low: float
    high: float
    p: float
    test: str
    p_adjusted: float


def paired_tests(
    store: Results, results: Sequence[Result] | None = None, *, uneven: bool = False, shared: Shared | None = None
) -> list[Comparison]:
    """Every two methods of a results file on the same samples, clean and under white-box attack.

    For each dataset, and for all datasets of a task together where there are several; not where some of them share
    images and one is measured by F1. Samples of which the image differs are left out, and so are worst cases over
    different white-box attacks. Only scores that are right or wrong can be compared so; other metrics have no test.
    Transfer results have none either: they say nothing about how robust a method is.

    Args:
        store: an open results file.
        results: what ``store.all(checks=True)`` gave; None: it is read here.
        uneven: whether to compare worst cases over different attacks, too: one over more of them may be lower for that.
        shared: what :func:`radapt.results.shared.shared_images` found of the file; None: it is looked for here.

    Raises:
        ResultsError: a row is damaged.
    """
    with store.snapshot():
        every = store.all(checks=True) if results is None else results
        scores = _scores(store, every)
        shared = shared_images(store, every) if shared is None else shared
    compared = []
    for (task, kind, norm, eps), places in scores.items():
        threat = (task, kind, norm, eps)
        tables: dict[_Question, list[Comparison]] = {}
        pooled: dict[tuple[str, str], dict[tuple[str, str], _Pairs]] = defaultdict(dict)
        asked = Counter(question[:2] for question in places)
        for question, (metric, methods) in places.items():
            dataset = question[:2]
            for names in combinations(methods, 2):
                (attacks, first), (others, second) = (methods[name] for name in names)
                if (uneven or attacks == others) and (pairs := _pairs(first, second)):
                    if asked[dataset] == 1:  # of several questions about one dataset none stands for it
                        pooled[names][dataset] = metric, pairs
                    tables.setdefault(question, []).append(_comparison(names, threat, {dataset: (metric, pairs)}))
        families = list(tables.values())
        if len(places) > 1:
            together = (_together(names, threat, parts, shared) for names, parts in pooled.items() if len(parts) > 1)
            families.insert(0, [each for each in together if each])
        compared += [each for family in families for each in _adjusted(family)]
    return compared


def _adjusted(family: Sequence[Comparison]) -> list[Comparison]:
    values = holm([each.p for each in family])
    return [replace(each, p_adjusted=value) for each, value in zip(family, values, strict=True)]


def _together(
    names: tuple[str, str], threat: _Threat, parts: Mapping[tuple[str, str], _Pairs], shared: Shared
) -> Comparison | None:
    """The comparison over several datasets; None where they share images and one is measured by F1."""
    parts = dict(sorted(parts.items()))  # whichever was measured first
    places = [(threat[0], *dataset) for dataset in parts]
    if not shared.between(places):
        return _comparison(names, threat, parts)
    sizes = [len(pairs) for _, pairs in parts.values()]

    def mean(estimates: list[Interval]) -> Interval:
        return shared.mean(list(zip(places, estimates, sizes, strict=True)))

    return None if any(metric == "F1" for metric, _ in parts.values()) else _comparison(names, threat, parts, mean)


def _comparison(
    names: tuple[str, str],
    threat: _Threat,
    parts: Mapping[tuple[str, str], _Pairs],
    mean: Callable[[list[Interval]], Interval] | None = None,
) -> Comparison:
    task, kind, norm, eps = threat
    found = difference_of(list(parts.values()), mean)
    right = [each[3:5] for _, pairs in parts.values() for each in pairs]
    return Comparison(
        first=names[0],
        second=names[1],
        task=task,
        datasets=tuple(parts),
        kind=kind,
        norm=norm,
        eps=eps,
        n=len(right),
        only_first=right.count((True, False)),
        only_second=right.count((False, True)),
        p_adjusted=found.p,
        **vars(found),
    )


def _scores(
    store: Results, results: Sequence[Result]
) -> dict[_Threat, dict[_Question, tuple[str, dict[str, _Method]]]]:
    """By task and threat, and by what was asked of which dataset: its metric, and of each method its attacks and the
    scores of every sample, where they are right or wrong."""
    places = places_of([result.setting for result in results])
    tasks = {_whose(result): place[0] for result, place in zip(results, places, strict=True)}
    results = [result for result in results if result.main]
    names = {id(each): name for each, name in zip(results, names_of([r.setting for r in results]), strict=True)}
    measured: list[tuple[Result, _Method]] = []
    for result in results:
        if result.kind == "clean":
            scores = {s.position: (s.score, s) for s in store.samples(result.setting, shown=True)}
            measured.append((result, (attacks_of([]), scores)))
    for group in in_one_ball(results):
        used, lowest = lowest_scores(store, group)
        if used:
            own = next(each for each in group if each.kind == "white-box")
            measured.append((own, (attacks_of(each.setting for each, _ in used), lowest)))
    found: dict[_Threat, dict[_Question, tuple[str, dict[str, _Method]]]] = {}
    for result, (attacks, scores) in measured:
        setting = result.setting
        if all(score in (0.0, 1.0) for score, _ in scores.values()):
            threat = (tasks[_whose(result)], result.kind, setting.norm, setting.eps)
            question = (setting.dataset, setting.split, setting.depends.get("content", ""))
            _, methods = found.setdefault(threat, {}).setdefault(question, (setting.metric, {}))
            methods[names[id(result)]] = attacks, scores
    return found


def _whose(result: Result) -> tuple[str, str, str, str]:
    setting = result.setting
    return setting.task, setting.metric, setting.dataset, setting.split


def _pairs(first: _Scores, second: _Scores) -> list[Pair]:
    """What two methods made of the samples that both were measured on, those of which the image differs left out."""
    shared = [(*first[at], *second[at]) for at in first if at in second and first[at][1].data == second[at][1].data]
    return [
        Pair(
            label=sample.label,
            first_answer=sample.prediction,
            second_answer=other.prediction,
            first=score == 1,
            second=other_score == 1,
            image=image_of(sample.data, sample.position),
        )
        for score, sample, other_score, other in shared
    ]
