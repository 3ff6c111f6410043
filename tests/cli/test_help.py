from __future__ import annotations

import re

import click
import pytest
import typer
from tests.cli.conftest import Run

import radapt
from radapt import attacks, data
from radapt.cli.main import app

COMMANDS = (
    *("adapt", "analyze", "attacks", "check", "datasets", "demo", "evaluate", "finetune"),
    *("leaderboard", "merge", "micro photos", "micro train", "models", "report", "reproduce", "search", "tune", "ui"),
)


def test_the_commands_are_these() -> None:
    root = typer.main.get_command(app)
    names = set()
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        names |= {f"{name} {sub}" for sub in command.commands} if hasattr(command, "commands") else {name}
    assert names == set(COMMANDS)
    assert isinstance(root, click.Command | typer.core.TyperGroup)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_on_a_line_of_its_own(run: Run, command: str) -> None:
    result = run(*command.split(), "--help")
    assert result.exit_code == 0, result.output
    assert re.search(r"Examples?:", result.output)
    for line in result.output.splitlines():
        assert len(re.findall(rf"radapt {command}\b", line.partition("Usage:")[0])) <= 1, line
    # The usage line is one; an example is another.
    assert len(re.findall(rf"radapt {command}\b", result.output)) >= 1


def test_the_root_lists_every_command(run: Run) -> None:
    for words in (["--help"], ["-h"], []):
        output = run(*words).output
        for command in COMMANDS:
            assert command.split()[0] in output


def test_the_version_is_printed(run: Run) -> None:
    result = run("--version")
    assert (result.exit_code, result.output) == (0, f"radapt {radapt.__version__}\n")


def test_attacks_and_data_sets_are_listed(run: Run) -> None:
    listed = run("attacks").output
    assert all(name in listed for name in attacks.names())
    assert "rho=0.75" in listed
    listed = run("datasets").output
    assert all(name in listed for name in data.datasets())
    assert "zero-shot" in listed
    listed = run("models").output
    assert "clip" in listed
    assert "llava" in listed


def test_one_attack_or_data_set_is_shown_in_full(run: Run) -> None:
    assert "arXiv:2003.01690" in run("attacks", "apgd").output
    shown = run("datasets", "digits").output
    assert "CC-BY-4.0" in shown
    assert "handwritten" in shown


@pytest.mark.parametrize(("command", "typo", "meant"), [("attacks", "pdg", "pgd"), ("datasets", "digit", "digits")])
def test_a_mistyped_name_gets_the_nearest(run: Run, command: str, typo: str, meant: str) -> None:
    result = run(command, typo)
    assert result.exit_code == 2
    assert f"did you mean '{meant}'" in result.output


def test_no_option_has_its_own_name_for_its_metavar() -> None:
    """Some versions of typer take such a metavar for the name of the option."""
    root = typer.main.get_command(app)
    commands = list(root.commands.values())  # type: ignore[attr-defined]
    commands += [sub for command in commands for sub in getattr(command, "commands", {}).values()]
    options = [each for command in commands for each in command.params if each.param_type_name == "option"]
    assert len(options) > 100
    assert [option.name for option in options if option.metavar and option.metavar.lower() == option.name] == []
