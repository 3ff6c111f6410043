from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tests.reports.conftest import METHODS, N, measure, setting

from radapt.errors import ResultsError
from radapt.reports import figures_of, print_table, read_cards, write_report
from radapt.reports._render import Terminal, csv_text, latex_text, markdown_text
from radapt.reports._summary import sentences
from radapt.reports.html import page
from radapt.reports.table import Cell, Table, plain, rows, tabulate
from radapt.results import CHECKS, WORST_CASE, Results, Sample, Setting, with_worst_cases
from radapt.results.labels import eps_text

Make = Callable[..., Results]


def cell(table: Table, section: str, method: str, title: str) -> Cell | None:
    at = [column.title for column in table.columns].index(title)
    (block,) = [found for found in table.sections if found.title == section]
    (line,) = [found for found in block.lines if found.method == method]
    return line.cells[at]


def tabulated(make: Make, *entries: tuple[Setting, int], n: int = N) -> Table:
    with make(*entries, n=n) as store:
        return tabulate(with_worst_cases(store))


TRANSFER, WHITE_BOX = "transfer from undefended, l∞ 4/255", "white-box, l∞ 4/255 (robust accuracy)"


def test_columns_are_named_after_what_was_measured(results_file: Path) -> None:
    with Results(results_file, read_only=True) as store:
        table = tabulate(with_worst_cases(store))
    assert [column.title for column in table.columns] == ["clean", TRANSFER, WHITE_BOX]
    assert table.methods == tuple(METHODS)
    assert [section.title for section in table.sections] == ["mean over 3 data sets", "shapes", "colours", "digits"]


def test_results_and_their_mean_equal_hand_computed_ones(results_file: Path) -> None:
    with Results(results_file, read_only=True) as store:
        table = tabulate(with_worst_cases(store))
    fare = [cell(table, dataset, "FARE", "clean") for dataset in ("shapes", "colours", "digits")]
    assert [found.percent for found in fare if found] == [63.0, 69.0, 55.0]  # 126, 138 and 110 of 200
    z = 1.959963984540054
    middle = (0.63 + z * z / 400) / (1 + z * z / 200)
    half = z / (1 + z * z / 200) * math.sqrt(0.63 * 0.37 / 200 + z * z / 160000)
    assert fare[0] is not None
    assert (fare[0].low, fare[0].high) == pytest.approx((100 * (middle - half), 100 * (middle + half)))
    mean = cell(table, "mean over 3 data sets", "FARE", "clean")
    assert mean is not None
    assert mean.percent == pytest.approx((63 + 69 + 55) / 3)
    below = math.sqrt(sum((found.percent - found.low) ** 2 for found in fare if found)) / 3
    assert mean.low == pytest.approx(mean.percent - below)
    assert mean.n == 600


def test_no_transfer_column_is_ever_called_robust(make: Make) -> None:
    entries = [
        (setting("a", source=source, attack=attack, eps=eps), 50)
        for source in ("undefended", "FARE (robust)", "self")
        for attack in ("apgd", "pgd")
        for eps in (2 / 255, 4 / 255)
    ]
    table = tabulated(make, (setting("a"), 90), *entries)
    assert len(table.columns) == 1 + 12 + 2
    for column in table.columns:  # of two attacks in a ball, neither alone gives the robust accuracy
        assert ("robust accuracy" in column.title) == column.title.startswith("worst case") == column.robust
    titles = [column.title for column in table.columns]
    assert len(set(titles)) == len(titles)
    assert titles[1] == "transfer from undefended, l∞ 2/255, apgd"
    assert "white-box, l∞ 4/255, pgd" in titles
    assert "worst case, l∞ 4/255 (robust accuracy)" in titles


def test_one_attack_alone_gives_the_robust_accuracy(make: Make) -> None:
    table = tabulated(make, (setting("b"), 90), (setting("b", source="self"), 40), (setting("b", source="FARE"), 50))
    assert [column.title for column in table.columns if column.robust] == ["white-box, l∞ 4/255 (robust accuracy)"]


