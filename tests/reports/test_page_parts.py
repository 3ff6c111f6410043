"""What the page is made of: the verdict, the order of methods, sweeps, and the data behind its controls."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.reports.conftest import N, measure, setting

from radapt.reports._data import data_of
from radapt.reports._rank import ranked
from radapt.reports._summary import verdicts
from radapt.reports._sweeps import sweeps_of
from radapt.reports.html import page
from radapt.reports.table import Table, tabulate
from radapt.results import Results, Run, Sample, paired_tests, with_worst_cases


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Results]:
    with Results(tmp_path / "r.sqlite") as opened:
        yield opened


def add(
    store: Results, method: str, clean: int, transfer: int | None, white_box: int | None, **changes: object
) -> None:
    measure(store, setting(method), clean)
    for source, successes in (("undefended", transfer), ("self", white_box)):
        if successes is not None:
            measure(store, setting(method, source=source, **changes), successes)


def table_of(store: Results) -> Table:
    return ranked(tabulate(with_worst_cases(store)))


def outcomes(store: Results) -> dict[str, list[str]]:
    (verdict,) = verdicts(table_of(store))
    return {outcome: [method for method, _ in methods] for outcome, _, methods in verdict.groups}


def test_every_method_has_its_place_in_the_verdict(store: Results) -> None:
    add(store, "holds", 160, 150, 100)
    add(store, "weak", 160, 150, 60)
    add(store, "seems", 160, 150, 10)
    add(store, "falls", 160, 12, 4)
    add(store, "unknown", 160, 150, None)
    add(store, "masked", 160, 150, 150)
    store.flag(setting("masked", source="self"), {"large ball": "masked gradients?"})
    found = outcomes(store)
    assert {outcome: methods for outcome, methods in found.items() if outcome != "falls"} == {
        "holds": ["holds"], "weakened": ["weak"], "flagged": ["masked"], "seems": ["seems"], "unknown": ["unknown"],
    }  # fmt: skip
    assert found["falls"] == ["falls"]
    (verdict,) = verdicts(table_of(store))
    assert "holds has the highest white-box accuracy, 50.0 %" in verdict.headline


def test_a_figure_that_transfer_beats_is_lowered_and_leads_nothing(store: Results) -> None:
    add(store, "masked", 160, 20, 150)
    add(store, "honest", 160, 100, 80)
    (verdict,) = verdicts(table_of(store))
    assert "honest has the highest" in verdict.headline
    (sentence,) = [said for _, _, methods in verdict.groups for method, said in methods if method == "masked"]
    assert "10.0 % against white-box attacks" in sentence


def test_a_flagged_worst_case_leads_nothing_though_one_attack_alone_is_as_low(store: Results) -> None:
    add(store, "honest", 160, None, 80)
    add(store, "masked", 160, None, 100)
    measure(store, setting("honest", source="self", attack="square"), 120)
    square = measure(store, setting("masked", source="self", attack="square"), 120)
    store.flag(square, {"square beats gradients": "masked gradients?"})
    (verdict,) = verdicts(table_of(store))
    assert "honest has the highest white-box accuracy, 40.0 %" in verdict.headline
    assert "Flagged, and so not compared: masked." in verdict.headline
    assert outcomes(store)["flagged"] == ["masked"]


def test_the_page_rounds_in_one_way(store: Results) -> None:
    measure(store, setting("m", n=16), 13, n=16)  # 81.25 %
    measure(store, setting("m", n=16, source="self"), 9, n=16)  # 56.25 %
    (view,) = data_of(table_of(store), [], [])["views"]
    ((_, clean, _, white_box, _, _),) = view["points"]
    text = page(store)
    for value in (clean[0], white_box[0]):
        assert f"<b>{value:.1f}</b>" in text


def test_an_order_that_the_shared_samples_contradict_is_told(store: Results) -> None:
    """One has the higher figure, on fewer samples; on those the other is right more often."""
    for method, right, n in (("few", 80, 100), ("many", 300, 400)):
        measure(store, setting(method, n=n), right, n)
        measure(store, setting(method, source="self", n=n), right, n)
    (verdict,) = verdicts(table_of(store), paired_tests(store))
    assert "few leads in the figure that is shown, but on the samples that both were measured on" in verdict.certainty
    assert "many is ahead" in verdict.certainty
    assert "better than every other" not in verdict.certainty


def test_who_leads_is_tested_in_the_figure_that_is_shown(store: Results) -> None:
    """One is ahead in the mean over datasets, the other on most of the samples."""
    for method, small, large in (("mean", 20, 150), ("most", 4, 200)):
        for dataset, right, n in (("shapes", large, 400), ("textures", small, 20)):
            measure(store, setting(method, dataset, n=n), right, n)
            measure(store, setting(method, dataset, "self", n=n), right, n)
    (verdict,) = verdicts(table_of(store), paired_tests(store))
    assert "mean is better than every other method" in verdict.certainty
    assert "a randomisation test with Holm's correction" in verdict.certainty


def test_the_verdict_says_whether_the_first_is_told_apart(store: Results) -> None:
    for method, white_box in (("first", 120), ("second", 118), ("last", 20)):
        add(store, method, 160, 150, white_box)
    (verdict,) = verdicts(table_of(store), paired_tests(store))
    assert "first cannot be told apart from second (" in verdict.certainty
    assert "last" not in verdict.certainty
    assert "It is better than every other method" in verdict.certainty
    measure(store, setting("second", source="self"), 40)
    (verdict,) = verdicts(table_of(store), paired_tests(store))
    assert "first is better than every other method" in verdict.certainty


def test_the_verdict_says_with_whom_the_first_is_not_compared(store: Results) -> None:
    """Of a rival on other images nothing is known, nor of one on a part of the data sets."""

    def measured(method: str, white_box: int, *datasets: str, image: str = "") -> None:
        for dataset in datasets:
            for source, right in (("", 160), ("self", white_box)):
                chosen = setting(method, dataset, source)
                store.begin(chosen)
                scores = [float(at < right) for at in range(N)]
                samples = (Sample(position=at, label=1, prediction=1, score=each, data=f"{dataset}{at}{image}")
                           for at, each in enumerate(scores))  # fmt: skip
                store.add(chosen, list(samples))

    def certainty() -> str:
        (verdict,) = verdicts(table_of(store), paired_tests(store))
        return re.sub(r" \(.*?\)", "", verdict.certainty)

    measured("first", 150, "shapes", "digits")
    measured("last", 20, "shapes", "digits")
    assert certainty() == "first is better than every other method that may be trusted."
    measured("part", 60, "shapes")
    assert certainty() == "first is better than last. It is not compared with part."
    measured("other", 40, "shapes", "digits", image="another")
    measured("second", 149, "shapes", "digits")
    assert certainty() == (
        "first cannot be told apart from second. It is better than last. It is not compared with other or part."
    )


def test_methods_are_in_the_order_of_their_worst_case(store: Results) -> None:
    add(store, "none", 160, 150, None)
    add(store, "flagged", 160, 150, 140)
    store.flag(setting("flagged", source="self"), {"a": "b"})
    add(store, "low", 190, 150, 10)
    add(store, "high", 100, 95, 90)
    table = table_of(store)
    assert table.methods == ("high", "low", "flagged", "none")
    assert [line.method for line in table.sections[0].lines] == list(table.methods)


def test_the_radius_is_swept(store: Results) -> None:
    for eps, white_box in ((2 / 255, 90), (4 / 255, 50), (8 / 255, 10)):
        add(store, "m", 160, None, white_box, eps=eps)
    (sweep,) = sweeps_of(table_of(store), {})
    assert sweep.values == pytest.approx((2, 4, 8))
    ((_, line),) = sweep.charts[0].lines.items()
    assert [point.white_box[0] for _, point in line if point.white_box] == [45, 25, 5]


def test_settings_of_attacks_are_swept(store: Results) -> None:
    for steps, white_box in ((10, 90), (100, 50)):
        add(store, "m", 160, None, white_box, options={"steps": steps, "restarts": 1})
    (sweep,) = sweeps_of(table_of(store), {})
    assert (sweep.name, sweep.values) == ("steps of apgd", (10, 100))
    ((_, line),) = sweep.charts[0].lines.items()
    assert [point.white_box[0] for _, point in line if point.white_box] == [45, 25]


def test_a_sweep_holds_everything_else_of_the_attack(store: Results) -> None:
    for steps, loss, white_box in ((2, "ce", 90), (6, "dlr", 50), (8, "dlr", 40)):
        add(store, "m", 160, None, white_box, options={"steps": steps, "loss": loss})
    (sweep,) = sweeps_of(table_of(store), {})
    assert (sweep.name, sweep.values) == ("steps of apgd", (6, 8))
    add(store, "m", 160, None, 95, options={"steps": 3, "loss": "ce"})
    found = {sweep.name: sweep.values for sweep in sweeps_of(table_of(store), {})}
    assert found == {'steps of apgd (loss="ce")': (2, 3), 'steps of apgd (loss="dlr")': (6, 8)}


def test_a_sweep_of_transferred_images_is_of_one_source(store: Results) -> None:
    measure(store, setting("m"), 160)
    for source, all_steps in (("undefended", (2, 6)), ("FARE", (2,)), ("TeCoA", (6,)), ("self", (2, 6))):
        for steps in all_steps:
            options: dict[str, object] = {"steps": steps}
            if source != "self":
                options["source_model"] = f"model {source}"
            right = {"undefended": 100, "FARE": 60, "TeCoA": 60, "self": 50}[source] - steps
            measure(store, setting("m", source=source, options=options), right)
    found = [sweep for sweep in sweeps_of(table_of(store), {}) if "undefended" in sweep.name]
    assert [sweep.name for sweep in found] == ["steps of apgd (transfer from undefended)"]
    ((_, line),) = found[0].charts[0].lines.items()
    ends = [(x, *(end and end[0] for end in (point.transfer, point.white_box))) for x, point in line]
    assert ends == [(2, 49, 24), (6, 47, 22)]


def test_numbers_in_names_are_swept_from_three_on(store: Results) -> None:
    for alpha in ("0", "0.4", "1.2"):
        add(store, f"A, alpha {alpha}", 160, None, 50)
    add(store, "B, alpha 1", 160, None, 50)
    add(store, "B, alpha 2", 160, None, 50)
    (sweep,) = sweeps_of(table_of(store), {})
    assert (sweep.name, sweep.values) == ("alpha", (0, 0.4, 1.2))
    assert list(sweep.charts[0].lines) == ["A"]


def test_settings_of_adapters_are_swept_where_nothing_else_differs(store: Results) -> None:
    adapters = {}
    for at, (name, alpha) in enumerate({"plain": 0.2, "strong": 0.8}.items()):
        key = f"{at}" * 8
        adapters[key] = {"method": "training-free", "alpha": alpha, "cutoff": 0.1}
        for source in ("", "self"):
            measure(store, setting(name, source=source, model="one", adapter=key), 100)
    (sweep,) = sweeps_of(table_of(store), adapters)
    assert (sweep.name, sweep.values) == ("alpha", (0.2, 0.8))
    adapters["1" * 8]["method"] = "shallow"
    assert sweeps_of(table_of(store), adapters) == []


def test_the_data_of_the_page_hold_no_samples(make: Callable[..., Results], store: Results) -> None:
    def size(n: int) -> int:
        for method in ("a", "b"):
            for source in ("", "undefended", "self"):
                chosen = setting(method, source=source, n=n)
                measure(store, chosen, n // 2, n=n)
        table = table_of(store)
        return len(json.dumps(data_of(table, sweeps_of(table, {}), paired_tests(store))))

    assert size(N) < 1.1 * size(10)


def test_the_page_says_how_it_was_made(store: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    add(store, "m", 160, None, 50)
    text = page(store)
    assert "does not say by which command" in text
    for program in ("-", "-c"):
        monkeypatch.setattr(sys, "argv", [program])
        assert re.search(r"This page was made on .* by a call from Python\.", " ".join(page(store).split()))
    monkeypatch.setattr(sys, "argv", ["/some/where/radapt", "check", "a & b"])
    store.notes.add_run(
        Run(
            date="2031-01-02",
            command="radapt evaluate a & b",
            machine="a machine",
            device="a card",
            versions={"x": "7"},
        )
    )
    said = " ".join(re.sub(r"<[^>]+>", " ", page(store)).split())
    for words in (
        "2031-01-02",
        "radapt evaluate a &amp; b",
        "a machine",
        "a card",
        "x 7",
        "radapt check &#39;a &amp; b&#39;",
    ):
        assert words in said
