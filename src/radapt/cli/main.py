"""The command line: ``radapt demo | adapt | evaluate | analyze | report`` and so on; see ``radapt --help``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from radapt._version import __version__

from . import adapt, analyze, catalogue, demo, evaluate, finetune, micro, report, reproduce

__all__ = ["app", "main"]

app = typer.Typer(
    help="Make vision-language models resist adversarial images without retraining them, and measure it honestly.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
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


app.command("demo")(demo.demo)
app.command("adapt")(adapt.adapt)
app.command("tune")(adapt.tune)
app.command("evaluate")(evaluate.evaluate)
app.command("finetune")(finetune.finetune)
app.command("analyze")(analyze.analyze)
app.command("reproduce")(reproduce.reproduce)
app.add_typer(micro.app, name="micro")
app.command("report")(report.report)
app.command("models")(catalogue.models)
app.command("datasets")(catalogue.datasets)
app.command("attacks")(catalogue.attacks)


# Options that had other names before; they go on working for one version.
_RENAMED = {"--slots": "--batch-size", "--batch": "--batch-size"}


def main() -> None:
    """Run the command line."""
    for number, word in enumerate(sys.argv):
        name, equals, value = word.partition("=")
        if name in _RENAMED:
            typer.echo(f"warning: {name} is now {_RENAMED[name]}; the old name will go", err=True)
            sys.argv[number] = _RENAMED[name] + equals + value
    app()
