"""Whatever is typed for any option of any command: no traceback, and a message where it does not run."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import typer
from click import Group
from click import Option as ClickOption
from tests.cli.conftest import Run, model, run

from radapt.cli.main import app

__all__ = ["model", "run"]  # fixtures

HOSTILE = [
    "", " ", "-1", "0", "1e309", "nan", "-inf", "9" * 400, "4/0", "1/3/3", "0x10", "\x00", "a\x00b", "\x1b[2J",
    "\udcff", "[/]", "[bold", "{}", "{{7*7}}", "%s%n", "../" * 40, "~nobody/x", "/dev/null", "/proc/self/mem",
    "x" * 5000, "=", "=,=", "a=b=c", ",", ",,,", "self,self", "NaN=NaN", "--help", "-", "--", "\u202e\u0000",
    "١٢", "true", "None", "$(id)", "__class__=1", "steps=[1,2", "a: !!python/object:os.system",
    "<script>alert(1)</script>",
]  # fmt: skip

SAMPLE = 1200
"""So many of all lines, which are several thousand, are tried; `SAMPLE = len(lines())` tries them all, in minutes."""

# What each command is given beside, so that it cannot come to run for long: something that is not there.
BESIDE: dict[str, list[str]] = {
    "demo": ["--data-root", "missing"],
    "adapt": ["training-free", "--model", "./missing"],
    "tune": ["./missing", "--model", "./missing"],
    "evaluate": ["./missing"],
    "check": ["./missing"],
    "finetune": ["fare", "--model", "./missing"],
    "analyze": ["cka", "./missing"],
    "reproduce": ["./missing.yaml"],
    "search": ["./missing.yaml"],
    "merge": ["./missing.sqlite"],
    "report": ["./missing.sqlite"],
    "leaderboard": ["./missing"],
    "models": ["./missing"],
    "datasets": ["./missing.yaml"],
    "attacks": ["missing"],
    "ui": ["--model", "./missing"],
    "micro train": ["missing"],
    "micro photos": ["--data", "./missing.yaml"],
}


def commands() -> dict[str, Any]:
    """All commands by what is typed for them."""
    found: dict[str, Any] = {}
    root: Any = typer.main.get_command(app)
    for name, command in root.commands.items():
        if isinstance(command, Group) or hasattr(command, "commands"):
            found |= {f"{name} {own}": each for own, each in command.commands.items()}
        else:
            found[name] = command
    return found


def lines() -> list[list[str]]:
    """Each hostile text for each option of each command, and in the place of each argument."""
    every = list[list[str]]()
    for name, command in commands().items():
        words = name.split()
        for option in command.params:
            if not isinstance(option, ClickOption) and not hasattr(option, "is_flag"):
                every += [[*words, text, *BESIDE[name][1:]] for text in HOSTILE if text != "--"]  # which is none
            elif not option.is_flag and option.opts:
                every += [[*words, *BESIDE[name], f"{option.opts[0]}={text}"] for text in HOSTILE]
    return every


def test_every_command_is_given_something_that_is_not_there() -> None:
    assert set(BESIDE) == set(commands())
    assert len(lines()) >= 1000


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_no_line_ends_in_a_traceback(part: int, run: Run, tmp_path: Path) -> None:
    every = random.Random(0).sample(lines(), SAMPLE)
    wrong = list[tuple[list[str], str]]()
    for words in every[part::4]:
        result = run(*words)
        ended = result.exception is None or isinstance(result.exception, SystemExit)
        told = result.exit_code == 0 or result.output.strip()
        if not ended or not told or "Traceback" in result.output or result.exit_code not in (0, 1, 2):
            wrong.append((words, f"{result.exit_code} {result.exception!r} {result.output[-300:]}"))
    assert not wrong, f"{len(wrong)}: {wrong[:12]}"
    assert not [
        file for file in tmp_path.iterdir() if file.name not in ("results.sqlite",) and file.stat().st_size > 1e7
    ]
