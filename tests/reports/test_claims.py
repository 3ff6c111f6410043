"""What may be claimed of a model, and what not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from radapt.reports import Claim, Figure, claims_of, figures_of
from radapt.results import WORST_CASE, Comparison, Result, Setting


def result(
    attack: str, percent: float, *, source: str = "self", dataset: str = "shapes",
    split: str = "test", task: str = "zero-shot", metric: str = "top-1", **changes: Any,
) -> Result:  # fmt: skip
    ball = {"attack": attack, "norm": "linf", "eps": 0.1, "source": source} if attack else {}
    place = {"dataset": dataset, "split": split, "task": task, "metric": metric}
    setting = Setting(method="mine", model="m", n=100, version="1", **place, **ball)
    numbers = {"n": 100, "percent": percent, "low": percent - 5, "high": percent + 5}
    passes = {"seconds": 1.0, "forwards": 1, "backwards": 1}
    return Result(setting=setting, **{**numbers, **passes, "flags": {}, "checked": True, **changes})


def figure(
    robust: float, *, transfer: float | None = 80, flags: Mapping[str, object] | None = None, checked: bool = True
) -> Figure:
    return Figure(
        title="shapes",
        dataset="shapes",
        split="test",
        task="zero-shot",
        metric="top-1",
        n=100,
        clean=(90, 85, 95),
        transfer=None if transfer is None else (transfer, 70, 85),
        robust=(robust, robust - 5, robust + 5),
        attacks=("pgd",),
        flags=flags or {},
        checked=checked,
    )


def test_the_worst_case_counts_and_transfer_stands_beside_it() -> None:
    results = [
        result("", 90),
        result("pgd", 60),
        result("square", 70),
        result("pgd", 80, source="undefended"),
        result(WORST_CASE, 50, flags={"more steps help": "three more"}),
        result("", 70, dataset="digits", checked=False),
        result("pgd", 30, dataset="digits"),
    ]
    shapes, digits = figures_of(results)
    assert (shapes.clean[0], shapes.transfer, shapes.robust) == (90, (80, 75, 85), (50, 45, 55))
    assert shapes.attacks == ("pgd", "square")
    assert not shapes.trusted
    assert shapes.doubt == "the checks say: more steps help (three more)"
    assert (digits.transfer, digits.robust[0], digits.doubt) == (None, 30, "the sanity checks did not run")


def test_splits_tasks_and_metrics_of_one_dataset_have_figures_of_their_own() -> None:
    places = [{}, {"split": "validation"}, {"task": "retrieval", "metric": "recall@1"}, {"metric": "mean-per-class"}]
    results = [
        result(attack, robust + at, **place)
        for attack, robust in (("", 80), (WORST_CASE, 40), ("pgd", 50))
        for at, place in enumerate(places)
    ]
    figures = list(figures_of(results))
    assert [(each.clean[0], each.robust[0]) for each in figures] == [(80, 40), (81, 41), (82, 42), (83, 43)]
    assert [each.title for each in figures] == [
        "shapes, zero-shot, top-1", "shapes (validation), zero-shot, top-1", "shapes, retrieval",
        "shapes, zero-shot, mean-per-class",
    ]  # fmt: skip
    assert [(each.split, each.task, each.metric) for each in figures[1:3]] == [
        ("validation", "zero-shot", "top-1"), ("test", "retrieval", "recall@1"),
    ]  # fmt: skip
    alone = list(figures_of([each for each in results if each.setting.split == "validation"]))
    (claim, *_) = claims_of(alone, [], "mine", None)
    assert "It keeps: shapes (validation) 41.0" in claim.why


def answers(*given: Any, **settings: Any) -> dict[str, Claim]:
    return {claim.claim.split(" (")[0]: claim for claim in claims_of(*given, **settings)}


@pytest.mark.parametrize(
    ("robust", "flags", "checked", "expected"),
    [
        (60, {}, True, "yes"),
        (45, {}, True, "yes"),  # half of 90
        (44, {}, True, "in part"),
        (9, {}, True, "in part"),
        (8.9, {}, True, "no"),
        (60, {"stochastic": "x"}, True, "inconclusive"),
        (60, {}, False, "inconclusive"),
        (5, {"stochastic": "x"}, True, "no"),  # what falls, falls
    ],
)
def test_a_model_withstands_an_attacker_who_knows_it_or_not(
    robust: float, flags: dict[str, object], checked: bool, expected: str
) -> None:
    claims = answers([figure(90), figure(robust, flags=flags, checked=checked)], [], "mine", None)
    assert claims["It withstands an attacker who knows it"].answer == expected
    assert f"{robust:.1f}" in claims["It withstands an attacker who knows it"].why
    assert claims["It withstands attacks that were made on the undefended model"].answer == "yes"
    trusted = "no" if flags else "yes" if checked else "inconclusive"
    assert claims["The attacks on it can be trusted"].answer == trusted
    assert "It is more robust than base" not in claims


def test_transfer_alone_claims_nothing() -> None:
    claims = answers([figure(2, transfer=88)], [], "mine", None)
    claim = claims["It withstands attacks that were made on the undefended model"]
    assert claim.answer == "yes"
    assert "says nothing about an attacker who knows it" in str(claim)
    assert claims["It withstands an attacker who knows it"].answer == "no"
    assert len(answers([figure(2, transfer=None)], [], "mine", None)) == 2


def comparison(
    kind: str, difference: float, p: float, *, first: str = "mine", sets: int = 1, width: float = 1
) -> Comparison:
    names = ("mine", "base") if first == "mine" else ("base", "mine")
    own: Any = {"first": names[0], "second": names[1], "kind": kind, "difference": difference, "p": p, "p_adjusted": p}
    places = tuple((f"d{at}", "test") for at in range(sets))
    limits = {"low": difference - width, "high": difference + width}
    counts = {"n": 100, "only_first": 1, "only_second": 1}
    return Comparison(task="zero-shot", datasets=places, test="a test", **counts, **limits, **own)


@pytest.mark.parametrize(
    ("kind", "difference", "p", "first", "width", "expected"),
    [
        ("white-box", 20, 0.01, "mine", 1, "yes"),
        ("white-box", -20, 0.01, "base", 1, "yes"),  # the other way round
        ("white-box", 3, 0.4, "mine", 1, "inconclusive"),
        ("white-box", -3, 0.4, "mine", 1, "no"),
        ("clean", -8, 0.001, "mine", 1, "no"),
        ("clean", -0.5, 0.9, "mine", 1, "yes"),
        ("clean", -1.5, 0.3, "mine", 3, "inconclusive"),
        ("clean", 1.5, 0.3, "base", 0.2, "yes"),
        ("clean", 4, 0.001, "base", 1, "no"),
    ],
)
def test_a_model_is_compared_on_the_same_samples(
    kind: str, difference: float, p: float, first: str, width: float, expected: str
) -> None:
    alone = comparison(kind, -difference, 1e-9, first=first)  # of one set: what counts is all of them together
    together = comparison(kind, difference, p, first=first, sets=2, width=width)
    claims = answers([figure(60)], [alone, together], "mine", "base")
    words = "It is more robust than base" if kind == "white-box" else "It is as accurate as base"
    assert claims[words].answer == expected
    sign = "+" if (difference > 0) == (first == "mine") else "-"
    assert f"{sign}{abs(difference):.1f} points" in claims[words].why


def test_a_gain_that_is_flagged_is_not_shown_and_scores_have_no_test() -> None:
    gain = comparison("white-box", 20, 0.01)
    flagged = answers([figure(60, flags={"stochastic": "x"})], [gain], "mine", "base")
    assert flagged["It is more robust than base"].answer == "inconclusive"
    assert "no test was made" in answers([figure(60)], [], "mine", "base")["It is as accurate as base"].why


def test_a_difference_that_rounds_to_zero_has_no_sign_of_its_own() -> None:
    test = Comparison(
        first="mine", second="base", task="zero-shot", datasets=(("shapes", "test"),), kind="clean", n=100,
        only_first=0, only_second=0, difference=-0.04, low=-0.04, high=1.0, p=1.0, test="", p_adjusted=1.0,
    )  # fmt: skip
    (claim,) = (each for each in claims_of([figure(50)], [test], "mine", "base") if "accurate" in each.claim)
    assert claim.why.startswith("+0.0 points [+0.0, +1.0]")


def test_without_a_test_of_all_datasets_together_each_counts() -> None:
    found = [replace(comparison("white-box", at, 0.01), datasets=((name, split),)) for at, name, split in (
        (-5, "shapes", "test"), (20, "shapes", "validation"))]  # fmt: skip
    for tests in (found, found[::-1]):
        claim = answers([figure(60)], tests, "mine", "base")["It is more robust than base"]
        assert claim.answer == "no"
        assert "shapes: -5.0 points" in claim.why
        assert "shapes (validation): +20.0 points" in claim.why


def test_a_comparison_of_several_tasks_is_as_good_as_the_worst_of_them() -> None:
    found = replace(comparison("white-box", -5, 0.5), task="retrieval")
    claim = answers([figure(60)], [found, comparison("white-box", 20, 0.01)], "mine", "base")
    more = claim["It is more robust than base"]
    assert more.answer == "no"
    assert more.why.startswith("zero-shot: +20.0 points") or more.why.startswith("retrieval: -5.0 points")
    assert "; " in more.why


def test_what_was_never_right_withstands_nothing_and_no_attack_on_it_is_trusted() -> None:
    wrong = replace(figure(0, transfer=0), clean=(0, 0, 60))
    transfer, white, trust = claims_of([wrong], [], "mine", None)
    assert [each.answer for each in (transfer, white, trust)] == ["inconclusive"] * 3
    assert "on shapes it is wrong without an attack, too, so that nothing was attacked" in trust.why
    both = claims_of([wrong, replace(figure(80), title="digits")], [], "mine", None)
    assert [each.answer for each in both] == ["yes", "inconclusive", "inconclusive"]
