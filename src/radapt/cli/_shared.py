"""What the commands share: options, errors, and files that they write."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer
from rich.console import Console

from radapt.errors import InputError, ModelError, RadaptError, SettingsError

if TYPE_CHECKING:
    from radapt.adapt import Adapter
    from radapt.data import Dataset
    from radapt.models import VLM
    from radapt.results import Figure

__all__ = [
    "Checkpointing",
    "Device",
    "DeviceMap",
    "Dtype",
    "Json",
    "Quiet",
    "candidate_parts",
    "checkpoint_of",
    "console",
    "cutoff_of",
    "fraction",
    "guard",
    "load_sets",
    "size_of",
    "split_names",
    "write_file",
    "write_json",
    "write_rows",
]

_P = ParamSpec("_P")
_R = TypeVar("_R")

console = Console()
_errors = Console(stderr=True)

Json = Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file, as JSON rows.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Dtype = Annotated[str, typer.Option(help="Precision of the weights: float32, bfloat16 or float16.")]
Device = Annotated[str, typer.Option(help="Where the models are, such as cuda:0.")]
DeviceMap = Annotated[str | None, typer.Option(help="Instead: spread a LLaVA or Qwen-VL over all devices (auto).")]
Checkpointing = Annotated[
    bool, typer.Option("--checkpointing", help="For a LLaVA or Qwen-VL: gradients in less memory and more time.")
]


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


def fraction(text: str) -> float:
    """A number or a fraction such as ``4/255``."""
    top, slash, bottom = text.partition("/")
    try:
        return float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        raise SettingsError(f"{text!r} is neither a number nor a fraction such as 4/255") from None


def cutoff_of(d0: float) -> float | None:
    """The cut-off of a D0, in cycles per pixel; a D0 of 0 stands for no filter."""
    from radapt.adapt import cutoff_from_d0

    return cutoff_from_d0(d0) if d0 else None


def split_names(text: str) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def load_sets(names: str, *, split: str, n: int | None, models: Sequence[VLM] = ()) -> list[Dataset]:
    """Data sets by name, separated by commas, with pictures of the size that the models take."""
    from radapt.data import load_dataset

    size = size_of(models)
    return [load_dataset(name, split=split, n=n, size=size) for name in split_names(names)]


def size_of(models: Sequence[VLM]) -> int | None:
    """Height and width of the pictures that models take; None without models.

    Raises:
        SettingsError: they take pictures of different sizes.
    """
    sizes = {model.image_size: model.name for model in models}
    if len(sizes) > 1:
        text = ", ".join(f"{name} {height} x {width}" for (height, width), name in sizes.items())
        raise SettingsError(f"the models take pictures of different sizes ({text}); evaluate them one after the other")
    return next(iter(sizes))[0] if sizes else None


def candidate_parts(
    text: str,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    device_map: str | None = None,
    checkpointing: bool = False,
    slots: int = 1,
    loaded: dict[str, VLM] | None = None,
) -> tuple[str, VLM, Adapter | None]:
    """Read ``[LABEL=]MODEL[+ADAPTER]``: label, model and adapter.

    Args:
        text: what was written.
        dtype, device, device_map, checkpointing: of the model, as in ``radapt.load``.
        slots: images per pass, for the estimate of memory.
        loaded: models by name; one that is there already is not loaded a second time, and others are added.
    """
    from radapt.adapt import Adapter
    from radapt.models import load

    label, equals, rest = text.partition("=")
    name, plus, folder = (rest if equals else text).partition("+")
    if not name or (equals and not label) or (plus and not folder):
        raise SettingsError(f"a candidate is written [LABEL=]MODEL[+ADAPTER], got {text!r}")
    adapter = Adapter.from_pretrained(folder) if plus else None
    models = {} if loaded is None else loaded
    if name not in models:
        _tell_memory(name, dtype=dtype, checkpointing=checkpointing, slots=slots)
        models[name] = load(name, dtype=dtype, device=device, device_map=device_map, checkpointing=checkpointing)
    return (label if equals else text), models[name], adapter


def _tell_memory(name: str, **settings: Any) -> None:
    """One line on what a model will take, unless it ships with the package or cannot be estimated."""
    from radapt.models import estimate

    if name.startswith("micro/"):
        return
    try:
        memory = estimate(name, **settings)
    except (ModelError, SettingsError):  # loading it says why
        return
    console.print(memory.line(), markup=False, highlight=False, soft_wrap=True)


def checkpoint_of(out: Path) -> Path:
    """Where a training that is to end in the folder ``out`` keeps its checkpoint: beside it."""
    return out.with_name(out.name + ".checkpoint.safetensors")


def write_file(path: Path | None, content: str) -> None:
    """Write a file whole or not at all; nothing when there is no path."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(content)
    partial.replace(path)


def write_json(path: Path | None, facts: object) -> None:
    """Write plain values as JSON, whole or not at all; nothing when there is no path."""
    write_file(path, json.dumps(facts, indent=2) + "\n")


def write_rows(path: Path | None, figures: Iterable[Figure]) -> None:
    """Write figures as a list of flat JSON objects."""
    write_json(path, [figure.row() for figure in figures])
