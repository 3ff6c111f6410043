"""The command line: ``radapt demo | adapt | evaluate | analyze | report`` and so on; see ``radapt --help``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from radapt._version import __version__

from . import (
    adapt,
    analyze,
    catalogue,
    check,
    demo,
    evaluate,
    finetune,
    leaderboard,
    merge,
    micro,
    report,
    reproduce,
    search,
    tune,
    ui,
)
from ._commands import Command, Commands

__all__ = ["app", "main"]

app = typer.Typer(
    cls=Commands,
    help="Make vision-language models harder to fool with adversarial images, and measure how robust they are.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> bool:
    if value:
        typer.echo(f"radapt {__version__}")
        raise typer.Exit
    return value


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of every command."""


_COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo.demo,
    "adapt": adapt.adapt,
    "tune": tune.tune,
    "evaluate": evaluate.evaluate,
    "check": check.check,
    "finetune": finetune.finetune,
    "analyze": analyze.analyze,
    "reproduce": reproduce.reproduce,
    "search": search.search,
    "merge": merge.merge,
    "report": report.report,
    "leaderboard": leaderboard.leaderboard,
    "ui": ui.ui,
    "models": catalogue.models,
    "datasets": catalogue.datasets,
    "attacks": catalogue.attacks,
}
for _name, _command in _COMMANDS.items():
    app.command(_name, cls=Command)(_command)
app.add_typer(micro.app, name="micro")


def main() -> None:
    """Run the command line."""
    app()
