"""Claims: what may be said of one model after several attacks, and what may not."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from radapt.results import WORST_CASE, Comparison, Result
from radapt.results.labels import attack_text, places_of
from radapt.results.signs import joined

from ._summary import FALLS, HOLDS, LEVEL

__all__ = ["LEGEND", "Answer", "Claim", "Figure", "claims_of", "figures_of"]

Answer = Literal["yes", "in part", "no", "inconclusive"]
LEGEND = (
    f"It withstands attacks: yes, if it keeps at least {HOLDS:.0%} of its clean accuracy on every dataset; in part, if "
    f"at least {FALLS:.0%}."
)
"""What the answers to the first claims mean."""
_WEAKEST: tuple[Answer, ...] = ("no", "inconclusive", "yes")
_Tested = tuple[str, tuple[tuple[str, str], ...]]
"""The task of a comparison, and its datasets, each with its split."""
_MARGIN = 2.0
"""Points of clean accuracy that count as none."""
_CLEAN = "No check found a sign of masked gradients, or of an attack that had not converged."


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What a model keeps on one dataset, in per cent with 95 % intervals.

    Args:
        title: what texts call it: the dataset, with its split where that is not ``test``, and its task where there are
            several (and the metric, where a task has several).
        dataset, split, task, metric: what was asked, and what is measured.
        n: its samples.
        clean: right without an attack: the figure, and the limits of its interval.
        transfer: right under the attacks that were made on the undefended model; None where there is none but itself.
        robust: right under every attack in the ball: the worst case of each sample.
        attacks: which attacks the worst case is over.
        flags: what the sanity checks found, by their names.
        checked: whether they ran.
    """

    title: str
    dataset: str
    split: str
    task: str
    metric: str
    n: int
    clean: tuple[float, float, float]
    transfer: tuple[float, float, float] | None
    robust: tuple[float, float, float]
    attacks: tuple[str, ...]
    flags: Mapping[str, object]
    checked: bool

    @property
    def trusted(self) -> bool:
        """Whether nothing speaks against the robust figure."""
        return not self.doubt

    @property
    def doubt(self) -> str:
        """What speaks against the robust figure; empty for nothing."""
        if self.flags:
            return "the checks say: " + ", ".join(f"{name} ({text})" for name, text in self.flags.items())
        if not self.clean[0]:
            return "it is wrong without an attack, too, so that nothing was attacked"
        return "" if self.checked else "the sanity checks did not run"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What might be said of a model, whether this check bears it out, and why."""

    claim: str
    answer: Answer
    why: str

    def __str__(self) -> str:
        return f"{self.claim}: {self.answer}. {self.why}"


def figures_of(results: Sequence[Result]) -> Iterator[Figure]:
    """What one candidate keeps on each dataset, by split, task and metric, in one ball.

    Args:
        results: of that candidate, worst cases included.
    """
    main = [each for each in results if each.main]
    tasks = [task for task, *_ in places_of([each.setting for each in main])]
    for clean, task in ((each, task) for each, task in zip(main, tasks, strict=True) if each.kind == "clean"):
        place, setting = _place(clean), clean.setting
        own = [each for each in main if _place(each) == place and each.kind != "clean"]
        white = [each for each in own if each.kind == "white-box"]
        worst = next((each for each in white if each.setting.attack == WORST_CASE), None) or white[0]
        transfer = next((each for each in own if each.kind == "transfer"), None)
        yield Figure(
            title=setting.dataset
            + f" ({setting.split})" * (setting.split != "test")
            + f", {task}" * (len(set(tasks)) > 1),
            **place,
            n=clean.n,
            clean=_interval(clean),
            transfer=None if transfer is None else _interval(transfer),
            robust=_interval(worst),
            attacks=tuple(sorted({attack_text(each.setting) for each in white if each.setting.attack != WORST_CASE})),
            flags=joined([clean.flags, worst.flags]),
            checked=worst.checked and clean.checked,
        )


def _place(result: Result) -> dict[str, str]:
    setting = result.setting
    return {"dataset": setting.dataset, "split": setting.split, "task": setting.task, "metric": setting.metric}


def _interval(result: Result) -> tuple[float, float, float]:
    return result.percent, result.low, result.high


def claims_of(figures: Sequence[Figure], tests: Sequence[Comparison], name: str, base: str | None) -> Iterator[Claim]:
    """What may be claimed of a model, the weakest claim first.

    Args:
        figures: what it keeps.
        tests: of its results and those of another model, on the same samples; of these datasets and this threat alone.
            Of each task, that over all datasets counts; where there is none, the worst of those over each.
        name, base: of the two candidates; None: there is no other one.
    """
    doubtful = [figure for figure in figures if not figure.trusted]
    if any(figure.transfer for figure in figures):
        shares = [(figure, figure.transfer) for figure in figures if figure.transfer]
        yield Claim(
            claim="It withstands attacks that were made on the undefended model (transfer)",
            answer=_kept(shares),
            why=f"{_listed(shares)}. That says nothing about an attacker who knows it.",
        )
    answer = _kept([(figure, figure.robust) for figure in figures])
    yield Claim(
        claim="It withstands an attacker who knows it (white-box, the worst case over all attacks)",
        answer="inconclusive" if doubtful and answer != "no" else answer,
        why=f"{_listed([(figure, figure.robust) for figure in figures])}.",
    )
    if base is not None:
        yield _compared(tests, name, base, "white-box", "It is more robust than", doubtful)
        yield _compared(tests, name, base, "clean", "It is as accurate as", [])
    yield Claim(
        claim="The attacks on it can be trusted",
        answer="no" if any(figure.flags for figure in figures) else "inconclusive" if doubtful else "yes",
        why="; ".join(f"on {figure.title} {figure.doubt}" for figure in doubtful) + "." if doubtful else _CLEAN,
    )


def _kept(kept: Sequence[tuple[Figure, tuple[float, float, float]]]) -> Answer:
    """The answer for the share of its clean result that a model keeps on each dataset: that of the lowest."""
    shares = [it[0] / figure.clean[0] for figure, it in kept if figure.clean[0]]
    if not shares:
        return "inconclusive"
    low = min(shares)
    return "no" if low < FALLS else "yes" if low >= HOLDS else "in part"


def _listed(kept: Sequence[tuple[Figure, tuple[float, float, float]]]) -> str:
    texts = (
        f"{figure.title} {it[0]:.1f} [{it[1]:.1f}, {it[2]:.1f}] of {figure.clean[0]:.1f} % (n = {figure.n})"
        for figure, it in kept
    )
    return "It keeps: " + "; ".join(texts)


def _compared(
    tests: Sequence[Comparison], name: str, base: str, kind: str, words: str, doubtful: Sequence[Figure]
) -> Claim:
    """Whether a model is more robust than another one, or no less accurate, on the same samples."""
    own = [each for each in tests if each.kind == kind and {each.first, each.second} == {name, base}]
    most = {task: max(len(each.datasets) for each in own if each.task == task) for task in {each.task for each in own}}
    # Of F1 on datasets that share images there is no test together: the claim is one about each.
    together = {(each.task, each.datasets): each for each in own if len(each.datasets) == most[each.task]}
    claim = f"{words} {base}"
    if not together:
        untested = "Their scores are not right or wrong, so no test was made."
        return Claim(claim=claim, answer="inconclusive", why=untested)
    found = {place: _answer(test, name, kind, doubtful) for place, test in together.items()}
    whys = [f"{_of(place, found)}: {why}" if len(found) > 1 else why for place, (_, why) in found.items()]
    answer = min((each for each, _ in found.values()), key=_WEAKEST.index)
    return Claim(claim=claim, answer=answer, why="; ".join(whys) + ".")


def _of(place: _Tested, places: Collection[_Tested]) -> str:
    """What a comparison is of, as far as it tells it from others."""
    task, ((name, split), *_) = place
    tasks = [other for other, _ in places]
    alone = name + f" ({split})" * (split != "test")
    return task if tasks.count(task) == 1 else alone + f", {task}" * (len(set(tasks)) > 1)


def _answer(test: Comparison, name: str, kind: str, doubtful: Sequence[Figure]) -> tuple[Answer, str]:
    """What one comparison says, and its numbers."""
    sign = 1 if test.first == name else -1
    low, high = sorted((sign * test.low, sign * test.high))
    difference, sure = sign * test.difference, test.p < LEVEL
    if kind == "clean":
        answer: Answer = "no" if sure and difference < 0 else "yes" if low > -_MARGIN else "inconclusive"
    else:
        answer = "yes" if sure and difference > 0 else "no" if difference <= 0 else "inconclusive"
    if doubtful and answer == "yes":
        answer = "inconclusive"
    where = f"on the same {test.n} samples, p = {test.p:.2g} ({test.test})"
    return answer, f"{_signed(difference)} points [{_signed(low)}, {_signed(high)}] {where}"


def _signed(points: float) -> str:
    """With one decimal and a sign; what rounds to zero has that of zero."""
    return f"{round(points, 1) + 0.0:+.1f}"
