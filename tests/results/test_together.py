"""Several results files, read as one."""

from __future__ import annotations

from pathlib import Path

import pytest

from radapt import write_report
from radapt.errors import ResultsError
from radapt.results import Results, Sample, Setting, together


def measured(path: Path, method: str, score: float, *, checked: bool = True, positions: range = range(4)) -> Path:
    setting = Setting(method=method, model=method, dataset="shapes", n=4, version="1")
    with Results(path) as store:
        store.begin(setting)
        store.add(setting, [Sample(position=at, label=0, prediction=0, score=score) for at in positions])
        store.flag(setting, {} if checked else {"random": "x"}, checked=4 if checked else 0)
    return path


def test_files_are_read_as_one_and_stay_as_they_are(tmp_path: Path) -> None:
    files = [measured(tmp_path / "a", "A", 1.0), measured(tmp_path / "b", "B", 0.0, checked=False)]
    before = [file.read_bytes() for file in files]
    with together(files) as store:
        found = {each.setting.method: each for each in store.all()}
    assert {name: (each.percent, each.checked) for name, each in found.items()} == {"A": (100, True), "B": (0, False)}
    assert found["B"].flags == {"random": "x"}
    assert [file.read_bytes() for file in files] == before
    write_report(files, tmp_path / "report", formats=["md"])
    table = (tmp_path / "report" / "table.md").read_text()
    assert "A" in table
    assert "B" in table


def test_a_file_that_is_open_is_read_and_stays_open(tmp_path: Path) -> None:
    measured(tmp_path / "a", "A", 1.0)
    other = measured(tmp_path / "b", "B", 0.0)
    with Results(tmp_path / "a") as mine:
        for given, names in ((mine, {"A"}), ([mine], {"A"}), ([mine, other], {"A", "B"})):
            with together(given) as store:
                assert {each.setting.method for each in store.all()} == names
        write_report([mine, other], tmp_path / "report", formats=["html"])
        assert "from a and b." in " ".join((tmp_path / "report" / "report.html").read_text().split())
        write_report(mine, tmp_path / "report", formats=["md"])
        assert "A" in (tmp_path / "report" / "table.md").read_text()
        assert [each.setting.method for each in mine.all()] == ["A"]


def test_a_result_of_which_each_file_holds_a_part_is_not_checked(tmp_path: Path) -> None:
    one = measured(tmp_path / "a", "A", 1.0, positions=range(2))
    two = measured(tmp_path / "b", "A", 0.0, positions=range(2, 4))
    with together([one, two]) as store:
        (result,) = store.all()
    assert (result.n, result.percent, result.checked) == (4, 50, False)


def test_one_file_is_itself_and_none_is_refused(tmp_path: Path) -> None:
    file = measured(tmp_path / "a", "A", 1.0)
    for given in (file, str(file), [file]):
        with together(given) as store:
            assert store.path == file
    with pytest.raises(ResultsError, match="at least one"), together([]):
        pass
    with pytest.raises(ResultsError, match="missing"), together([file, tmp_path / "missing"]):
        pass