def test_a_transfer_result_without_its_white_box_partner_is_marked_everywhere(make: Make) -> None:
    entries = [
        (setting("open"), 90),
        (setting("open", source="undefended"), 80),
        (setting("open", source="self", eps=2 / 255), 70),  # another ball is no partner
        (setting("full", source="undefended"), 80),
        (setting("full", source="self"), 20),
    ]
    table = tabulated(make, *entries)
    marked, paired = cell(table, "shapes", "open", TRANSFER), cell(table, "shapes", "full", TRANSFER)
    assert marked is not None
    assert paired is not None
    assert (marked.unpaired, paired.unpaired) == ("white-box not measured", "")
    stream = io.StringIO()
    Console(file=stream, width=200).print(Terminal(table))
    for text in (stream.getvalue(), markdown_text(table), csv_text(table), latex_text(table)):
        assert text.count("white-box not measured") == 1


def test_flags_are_footnotes_at_their_results(results_file: Path) -> None:
    with Results(results_file, read_only=True) as store:
        table = tabulate(with_worst_cases(store))
    assert table.notes == ("zero gradients: 31 % of the pixels",)
    marked = {
        (section.title, line.method, column.kind)
        for section in table.sections
        for line in section.lines
        for column, found in zip(table.columns, line.cells, strict=True)
        if found and found.marks == (1,)
    }
    assert marked == {(place, "R-Adapt_CLIP", "white-box") for place in ("digits", "mean over 3 data sets")}


def test_unfinished_results_and_partial_means_say_so(make: Make) -> None:
    entries = [(setting("a"), 90), (setting("a", "digits"), 80), (setting("b"), 70)]
    table = tabulated(make, *entries, n=100)  # of 200 asked for
    found = cell(table, "shapes", "a", "clean")
    assert found is not None
    assert found.partial == "100 of 200 samples"
    mean = cell(table, "mean over 2 data sets", "b", "clean")
    assert mean is not None
    assert mean.partial == "1 of 2 data sets, not all samples"


def test_different_sizes_are_shown_at_the_results(tmp_path: Path) -> None:
    with Results(tmp_path / "r.sqlite") as store:
        measure(store, setting("a", n=50), 20, 50)
        measure(store, setting("b"), 20)
        table = tabulate(with_worst_cases(store))
    assert table.sections[0].n is None
    assert "n = 50" in markdown_text(table)
    assert "n = 200" in markdown_text(table)


def test_equal_names_of_different_models_become_two_lines(make: Make) -> None:
    table = tabulated(make, (setting("x", model="small"), 50), (setting("x", model="large"), 150), (setting("y"), 9))
    assert table.methods == ("x · small", "x · large", "y")


@pytest.mark.parametrize(
    ("one", "other", "names"),
    [
        ({"adapter": "aa"}, {"adapter": "bb"}, ("x · aa", "x · bb")),
        ({"adapter": "aa"}, {}, ("x · aa", "x · no adapter")),
        ({"model": "m"}, {"model": "n"}, ("x · m", "x · n")),
        ({"depends": {"model": "aa"}}, {"depends": {"model": "bb"}}, ("x · weights aa", "x · weights bb")),
        ({"model": "m", "adapter": "aa"}, {"model": "n"}, ("x · m", "x · n")),
    ],
)  # fmt: skip
def test_one_label_of_two_models_is_two_lines_without_a_mean_over_them(
    make: Make, one: dict[str, Any], other: dict[str, Any], names: tuple[str, str]
) -> None:
    entries = [(setting("x", **one), 50), (setting("x", "digits", **other), 150), (setting("y"), 20)]
    table = tabulated(make, *entries, (setting("y", "digits"), 40))
    assert table.methods == (*names, "y")
    assert [cell(table, "mean over 2 data sets", name, "clean").partial for name in names] == ["1 of 2 data sets"] * 2
    assert cell(table, "mean over 2 data sets", "y", "clean").percent == 15
    assert cell(table, "digits", names[1], "clean").percent == 75


