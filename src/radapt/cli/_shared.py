"""What the commands share: options, what they refuse, and what they print."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from radapt.errors import ModelError, SettingsError
from radapt.io import check_writable, expanded, options_of, write_json
from radapt.text import one_line, visible

if TYPE_CHECKING:
    from radapt.results import Result

__all__ = [
    "AttackOptions",
    "BatchSize",
    "Checkpointing",
    "Data",
    "DataRoot",
    "Device",
    "DeviceMap",
    "Dtype",
    "Executor",
    "Json",
    "NormName",
    "Quiet",
    "Resources",
    "Seed",
    "SplitName",
    "Workers",
    "console",
    "executed",
    "existing",
    "file",
    "folder",
    "named",
    "refuse_unused",
    "split_names",
    "split_numbers",
    "tell_memory",
    "tell_written",
    "typed",
    "write_rows",
]


class _Console(Console):
    """A console that shows texts literally: no markup, no emoji codes, nothing that a terminal acts on."""

    def render_str(self, text: str, **settings: Any) -> Text:
        """A text as it is shown, wherever it stands: in a line, or in a cell of a table."""
        return super().render_str(visible(text), **{**settings, "markup": False, "emoji": False, "highlight": False})

    def on_broken_pipe(self) -> None:
        """Leave it to whatever handles the other errors; rich would end the program without a word."""
        raise


console = _Console(highlight=False)


def named(text: str) -> str:
    """A name or a path; ``~`` at its beginning stands for the user's home."""
    if not str(text).strip() or "\0" in str(text):
        raise typer.BadParameter(f"it must be a name or a path, got {text!r}")
    return str(expanded(text)) if str(text).startswith("~") else str(text)


def existing(text: str | Path) -> Path:
    """A file or folder to be read."""
    return Path(named(str(text)))


def file(text: str | Path) -> Path:
    """A file to be written at the end: refused at the beginning where it cannot be."""
    return _writable(text, folder=False)


def folder(text: str | Path) -> Path:
    """A folder to be written to."""
    return _writable(text, folder=True)


def _writable(text: str | Path, *, folder: bool) -> Path:
    try:
        return check_writable(named(str(text)), folder=folder)
    except SettingsError as error:
        raise typer.BadParameter(str(error)) from error


def _mirror(context: Any, folder: Path | None) -> Path | None:  # whose context it is depends on the version of typer
    """Read the datasets of the hub from a folder for the time of the command."""
    if folder is not None:
        from radapt.data import data_root

        context.with_resource(data_root(folder))
    return folder


DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        parser=existing,
        callback=_mirror,
        metavar="FOLDER",
        help="Folder with copies of the hub's datasets, read instead of the hub; default: that of RADAPT_DATA.",
    ),
]
Data = Annotated[str, typer.Option(help="Datasets, separated by commas: names, cards, folders of images.")]
NormName = Annotated[str, typer.Option("--norm", help="linf or l2.")]
AttackOptions = Annotated[
    list[str] | None,
    typer.Option("--option", help="Settings of the attacks: NAME=VALUE, or ATTACK.NAME=VALUE; repeatable."),
]
SplitName = Annotated[str, typer.Option("--split", help="train, validation or test.")]
Seed = Annotated[int, typer.Option(help="Seed of the per-sample random numbers.")]
Json = Annotated[
    Path | None,
    typer.Option("--json", parser=file, metavar="FILE", help="Also write the results to this file, as JSON rows."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Dtype = Annotated[str, typer.Option(help="Precision of the weights: float32, bfloat16 or float16.")]
Device = Annotated[str, typer.Option(help="Where the models are, such as cuda:0.")]
DeviceMap = Annotated[
    str | None, typer.Option(help="Instead of --device: spread a LLaVA or Qwen-VL over all devices (auto).")
]
Checkpointing = Annotated[
    bool,
    typer.Option("--gradient-checkpointing", help="For a LLaVA or Qwen-VL: gradients in less memory and more time."),
]
Executor = Annotated[
    str, typer.Option(help="local: this process; ray: workers on the cluster of RAY_ADDRESS, or on this machine.")
]
Workers = Annotated[int | None, typer.Option(help="Workers of Ray; default: as many as there is room for.")]
Resources = Annotated[
    str | None,
    typer.Option(help="What each worker takes: GPU=0.5,CPU=4; default: GPU=1 with --device cuda, else CPU=1."),
]
BatchSize = Annotated[int, typer.Option(help="Images per pass of the model.")]


typed: ContextVar[frozenset[str]] = ContextVar("typed", default=frozenset())
"""Names of the parameters of the command that the user typed."""


def refuse_unused(why: str, *names: str) -> None:
    """Refuse options that were typed, but have no effect.

    Args:
        why: what makes them so.
        names: of the command's parameters.

    Raises:
        SettingsError: one of them was typed.
    """
    unused = [name for name in names if name in typed.get()]
    if unused:
        options = ", ".join("--" + name.replace("_", "-") for name in unused)
        raise SettingsError(f"{options} would have no effect {why}; leave out what is not meant")


def executed(executor: str, workers: int | None, resources: str | None) -> dict[str, Any]:
    """Who measures, as :func:`radapt.evaluate` takes it.

    Raises:
        SettingsError: the resources are not written ``NAME=AMOUNT``.
    """
    takes = None if resources is None else options_of(split_names(resources))
    return {"executor": executor, "workers": workers, "resources": takes}


def split_names(text: str) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def split_numbers(text: str, option: str) -> list[int]:
    """Whole numbers separated by commas.

    Raises:
        BadParameter: one of them is none.
    """
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{option} takes whole numbers, separated by commas, got {text!r}") from None


def tell_memory(name: str, **settings: Any) -> None:
    """One line on what a model will take, unless it ships with the package or cannot be estimated."""
    from radapt.models import estimate

    if name.startswith("micro/"):
        return
    try:
        memory = estimate(name, **settings)
    except (ModelError, SettingsError):  # loading it says why
        return
    console.print(memory.line(), soft_wrap=True)


def tell_written(*paths: Path) -> None:
    """One line for each path that was written."""
    for path in paths:
        console.print(f"wrote {one_line(path)}", soft_wrap=True)


def write_rows(path: Path | None, results: Iterable[Result]) -> None:
    """Write results as a list of flat JSON objects; nothing when there is no path."""
    if path is not None:
        write_json(path, [result.row() for result in results])
