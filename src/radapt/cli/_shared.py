"""What the commands share: options, errors, and what they print."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer
from rich.console import Console

from radapt.errors import InputError, ModelError, RadaptError, SettingsError
from radapt.io import write_json

if TYPE_CHECKING:
    from radapt.results import Result

__all__ = [
    "BatchSize",
    "Checkpointing",
    "Device",
    "DeviceMap",
    "Dtype",
    "Json",
    "Quiet",
    "console",
    "guard",
    "split_names",
    "tell_memory",
    "write_rows",
]

_P = ParamSpec("_P")
_R = TypeVar("_R")

console = Console()
_errors = Console(stderr=True)

Json = Annotated[Path | None, typer.Option("--json", help="Also write the results to this file, as JSON rows.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Dtype = Annotated[str, typer.Option(help="Precision of the weights: float32, bfloat16 or float16.")]
Device = Annotated[str, typer.Option(help="Where the models are, such as cuda:0.")]
DeviceMap = Annotated[str | None, typer.Option(help="Instead: spread a LLaVA or Qwen-VL over all devices (auto).")]
Checkpointing = Annotated[
    bool, typer.Option("--checkpointing", help="For a LLaVA or Qwen-VL: gradients in less memory and more time.")
]
BatchSize = Annotated[int, typer.Option(help="Images per pass of the model.")]


def guard(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """Turn errors into one line on stderr: exit code 2 for wrong usage, 1 for failure."""

    @functools.wraps(command)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return command(*args, **kwargs)
        except RadaptError as error:
            _errors.print(f"[bold red]error:[/] {_plain(error)}", highlight=False, soft_wrap=True)
            raise typer.Exit(2 if isinstance(error, SettingsError | InputError) else 1) from error
        except KeyboardInterrupt as error:
            _errors.print("[bold red]interrupted[/]; what was computed is kept, run the same command to continue")
            raise typer.Exit(1) from error
        except OSError as error:
            _errors.print(f"[bold red]error:[/] {_plain(error)}", highlight=False, soft_wrap=True)
            raise typer.Exit(1) from error

    return wrapped


def _plain(error: Exception) -> str:
    return str(error).replace("[", r"\[")


def split_names(text: str) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def tell_memory(name: str, **settings: Any) -> None:
    """One line on what a model will take, unless it ships with the package or cannot be estimated."""
    from radapt.models import estimate

    if name.startswith("micro/"):
        return
    try:
        memory = estimate(name, **settings)
    except (ModelError, SettingsError):  # loading it says why
        return
    console.print(memory.line(), markup=False, highlight=False, soft_wrap=True)


def write_rows(path: Path | None, results: Iterable[Result]) -> None:
    """Write results as a list of flat JSON objects; nothing when there is no path."""
    if path is not None:
        write_json(path, [result.row() for result in results])
