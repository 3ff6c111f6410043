"""What commands print: texts of users literally, whatever is in them."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Run

NAMES = ["a[/]b", "[bold]x[/bold]", "[red]", ":smile:", r"back\[slash", "\x1b[31mred", "\u202egnp", "50% {0} %s"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_path_is_shown_literally(run: Run, model: str, name: str) -> None:
    result = run("adapt", "training-free", "--model", model, "--out", name)
    assert result.exit_code == 0, result.output
    shown = name.replace("\x1b", r"\x1b").replace("\u202e", r"\u202e")
    assert result.stdout.startswith(f"wrote {shown}: Adapter(")
    refused = run("report", name + ".sqlite")
    assert f"no results file at {shown}.sqlite" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a[/]b", "[red]\x1b[31m", "=1+[x](y)|<b>", "\udcff"], ids=ascii)
def test_a_label_is_shown_literally_in_tables_bars_and_reports(run: Run, model: str, name: str) -> None:
    words = ("--attack", "pgd", "--option", "steps=1", "--n", 2, "--no-sanity", "--json", f"{name}.json")
    folder = name.replace("/", "_")
    result = run("evaluate", f"{name} A={model}", *words[:-1], f"{folder}.json", "--results", f"{folder}.sqlite")
    assert result.exit_code == 0, result.output
    assert name.partition("\x1b")[0].replace("\udcff", "\ufffd") in result.output
    assert "\x1b[31m" not in result.output
    result = run("report", f"{folder}.sqlite", "--out", folder)
    assert result.exit_code == 0, result.output
    assert (
        "<b>"
        not in (Path(folder) / "report.html")
        .read_text(encoding="utf-8")
        .partition("</main>")[0]
        .replace("<li><b>", "")
        .replace("<b>", "", 0)
        .partition("=1+[x](y)|")[2][:3]
    )
    result = run("analyze", "response", f"{name}={model}", f"B={model}", "--n", 2, "--out", folder)
    assert result.exit_code == 0, result.output


def _raised(error: BaseException) -> Callable[..., Any]:
    def fails(*_: object, **__: object) -> None:
        raise error

    return fails


@pytest.mark.parametrize(
    ("error", "code", "parts"),
    [
        (TypeError("no\n such\tthing [/]"), 1, ["unexpected TypeError: no such thing [/].", "RADAPT_DEBUG=1"]),
        (KeyError("[red]"), 1, ["unexpected KeyError: '[red]'."]),
        (AssertionError(), 1, ["unexpected AssertionError: without a message."]),
        (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates"), 1, ["unexpected UnicodeEncodeError"]),
        (MemoryError(), 1, ["there is not enough memory;", "--batch-size"]),
        (MemoryError("Unable to allocate 6 TiB"), 1, ["not enough memory (Unable to allocate 6 TiB)"]),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"), 1, ["not enough memory"]),
        (RecursionError("maximum recursion depth exceeded"), 1, ["nested too deeply"]),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 1, ["No space left on device: 'x'", "is kept"]),
        (PermissionError(errno.EACCES, "Permission denied", "[/]"), 1, ["Permission denied: '[/]'"]),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, ["what reads the output has closed it"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_whatever_is_raised_becomes_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, parts: list[str]
) -> None:
    monkeypatch.setattr("radapt.reports.write_report", _raised(error))
    monkeypatch.setattr("radapt.results.Results.__init__", _raised(error))
    result = run("report", "any.sqlite")
    assert result.exit_code == code
    assert isinstance(result.exception, SystemExit)
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line
