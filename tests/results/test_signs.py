"""Flags follow from the signs of all samples, whoever measured which of them, and in which order."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from radapt.results import SIGNS, Results, Sample, Setting, Sign, take_over
from radapt.results.signs import flags_of

SETTING = Setting(method="CLIP", model="m", dataset="shapes", n=20, attack="pgd", source="self", version="1")
SAMPLES = st.lists(st.tuples(st.integers(0, 2), st.sets(st.sampled_from(SIGNS))), min_size=1, max_size=20)
THRESHOLDS: dict[str, tuple[Sign, float]] = {
    "loss not rising": ("flat", 0.05),
    "zero gradient": ("zero gradient", 0.05),
    "failed": ("failed", 0),
    "unconfirmed": ("unconfirmed", 0),
    "abandoned too early": ("misjudged", 0),
    "8 bits": ("8 bits", 0.05),
    "not finite": ("not finite", 0),
}
"""Which flag is of which sign, and the share of the attacked samples that it must be more than."""


def samples(drawn: Sequence[tuple[int, set[Sign]]]) -> list[Sample]:
    return [
        Sample(position=position, label=0, prediction=1, score=0.0, iterations=steps, signs=tuple(sorted(signs)))
        for position, (steps, signs) in enumerate(drawn)
    ]


def flags(file: Path) -> dict[str, object]:
    with Results(file, read_only=True) as results:
        (result,) = results.all()
    return dict(result.flags)


@given(SAMPLES)
def test_each_flag_is_of_its_sign_above_its_share(drawn: list[tuple[int, set[Sign]]]) -> None:
    found = flags_of([",".join(signs) for _, signs in drawn], [steps for steps, _ in drawn])
    counts = Counter(sign for _, signs in drawn for sign in signs)
    attacked = sum(steps > 0 or bool(signs - {"not finite"}) for steps, signs in drawn)
    expected = {name for name, (sign, share) in THRESHOLDS.items() if counts[sign] > share * attacked}
    if counts["without gradients"] > max(1, 0.01 * attacked):
        expected.add("square beats gradients")
    assert found.keys() == expected
    for name in expected & THRESHOLDS.keys():
        assert f"{counts[THRESHOLDS[name][0]]} " in str(found[name])
    for text in map(str, found.values()):  # never more than there are
        part, whole = (int(number) for number in re.search(r"(\d+) of (\d+)", text).groups())  # type: ignore[union-attr]
        assert part <= whole or "checked searches" in text


@settings(max_examples=20)
@given(SAMPLES, st.randoms(use_true_random=False), st.integers(1, 4))
def test_flags_are_the_same_in_any_order_and_from_any_parts(
    drawn: list[tuple[int, set[Sign]]], numbers: Random, count: int
) -> None:
    whole = samples(drawn)
    with TemporaryDirectory() as folder:
        once, parts = Path(folder) / "once.sqlite", [Path(folder) / f"{part}.sqlite" for part in range(count)]
        with Results(once) as results:
            results.begin(SETTING)
            results.add(SETTING, whole)
            assert results.samples(SETTING) == whole
        shuffled = list(whole)
        numbers.shuffle(shuffled)
        for part, file in enumerate(parts):
            with Results(file) as results:
                results.begin(SETTING)
                for each in shuffled[part::count]:  # as chunks that are committed one by one
                    results.add(SETTING, [each])
        with Results(Path(folder) / "merged.sqlite") as merged, Results(Path(folder) / "taken.sqlite") as taken:
            for file in parts:
                with Results(file, read_only=True) as part_of_it:
                    merged.merge(part_of_it)
                    take_over(taken, SETTING, [""] * len(whole), part_of_it)
        assert flags(once) == flags(Path(folder) / "merged.sqlite") == flags(Path(folder) / "taken.sqlite")


def test_flags_are_of_the_samples_that_are_asked_for(tmp_path: Path) -> None:
    with Results(tmp_path / "r.sqlite") as results:
        for n, expected in (
            (20, {"failed": "the search ended early on 2 of 20 attacked samples: loss or gradient not finite"}),
            (10, {}),
        ):
            asked = replace(SETTING, n=n)
            results.begin(asked)
            results.add(asked, samples([(3, set())] * 18 + [(3, {"failed"})] * 2))
            (result,) = results.all()
            assert dict(result.flags) == expected
