from __future__ import annotations

import io
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.reports.conftest import measure, setting

from radapt import reports
from radapt.errors import ResultsError, SettingsError
from radapt.reports._rank import ranked
from radapt.reports.table import tabulate
from radapt.results import Results, with_worst_cases

NAMES = {
    "table.md", "table.csv", "table.tex", "results.json", "tradeoff.png", "tradeoff_datasets.png", "tradeoff.svg",
    "tradeoff_datasets.svg", "report.html",
}  # fmt: skip


@pytest.mark.slow
def test_a_report_is_all_its_files_and_nothing_else(results_file: Path, tmp_path: Path) -> None:
    written = reports.write_report(results_file, tmp_path / "new" / "report")
    assert {path.name for path in written} == NAMES
    assert {path.name for path in (tmp_path / "new" / "report").iterdir()} == NAMES
    assert all(path.stat().st_size > 200 for path in written)
    assert len(json.loads((tmp_path / "new" / "report" / "results.json").read_text())) == 69


@pytest.mark.slow
def test_only_the_asked_formats_are_written_over_older_ones(results_file: Path, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("old")
    written = reports.write_report(results_file, tmp_path, formats=("csv",))
    assert [path.name for path in written] == ["table.csv"]
    assert (tmp_path / "table.csv").read_text().startswith("section,")


@pytest.mark.slow
def test_figures_of_an_earlier_report_do_not_stay(tmp_path: Path) -> None:
    names = ("tradeoff.png", "tradeoff_datasets.png", "tradeoff_datasets.svg")
    for name in names:
        (tmp_path / name).write_text("old")
    with Results(tmp_path / "one.sqlite") as store:
        measure(store, setting("CLIP", "shapes"), 40)
    reports.write_report(tmp_path / "one.sqlite", tmp_path, formats=("md", "png"))
    assert [name for name in names if (tmp_path / name).exists()] == ["tradeoff_datasets.svg"]


def test_an_unknown_format_is_named_with_the_nearest(results_file: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="unknown report format 'htm'; did you mean 'html'"):
        reports.write_report(results_file, tmp_path, formats=("md", "htm"))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_nothing_is_written_when_one_part_fails(
    results_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(store: Results, results: object = None) -> str:
        raise ResultsError("an example is damaged")

    monkeypatch.setattr(reports.html, "page", broken)
    with pytest.raises(ResultsError, match="damaged"):
        reports.write_report(results_file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_place_that_cannot_be_written_is_a_clear_error(results_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResultsError, match="cannot write the report"):
        reports.write_report(results_file, tmp_path / "file", formats=("csv",))
    (tmp_path / "table.csv").mkdir()
    with pytest.raises(ResultsError, match="cannot write the report"):
        reports.write_report(results_file, tmp_path, formats=("csv",))
    assert {path.name for path in tmp_path.iterdir()} == {"file", "table.csv"}


def test_empty_and_missing_results_are_clear_errors(tmp_path: Path) -> None:
    Results(tmp_path / "empty.sqlite").close()
    with pytest.raises(ResultsError, match="is empty"):
        reports.write_report(tmp_path / "empty.sqlite", tmp_path / "out")
    with pytest.raises(ResultsError, match="no results file"):
        reports.write_report(tmp_path / "none.sqlite", tmp_path / "out")


def test_clean_results_alone_make_a_report_without_a_trade_off(make: Callable[..., Results], tmp_path: Path) -> None:
    with make((setting("x"), 10)) as store:
        path = store.path
    written = {file.name for file in reports.write_report(path, tmp_path / "out")}
    assert written == {"table.md", "table.csv", "table.tex", "results.json", "report.html"}
    with pytest.raises(ResultsError, match="needs a clean result"):
        reports.write_report(path, tmp_path / "out", formats=("png",))


def test_the_terminal_table_shows_the_results(results_file: Path) -> None:
    stream = io.StringIO()
    with Results(results_file, read_only=True) as store:
        reports.print_table(store, Console(file=stream, width=140))
    text = stream.getvalue()
    assert "white-box, l∞ 4/255 (robust accuracy)" in text
    assert "73.0 [66.5, 78.7]" in text
    assert "[1] zero gradients: 31 % of the pixels" in text


@pytest.mark.parametrize("width", [20, 40, 80, 120, 400])
def test_no_figure_is_broken_in_a_narrow_terminal(make: Callable[..., Results], width: int) -> None:
    sources = ["", *(f"source {letter}" for letter in "abcdefg"), "self"]
    entries = [
        (setting(f"method {number}", source=source), 10 * number + at)
        for number in range(3)
        for at, source in enumerate(sources)
    ]
    with make(*entries) as store:
        table, stream = ranked(tabulate(with_worst_cases(store))), io.StringIO()
        reports.print_table(store, Console(file=stream, width=width))
    text = stream.getvalue()
    cells = [cell for section in table.sections for line in section.lines for cell in line.cells if cell is not None]
    assert len(cells) >= len(entries)
    if width > 30:
        for cell in cells:
            assert f"{cell.percent:.1f}" in text
            assert f"[{cell.low:.1f}, {cell.high:.1f}]" in text
        assert (text.count("method 0") > 1) == (width < 400)
    if width > 60:  # transfer never stands alone
        for part in text.split("┏")[1:]:
            assert "(robust" in part.split("┡")[0]
    assert all(len(line) <= width for line in text.splitlines())


def test_exports_are_declared() -> None:
    assert sorted(reports.__all__) == [
        "About", "Claim", "FORMATS", "Figure", "LEGEND", "Part", "ResultCard", "cards_of", "claims_of", "curves",
        "draw_plot", "draw_trials", "figures_of", "print_table", "read_cards", "write_experiments", "write_leaderboard",
        "write_plots", "write_report", "write_trials",
    ]  # fmt: skip
    assert all(hasattr(reports, name) for name in reports.__all__)


def test_all_parts_of_a_report_show_the_file_at_one_time(
    results_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(shutil.copy(results_file, tmp_path))
    tabulate, calls = reports.tabulate, 0

    def while_another_process_writes(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        with sqlite3.connect(file) as other:  # every row is damaged now: whoever reads again finds that out
            other.execute("UPDATE samples SET score = 1 - score")
        return tabulate(*given)

    monkeypatch.setattr(reports, "tabulate", while_another_process_writes)
    reports.write_report(file, tmp_path / "out", formats=("json", "html"))
    assert calls == 1
    with pytest.raises(ResultsError, match="damaged"):
        reports.write_report(file, tmp_path / "out")
