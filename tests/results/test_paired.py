from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.reports.conftest import setting

from radapt.reports import write_report
from radapt.reports.table import tabulate
from radapt.results import CHECKS, Comparison, Results, Sample, paired_tests, with_worst_cases
from radapt.results.shared import shared_images

Entry = tuple[str, str, str, Sequence[float]]


@pytest.fixture
def compare(tmp_path: Path) -> Callable[..., list[Comparison]]:
    def run(*entries: Entry, data: str = "", **changes: object) -> list[Comparison]:
        with Results(tmp_path / "r.sqlite") as store:
            for method, dataset, source, scores in entries:
                chosen = setting(method, dataset, source, n=len(scores), **(changes if source else {}))
                store.begin(chosen)
                image = f"{dataset}{data if method == 'b' else ''}"
                samples = [
                    Sample(position=at, label=0, prediction=0, score=score, data=f"{image}{at}")
                    for at, score in enumerate(scores)
                ]
                store.add(chosen, samples)
            return paired_tests(store)

    return run


def test_two_methods_are_compared_sample_by_sample(compare: Callable[..., list[Comparison]]) -> None:
    (found,) = compare(("a", "x", "", [1, 1, 1, 0, 0]), ("b", "x", "", [1, 0, 0, 1, 0]))
    assert (found.first, found.second, found.kind, found.n) == ("a", "b", "clean", 5)
    assert (found.only_first, found.only_second) == (2, 1)
    assert found.difference == pytest.approx(20)
    assert found.p == found.p_adjusted == 1.0


def test_datasets_are_compared_one_by_one_and_together(compare: Callable[..., list[Comparison]]) -> None:
    entries = [("a", "x", "", [1] * 6), ("b", "x", "", [0] * 6), ("a", "y", "", [1] * 4), ("b", "y", "", [0] * 4)]
    together, one, other = compare(*entries)
    assert together.datasets == (("x", "test"), ("y", "test"))
    assert (together.n, one.n, other.n) == (10, 6, 4)
    assert together.difference == 100
    assert together.p == pytest.approx(2 / 2**10, abs=1e-3)
    assert (together.test, one.test) == ("a randomisation test", "McNemar's exact test")
    assert one.datasets == (("x", "test"),)