def test_the_same_attack_with_other_options_gets_its_own_column(make: Make) -> None:
    entries = [(setting("x", source="self", options={"steps": steps}), 100 // steps) for steps in (1, 10)]
    table = tabulated(make, *entries)
    assert [column.title for column in table.columns] == [
        "white-box, l∞ 4/255, steps=1",
        "white-box, l∞ 4/255, steps=10",
        "worst case, l∞ 4/255 (robust accuracy)",
    ]


def test_unequal_options_of_different_methods_share_a_column_with_a_remark(make: Make) -> None:
    entries = [(setting(name, source="self", options={"eot": eot}), 10) for name, eot in (("x", 1), ("y", 10))]
    table = tabulated(make, *entries)
    assert len(table.columns) == 1
    assert any("not the same for every result" in remark for remark in table.remarks)


def test_the_newest_version_alone_is_shown(make: Make) -> None:
    table = tabulated(make, (setting("x"), 10), (setting("x", version="2.0"), 100))
    found = cell(table, "shapes", "x", "clean")
    assert found is not None
    assert found.percent == 50
    assert len(table.columns) == len(table.sections) == 1


def test_tasks_are_averaged_apart(make: Make) -> None:
    entries = [(setting("x", name, task=task), 50) for task in ("zero-shot", "captioning") for name in ("a", "b")]
    table = tabulated(make, *entries)
    assert [section.title for section in table.sections if section.mean] == [
        "mean over 2 data sets, zero-shot",
        "mean over 2 data sets, captioning",
    ]


def test_an_empty_file_is_one_clear_error(tmp_path: Path) -> None:
    with Results(tmp_path / "r.sqlite") as store:
        store.begin(setting("x"))
        with pytest.raises(ResultsError, match=r"no results to report: .* is empty"):
            print_table(store, Console())


@pytest.mark.parametrize(
    ("eps", "text"), [(4 / 255, "4/255"), (0.0157, "0.0157"), (0.5, "0.5"), (128 / 255, "128/255"), (1.0, "1")]
)
def test_radii_are_written_in_255ths_where_they_are(eps: float, text: str) -> None:
    assert eps_text(eps) == text


@given(st.integers(1, 254))
def test_every_255th_is_recognised(k: int) -> None:
    assert eps_text(k / 255) == f"{k}/255"


@given(st.text())
def test_plain_text_can_be_written_and_has_no_line_breaks(text: str) -> None:
    assert plain(text).encode().decode() == plain(text)
    assert not set("\n\r\t\x00") & set(plain(text))


def test_csv_holds_the_unrounded_numbers(results_file: Path) -> None:
    with Results(results_file, read_only=True) as store:
        results = store.all()
    lines = list(csv.DictReader(io.StringIO(csv_text(tabulate(results)))))
    means = sum(1 for line in lines if line["mean"] == "1")
    assert len(lines) - means == len(results)
    by_place = {(line["section"], line["method"], line["kind"]): line for line in lines}
    for result in results:
        line = by_place[result.setting.dataset, result.setting.method, result.kind]
        assert (float(line["percent"]), float(line["low"])) == (result.percent, result.low)
    assert by_place["digits", "R-Adapt_CLIP", "white-box"]["flags"] == "zero gradients: 31 % of the pixels"


def test_csv_tells_what_was_checked_from_what_was_not(tmp_path: Path) -> None:
    with Results(tmp_path / "r.sqlite") as store:
        for dataset, checked in (("shapes", 10), ("digits", 9)):
            chosen = setting("x", dataset, n=10)
            attacked_rows(store, chosen, set())
            store.flag(chosen, {}, checked=checked)
        lines = list(csv.DictReader(io.StringIO(csv_text(tabulate(store.all())))))
    assert {(line["section"], line["flags"], line["checked"]) for line in lines} == {
        ("shapes", "", "true"), ("digits", "", "false"), ("mean over 2 data sets", "", "false"),
    }  # fmt: skip


NASTY = [
    "a|b",
    "[x](y)",
    "<script>alert(1)</script>",
    "50% & $x_1$ {#} ~^\\",
    '= 1, "q"\nnew',
    "_x_ *y* `z`",
    "[red]r[/]",
    "=cmd|' /C calc'!A0",
    "@SUM(1)",
    "+1 (ours)",
    "-2+3",
    "\t=1",
    "\uff1d1",
]


@pytest.mark.parametrize("name", NASTY)
def test_names_are_escaped_in_every_text_format(make: Make, name: str) -> None:
    table = tabulated(make, (setting(name), 50), (setting(name, source=name), 20))
    stream = io.StringIO()
    Console(file=stream, width=300).print(Terminal(table))
    assert plain(name) in stream.getvalue()
    lines = list(csv.DictReader(io.StringIO(csv_text(table))))
    assert {line["method"].removeprefix("'") for line in lines} == {plain(name)}
    assert not any(
        cell.startswith(("=", "+", "-", "@", "\t", "\r", "\uff1d")) for line in lines for cell in line.values()
    )
    assert {float(line["percent"]) for line in lines} == {25.0, 10.0}  # numbers stay numbers
    for line in markdown_text(table).splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == len(table.columns) + 2
            assert "<script" not in line.replace(r"\<script", "")
    latex = latex_text(table)
    body = re.sub(r"\\[%&$#_{}]", "", latex.partition("\n")[2])
    assert body.count("{") == body.count("}")
    assert not set("%#~|<>") & set(body)
    assert len(re.findall(r"(?<!\\)\$", body)) % 2 == 0
    (row,) = [line for line in body.splitlines() if " 25.0 " in line]
    assert row.count("&") == len(table.columns)
    assert not row.startswith("[")


def test_latex_is_balanced_with_as_many_cells_as_columns(results_file: Path) -> None:
    with Results(results_file, read_only=True) as store:
        latex = latex_text(tabulate(with_worst_cases(store)))
    assert latex.count(r"\begin{tabular}{lrrr}") == latex.count(r"\end{tabular}") == 1
    assert latex.count(r"\toprule") == latex.count(r"\bottomrule") == 1
    assert latex.count(r"\midrule") == 4
    assert r"\multicolumn{2}{c}{l$_\infty$ 4/255}" in latex
    assert r"R-Adapt\_CLIP & 73.0 {\scriptsize [66.5, 78.7]} &" in latex
    lines = [line for line in latex.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert len(lines) == 1 + 4 * len(METHODS)
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {3}


def test_rows_are_flat_json(results_file: Path) -> None:
    with Results(results_file, read_only=True) as store:
        results = store.all()
    found = json.loads(json.dumps(rows(results), allow_nan=False))
    assert len(found) == len(results)
    assert all(not isinstance(value, dict | list) for row in found for value in row.values())
    assert found[1] == results[1].row()


def test_sentences_say_who_falls_who_loses_and_what_was_not_measured(results_file: Path) -> None:
    with Results(results_file, read_only=True) as store:
        ((headline, outcomes),) = sentences(tabulate(with_worst_cases(store)))
    assert "TeCoA has the highest white-box accuracy, 35.2 %" in headline
    by_method = dict(outcomes)
    assert next(iter(by_method)) == "TeCoA"  # the highest white-box result comes first
    assert list(by_method)[-1] == "R-Adapt+ (adaptive)"  # and what was not measured last
    assert "it falls to an attacker who knows it" in by_method["R-Adapt_CLIP"]
    assert by_method["R-Adapt_CLIP"].startswith("72.3 % clean, 59.8 % against transferred attacks, 2.0 %")
    assert by_method["TeCoA"].endswith("20.1 of 55.3 points lost, 13.6 more than against transferred attacks.")
    assert "white-box not measured" in by_method["R-Adapt+ (adaptive)"]


def test_a_white_box_attack_weaker_than_transfer_is_called_suspect(make: Make) -> None:
    entries = [(setting("x"), 180), (setting("x", source="undefended"), 40), (setting("x", source="self"), 120)]
    table = tabulated(make, *entries)
    ((headline, ((_, sentence),)),) = sentences(table)
    assert "20.0 % against white-box attacks, with flags [1]: the true figure may be far lower; do not" in sentence
    assert "none is to be trusted" in headline
    assert (
        "weaker than transfer: the white-box attack alone leaves 60.0 %, images made on another model 20.0 %"
        in (table.notes[0])
    )


def test_a_loss_is_computed_over_the_data_sets_that_all_results_cover(make: Make) -> None:
    entries = [
        (setting("x"), 100),
        (setting("x", source="undefended"), 90),
        (setting("x", source="self"), 60),
        (setting("x", "hard"), 60),
        (setting("x", "hard", "undefended"), 10),
    ]
    ((headline, ((_, sentence),)),) = sentences(tabulated(make, *entries))
    assert sentence.startswith("50.0 % clean (on the 1 of 2 data sets with all results), 45.0 % against transferred")
    assert sentence.endswith("20.0 of 50.0 points lost, 15.0 more than against transferred attacks.")
    assert "no method has a white-box result on every data set" in headline


def test_the_lowest_of_several_attacks_counts(make: Make) -> None:
    attacks = [
        (setting("x", source="self", attack=name), successes)
        for name, successes in (("pgd", 90), ("apgd", 60), ("fab", 70))
    ]
    ((headline, _),) = sentences(tabulated(make, (setting("x"), 100), *attacks))
    assert "30.0 %" in headline


def attacked_rows(store: Results, chosen: Setting, fooled: set[int], n: int = 10) -> None:
    store.begin(chosen)
    kept = [k not in fooled for k in range(n)]
    store.add(chosen, [Sample(position=k, label=1, prediction=int(right), score=right) for k, right in enumerate(kept)])


@pytest.mark.parametrize(
    ("attacks", "expected"),
    [
        ({"apgd self": {0, 1, 2}, "fgsm self": {0, 3}}, 60.0),
        ({"apgd self": {0, 1}, "pgd undefended": {5, 6, 7}}, 50.0),  # an image is adversarial whoever made it
        ({"apgd self": {0, 1, 2}, "pgd undefended": {0, 1}}, None),  # nothing that its own attack did not find
        ({"pgd undefended": {5, 6}, "pgd FARE": {7}}, None),  # transfer alone is no robust accuracy
        ({"apgd self": set(range(10)), "square self": set()}, 0.0),
        ({"apgd self": set(), "fgsm self": set(), "square self": {9}}, 90.0),
    ],
)
def test_robust_accuracy_is_the_worst_case_of_each_sample(
    attacks: dict[str, set[int]], expected: float | None, tmp_path: Path
) -> None:
    with Results(tmp_path / "r.sqlite") as store:
        attacked_rows(store, setting("x", n=10), set())
        for name, fooled in attacks.items():
            attack, source = name.split()
            attacked_rows(store, setting("x", source=source, attack=attack, n=10), fooled)
        results = with_worst_cases(store)
    worst = [result for result in results if result.setting.attack == WORST_CASE]
    assert [result.percent for result in worst] == ([] if expected is None else [expected])
    table = tabulate(results)
    robust = [at for at, column in enumerate(table.columns) if "robust" in column.title]
    assert len(robust) == any("self" in name for name in attacks)
    if expected is not None:
        found = table.sections[0].lines[0].cells[robust[0]]
        assert found is not None
        assert found.percent == expected
        assert worst[0].setting.options["attacks"] == sorted(name.replace(" ", " from ") for name in attacks)


def test_a_method_with_one_attack_stands_beside_those_with_several(tmp_path: Path) -> None:
    with Results(tmp_path / "r.sqlite") as store:
        for method, names in (("x", ("apgd", "fgsm")), ("y", ("apgd",)), ("z", ("square",))):
            for at, name in enumerate(names):
                attacked_rows(store, setting(method, source="self", attack=name, n=10), {at})
        table = tabulate(with_worst_cases(store))
    (at,) = [number for number, column in enumerate(table.columns) if column.robust]
    cells = {line.method: line.cells[at] for line in table.sections[0].lines}
    assert {name: found.percent for name, found in cells.items() if found} == {"x": 80.0, "y": 90.0, "z": 90.0}


@pytest.mark.parametrize(
    ("more", "less", "remark"),
    [
        (["fgsm 1 0", "pgd 1 0"], ["fgsm 1 0"], "attacked by fgsm alone; others by pgd, too"),
        (["pgd 1 0", "pgd 5 0"], ["pgd 1 0"], "attacked by pgd (steps=1) alone; others by pgd (steps=5), too"),
        (["pgd 1 0", "pgd 1 1"], ["pgd 1 0"], "attacked by pgd alone; others by pgd from more seeds, too"),
        (["fgsm 1 0", "pgd 1 0"], ["fgsm 1 0", "pgd 1 0", f"{CHECKS} 1 0"], ""),  # what checks try is asked of nobody
    ],
)
def test_a_worst_case_over_fewer_attacks_leads_nothing(
    more: list[str], less: list[str], remark: str, tmp_path: Path
) -> None:
    with Results(tmp_path / "r.sqlite") as store:
        for method, attacks, fooled in (("more", more, {1, 2, 3}), ("less", less, {1})):
            for dataset in ("shapes", "digits"):
                attacked_rows(store, setting(method, dataset, n=10), set())
                for each in attacks:
                    name, steps, seed = each.rsplit(" ", 2)
                    options = {"steps": int(steps), "loss": "ce"}
                    own = setting(method, dataset, "self", attack=name, n=10, options=options, seed=int(seed))
                    attacked_rows(store, own, fooled)
        table = tabulate(with_worst_cases(store))
        text = page(store)
    ((headline, outcomes),) = sentences(table)
    assert table.notes == ((remark,) if remark else ())
    assert f"{'more' if remark else 'less'} has the highest white-box accuracy" in headline
    assert ("Flagged, and so not compared: less." in headline) == bool(remark)
    assert ("do not trust it" in dict(outcomes)["less"]) == bool(remark)
    (at,) = (number for number, column in enumerate(table.columns) if column.robust)
    marked = {
        (line.method, number)
        for section in table.sections
        for line in section.lines
        for number, found in enumerate(line.cells)
        if found and found.marks
    }
    assert marked == ({("less", at)} if remark else set())
    assert ("Raised on less, shapes, white-box; less, digits, white-box." in " ".join(text.split())) == bool(remark)


@pytest.mark.parametrize(
    ("flags", "winner"),
    [
        ({"large ball": "at 64/255 still 12 of 12"}, "honest"),
        ({"square beats gradients": "Square fools 5 more"}, "honest"),
        ({}, "masked"),
    ],
)
def test_a_flagged_result_never_leads(flags: dict[str, object], winner: str, tmp_path: Path) -> None:
    with Results(tmp_path / "r.sqlite") as store:
        for method, fooled in (("masked", {0}), ("honest", {0, 1, 2, 3})):
            attacked_rows(store, setting(method, n=10), set())
            attacked_rows(store, setting(method, source="self", n=10), fooled)
        store.flag(setting("masked", source="self", n=10), flags, checked=10)
        ((headline, outcomes),) = sentences(tabulate(with_worst_cases(store)))
    assert f"{winner} has the highest white-box accuracy" in headline
    assert ("Flagged, and so not compared: masked." in headline) == bool(flags)
    assert ("do not trust it" in dict(outcomes)["masked"]) == bool(flags)
    assert outcomes[0][0] == winner


@pytest.mark.parametrize("name", ["stochastic", "batch"])
def test_a_model_whose_answers_vary_never_leads(name: str, tmp_path: Path) -> None:
    with Results(tmp_path / "r.sqlite") as store:
        for method, fooled in (("varying", {0}), ("honest", {0, 1, 2, 3})):
            attacked_rows(store, setting(method, n=10), set())
            attacked_rows(store, setting(method, source="self", n=10), fooled)
        store.flag(setting("varying", n=10), {name: "answers vary"}, checked=10)  # of the model: on the clean result
        ((headline, outcomes),) = sentences(tabulate(with_worst_cases(store)))
    assert "honest has the highest white-box accuracy" in headline
    assert "Flagged, and so not compared: varying." in headline
    assert "do not trust it" in dict(outcomes)["varying"]


def test_where_every_result_is_flagged_none_leads(tmp_path: Path) -> None:
    with Results(tmp_path / "r.sqlite") as store:
        attacked_rows(store, setting("x", n=10), set())
        attacked_rows(store, setting("x", source="self", n=10), {1})
        store.flag(setting("x", source="self", n=10), {"zero gradient": "on 10"}, checked=10)
        ((headline, _),) = sentences(tabulate(with_worst_cases(store)))
    assert "there are flags on every white-box result, so none is to be trusted" in headline


def test_a_great_loss_is_not_called_a_small_one(make: Make) -> None:
    entries = [(setting("x"), 186), (setting("x", source="undefended"), 4), (setting("x", source="self"), 2)]
    ((headline, ((_, sentence),)),) = sentences(tabulated(make, *entries))
    assert sentence.endswith("it falls to an attacker who knows it (92.0 of 93.0 points lost).")
    assert headline.endswith("x falls.")


def test_results_without_checks_do_not_read_as_results_without_flags(tmp_path: Path) -> None:
    texts = []
    for checked in (0, 10):
        path = tmp_path / f"{checked}.sqlite"
        with Results(path) as store:
            attacked_rows(store, setting("x", n=10), set())
            store.flag(setting("x", n=10), {}, checked=checked)
            texts.append(" ".join(tabulate(with_worst_cases(store)).remarks))
        with Results(path, read_only=True) as store:
            texts.append(page(store))
    without, without_page, checked_text, checked_page = texts
    assert "The sanity checks were not made on 1 of 1 results" in without
    assert "The sanity checks were made on all results." in checked_text
    assert "The sanity checks were not made on 1 of 1 results" in without_page
    assert "The sanity checks that were made raised no flags." in checked_page


def test_a_worst_case_is_over_one_model_and_one_content(tmp_path: Path) -> None:
    with Results(tmp_path / "r.sqlite") as store:
        for attack, fooled, model in (("apgd", {0, 1}, "before"), ("fgsm", {2}, "after"), ("square", {3}, "after")):
            attacked_rows(store, setting("x", source="self", attack=attack, n=10, depends={"model": model}), fooled)
        worst = [result for result in with_worst_cases(store) if result.setting.attack == WORST_CASE]
    assert [result.percent for result in worst] == [80.0]
    assert worst[0].setting.options["attacks"] == ["fgsm from self", "square from self"]


def test_a_worst_case_is_over_attacks_on_the_same_images(tmp_path: Path) -> None:
    with Results(tmp_path / "r.sqlite") as store:

        def attacked(attack: str, source: str, fooled: set[int], images: Sequence[str]) -> None:
            attack_setting = setting("x", source=source, attack=attack, n=4)
            store.begin(attack_setting, images)
            rows = [
                Sample(position=at, label=0, prediction=0, score=float(at not in fooled), data=image)
                for at, image in enumerate(images)
            ]
            store.add(attack_setting, rows)

        attacked("pgd", "self", {0, 1, 2, 3}, "abcd")
        attacked("fgsm", "undefended", {1, 2, 3}, "abcX")
        attacked("apgd", "self", set(), "abXX")  # two images were replaced since, and this attack ran again
        worst = [result for result in with_worst_cases(store) if result.setting.attack == WORST_CASE]
        # Of the new images, pgd says nothing and fgsm was tried on one; of the old ones, all count.
        assert [(result.percent, result.n) for result in worst] == [(25.0, 4)]
        attacked("apgd", "self", set(), "XXXX")  # all of them are other ones
        worst = [result for result in with_worst_cases(store) if result.setting.attack == WORST_CASE]
        assert [(result.percent, result.setting.options["attacks"]) for result in worst] == [
            (75.0, ["apgd from self", "fgsm from undefended"])
        ]
        attacked("fgsm", "undefended", set(), "YYYY")
        # Two attacks are known and one of these images: the worst case says which, as the other column is of others.
        worst = [result for result in with_worst_cases(store) if result.setting.attack == WORST_CASE]
        assert [(result.percent, result.setting.options["attacks"]) for result in worst] == [
            (100.0, ["apgd from self"])
        ]


def test_an_attack_on_some_of_the_samples_makes_no_worst_case_of_all_of_them(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    with Results(path) as store:
        for method, half in (("whole", 10), ("half", 4)):
            attacked_rows(store, setting(method, n=10), set())
            attacked_rows(store, setting(method, source="self", n=10), {0})
            attacked_rows(store, setting(method, source="self", attack="autoattack", n=10), {1}, half)
            attacked_rows(store, setting(method, source="undefended", n=10), {2}, 3)  # of a transfer, that is no matter
            for source, attack in (("", "none"), ("self", "apgd"), ("self", "autoattack")):
                changes = {"attack": attack} if source else {}
                seen = half if attack == "autoattack" else 10
                store.flag(setting(method, source=source, n=10, **changes), {}, checked=seen)
        results = with_worst_cases(store)
    worst = {each.setting.method: each for each in results if each.setting.attack == WORST_CASE}
    assert [(each.percent, each.n, dict(each.flags)) for each in worst.values()] == [
        (70.0, 10, {}),
        (70.0, 10, {"attacks of fewer samples": "autoattack on 4 of 10"}),
    ]
    table = tabulate(results)
    found = cell(table, "shapes", "half", "worst case, l∞ 4/255 (robust accuracy)")
    assert found is not None
    assert found.marks == (1,)
    assert table.notes == ("attacks of fewer samples: autoattack on 4 of 10",)
    ((headline, _),) = sentences(table)
    assert "whole has the highest white-box accuracy" in headline
    assert "Flagged, and so not compared: half." in headline
    write_report(path, tmp_path / "report", formats=["csv", "html"], cards=tmp_path / "cards")
    assert "autoattack on 4 of 10" in (tmp_path / "report" / "report.html").read_text()
    doubts = {card.name: card.results[0].doubts for card in read_cards(tmp_path / "cards").values()}
    assert doubts == {"whole": [], "half": ["flag: attacks of fewer samples"]}
    figures = {
        name: next(figures_of([each for each in results if each.setting.method == name])) for name in ("whole", "half")
    }
    assert figures["whole"].trusted
    assert "attacks of fewer samples (autoattack on 4 of 10)" in figures["half"].doubt


def test_of_several_that_could_be_the_worst_case_the_lowest_is_shown(tmp_path: Path) -> None:
    with Results(tmp_path / "r.sqlite") as store:
        for weights, fooled, attacks in (("a", {0}, ["fgsm"]), ("b", {0, 1}, ["pgd"]), ("c", {0}, ["apgd"])):
            for attack in attacks:
                own = setting("x", source="self", attack=attack, n=10, depends={"content": weights})
                attacked_rows(store, own, fooled)
        table = tabulate(with_worst_cases(store))
    found = cell(table, "shapes", "x", "worst case, l∞ 4/255 (robust accuracy)")
    assert found is not None
    assert found.percent == 80
    with Results(tmp_path / "r.sqlite") as store:
        for attack in ("fgsm", "pgd", "apgd"):
            for weights, fooled in (("d", {0, 1, 2}), ("e", {3})):
                own = setting("x", source="self", attack=attack, n=10, depends={"content": weights})
                own = replace(own, options={"dtype": weights})
                attacked_rows(store, own, fooled)
        table = tabulate(with_worst_cases(store))
    (at,) = (number for number, column in enumerate(table.columns) if column.robust)
    shown = table.sections[0].lines[0].cells[at]
    assert shown is not None
    assert shown.percent == 70