def test_p_does_not_depend_on_which_dataset_was_measured_first(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    scores = {name: chance.random((2, n)) < [[0.75], [0.5]] for name, n in (("x", 40), ("y", 24), ("z", 9))}
    found = []
    for number, order in enumerate(("xyz", "zxy", "yzx")):
        with Results(tmp_path / f"{number}.sqlite") as store:
            for dataset in order:
                for method, right in zip("ab", scores[dataset], strict=True):
                    chosen = setting(method, dataset, "", n=len(right))
                    store.begin(chosen)
                    store.add(chosen, [Sample(position=at, label=0, prediction=0, score=float(each))
                                       for at, each in enumerate(right)])  # fmt: skip
            found.append(paired_tests(store)[0])
    assert found[0] == found[1] == found[2]
    assert 0.0001 < found[0].p < 0.5


def test_what_was_asked_with_other_classes_or_prompts_is_not_compared(tmp_path: Path) -> None:
    with Results(tmp_path / "r.sqlite") as store:
        for dataset, contents in (("x", "one"), ("y", ("one", "other"))):
            for method, content in zip("ab", contents if isinstance(contents, tuple) else (contents,) * 2, strict=True):
                chosen = replace(setting(method, dataset, "", n=9), depends={"content": content})
                store.begin(chosen)
                store.add(chosen, [Sample(position=at, label=0, prediction=0, score=float(method == "a"))
                                   for at in range(9)])  # fmt: skip
        (found,) = paired_tests(store)
    assert found.datasets == (("x", "test"),)


def test_the_correction_is_over_the_pairs_of_one_threat(compare: Callable[..., list[Comparison]]) -> None:
    methods = {"a": [1] * 8, "b": [0] * 8, "c": [0] * 8}
    found = compare(*((name, "x", source, scores) for name, scores in methods.items() for source in ("", "self")))
    assert [each.kind for each in found] == ["clean"] * 3 + ["white-box"] * 3
    assert [each.p_adjusted for each in found[:3]] == pytest.approx([3 * 2 / 2**8, 3 * 2 / 2**8, 1.0])
    assert found[3].norm == "linf"


def test_robustness_is_compared_by_the_worst_case(compare: Callable[..., list[Comparison]]) -> None:
    """An image from elsewhere that fools a method counts against it; by itself it gives no comparison."""
    (found,) = compare(
        ("a", "x", "self", [1, 1, 1]), ("a", "x", "undefended", [0, 1, 1]), ("b", "x", "self", [1, 0, 1]),
        ("c", "x", "undefended", [1, 1, 1]),
    )  # fmt: skip
    assert (found.first, found.second, found.kind) == ("a", "b", "white-box")
    assert (found.only_first, found.only_second) == (1, 1)


def test_worst_cases_over_different_attacks_are_not_compared(tmp_path: Path) -> None:
    with Results(tmp_path / "r.sqlite") as store:

        def attacked(method: str, attack: str, right: int, **options: object) -> None:
            chosen = setting(method, source="self", n=9, attack=attack, options=options)
            store.begin(chosen)
            store.add(chosen, [Sample(position=at, label=0, prediction=0, score=float(at < right)) for at in range(9)])

        def pairs(*, uneven: bool = False) -> set[str]:
            return {each.first + each.second for each in paired_tests(store, uneven=uneven)}

        for method in "abc":
            attacked(method, "fgsm", 8)
            attacked(method, CHECKS, 7, of="fgsm", square=method)
        attacked("a", "pgd", 1, steps=5)
        assert pairs() == {"bc"}
        assert pairs(uneven=True) == {"ab", "ac", "bc"}
        attacked("b", "pgd", 2, steps=5, dtype="float16")  # the model's own precision, not the attack's
        assert pairs() == {"ab"}
        attacked("c", "pgd", 1, steps=6)
        assert pairs() == {"ab"}


def test_other_images_and_scores_between_right_and_wrong_are_not_compared(
    compare: Callable[..., list[Comparison]],
) -> None:
    assert compare(("a", "x", "", [1, 1]), ("b", "x", "", [0, 0]), data="another image") == []
    assert compare(("a", "y", "", [0.5, 1]), ("b", "y", "", [0.5, 0])) == []


def test_datasets_that_share_images_are_compared_as_far_as_these_tell(tmp_path: Path) -> None:
    with Results(tmp_path / "r.sqlite") as store:

        def measured(dataset: str, images: Sequence[int]) -> list[tuple[str, ...]]:
            for method in "ab":
                for source in ("", "self"):
                    chosen = setting(method, dataset, source, n=len(images))
                    store.begin(chosen)
                    samples = [
                        Sample(
                            position=at, label=0, prediction=0, score=float(method == "a"), data=f"{image}.{dataset}"
                        )
                        for at, image in enumerate(images)
                    ]
                    store.add(chosen, samples)
            return [tuple(name for name, _ in each.datasets) for each in paired_tests(store) if each.kind == "clean"]

        measured("x", range(4))
        assert measured("y", range(4, 8)) == [("x", "y"), ("x",), ("y",)]
        assert measured("y-balanced", [9, 7])[0] == ("x", "y", "y-balanced")
        joint = paired_tests(store)[0]
        assert joint.p == pytest.approx(2 / 2**9, abs=1e-3)  # nine images, of ten samples
        assert (joint.n, joint.difference, joint.test) == (10, 100, "a randomisation test")
        shared = shared_images(store, store.all(checks=True))
        both = frozenset({("zero-shot", "y", "test"), ("zero-shot", "y-balanced", "test")})
        assert shared.pairs == {both: pytest.approx(1)}
        table = tabulate(with_worst_cases(store), shared)
    (mean,) = (section for section in table.sections if section.mean)
    remark = "These data sets share images, which the intervals of means allow for: y and y-balanced."
    assert remark in table.remarks
    own = [section for section in table.sections if not section.mean]
    for at, line in enumerate(mean.lines):
        halves = [cell.percent - cell.low for section in own if (cell := section.lines[at].cells[0])]
        squares = sum(half**2 for half in halves) + 2 * halves[1] * halves[2] / 8**0.5
        cell = line.cells[0]
        assert cell is not None
        assert cell.percent - cell.low == pytest.approx(squares**0.5 / 3)
    for kind, name in (("md", "table.md"), ("html", "report.html")):
        write_report(tmp_path / "r.sqlite", tmp_path, formats=[kind])
        assert remark in (tmp_path / name).read_text()


def test_f1_of_datasets_that_share_images_has_no_test_together(tmp_path: Path) -> None:
    """It is no sum over images, so their answers cannot be swapped together."""
    for shift, expected in ((0, 2), (5, 3)):
        with Results(tmp_path / f"{shift}.sqlite") as store:
            for method in "ab":
                for dataset in "xy":
                    chosen = replace(setting(method, dataset, n=4), metric="F1")
                    store.begin(chosen)
                    samples = [
                        Sample(
                            position=at,
                            label=at % 2,
                            prediction=at % 2 if method == "a" else 0,
                            score=float(method == "a" or at % 2 == 0),
                            data=f"{at + shift * (dataset == 'y')}.{dataset}{at}",
                        )
                        for at in range(4)
                    ]
                    store.add(chosen, samples)
            assert len(paired_tests(store)) == expected


def test_methods_of_one_name_are_told_apart_by_their_models(tmp_path: Path) -> None:
    with Results(tmp_path / "r.sqlite") as store:
        for model in ("one", "two"):
            chosen = setting("same", model=model, n=1)
            store.begin(chosen)
            store.add(chosen, [Sample(position=0, label=0, prediction=0, score=1.0)])
        (found,) = paired_tests(store)
    assert {found.first, found.second} == {"same · one", "same · two"}
