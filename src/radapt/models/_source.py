"""Where a model lies (in the package, in a folder, on the hub), of what type it is, and why it is unavailable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from radapt.errors import ModelError, UnknownModelError
from radapt.hub import network_errors
from radapt.registry import nearest
from radapt.schema import read_json

from ._checks import check_config
from ._open_clip_config import CONFIG

__all__ = ["MICRO", "locate", "micro_models", "model_type", "open_clip_config"]

MICRO = Path(str(files("radapt"))) / "micro" / "weights"
_CONFIG, _OPEN_CLIP = "config.json", CONFIG
_READ_WHOLE, _LARGEST = (".jinja", ".json", ".jsonl", ".model", ".txt"), 1 << 27
"""Endings of the files of configurations and tokenizers, and their most bytes: the largest known have a quarter."""
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_FILES = (
    "a local folder with config.json, model.safetensors, preprocessor_config.json and the tokenizer's files (of "
    f"open_clip: {_OPEN_CLIP}, open_clip_model.safetensors and tokenizer.json)"
)


def micro_models() -> list[str]:
    """Names of the models that ship with the package."""
    return sorted(f"micro/{folder.parent.name}" for folder in MICRO.glob("*/config.json"))


def locate(name: str) -> str:
    """The folder of a model that ships with the package; any other name as it is.

    Raises:
        UnknownModelError: no model of that name ships with the package.
    """
    if not name.startswith("micro/"):
        return name
    if name not in micro_models():
        raise UnknownModelError(f"unknown model {name!r}{_with_adapter(name) or nearest(name, micro_models())}")
    return str(MICRO / name.removeprefix("micro/"))


def _with_adapter(name: str) -> str:
    """What to do with ``MODEL+ADAPTER``, as an evaluation takes them; nothing for another name."""
    model, plus, adapter = name.partition("+")
    return (
        f"; load {model!r}, then attach its adapter: radapt.Adapter.from_pretrained({adapter!r}).attach(model)"
        * bool(plus)
    )


def model_type(source: str, name: str) -> str:
    """The ``model_type`` of a configuration; ``open_clip`` for what open_clip wrote.

    Args:
        source: a folder, a file of weights, or a name on the hub.
        name: what messages call it.

    Raises:
        UnknownModelError: there is no such folder, file or repository.
        ModelError: the configuration is unavailable or unreadable.
    """
    path = Path(source)
    if path.suffix in _SUFFIXES and not path.is_dir():
        if not path.is_file():
            raise UnknownModelError(f"there is no file {name!r}{nearest(name, micro_models())}")
        return "open_clip"
    if source.startswith("hf-hub:"):
        return "open_clip"
    file = _config_of(source, name)
    _check_sizes(file.parent, name)
    if file.name == _OPEN_CLIP:
        return "open_clip"
    with _reading(name, f"{_CONFIG} with a model_type"):
        content = read_json(file, error=ModelError)
        kind = str(content["model_type"])
    check_config(content, f"the {_CONFIG} of {name!r}")
    return kind


def open_clip_config(source: str, name: str) -> Any:
    """The content of an ``open_clip_config.json``.

    Raises:
        UnknownModelError: there is no such folder or repository.
        ModelError: it is unavailable or unreadable, or ``source`` is a file of weights.
    """
    if Path(source).is_file():
        raise ModelError(f"{name} is a file of weights, which does not say what model it is of; name that model")
    file = _config_of(source, name)
    with _reading(name, file.name):
        return read_json(file, error=ModelError)


def _check_sizes(folder: Path, name: str) -> None:
    """Refuse a folder with a file that others would read whole, and that is larger than any such file is."""
    for file in sorted(folder.iterdir()):
        if file.suffix in _READ_WHOLE and file.is_file() and (size := file.stat().st_size) > _LARGEST:
            raise ModelError(
                f"the file {file.name} of {name!r} has {size} bytes, more than the {_LARGEST} that are allowed; get it "
                "again"
            )


@contextmanager
def _reading(name: str, what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, ModelError) as error:
        raise ModelError(f"{name!r} has no readable {what}: {error}") from error


def _config_of(source: str, name: str) -> Path:
    folder = Path(source)
    if folder.is_dir():
        existing = (folder / each for each in (_CONFIG, _OPEN_CLIP) if (folder / each).exists())
        return next(existing, folder / _CONFIG)
    repository = source.removeprefix("hf-hub:")
    if folder.exists() or len(Path(repository).parts) != 2 or "+" in repository:
        near = _with_adapter(name) or nearest(name, micro_models())
        raise UnknownModelError(f"unknown model {name!r}: neither a folder nor a name on the hub (owner/name){near}")
    order = (_OPEN_CLIP, _CONFIG) if source.startswith("hf-hub:") else (_CONFIG, _OPEN_CLIP)
    return _fetch(repository, name, order)


def _fetch(repository: str, name: str, wanted: tuple[str, ...]) -> Path:
    """The first of some files that a repository has.

    Raises:
        UnknownModelError: there is no such repository.
        ModelError: it has none of them, or cannot be reached.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )  # fmt: skip

    page = f"https://huggingface.co/{repository}"
    failed = f"cannot fetch {name!r} from the hub"
    unreached: LocalEntryNotFoundError | None = None
    try:
        for file in wanted:
            try:
                # Once the hub could not be reached, the other file may still lie in the cache.
                return Path(hf_hub_download(repository, file, local_files_only=unreached is not None))
            except LocalEntryNotFoundError as error:
                unreached = unreached or error
            except EntryNotFoundError:
                continue
    except GatedRepoError as error:
        raise ModelError(
            f"{failed}: it is gated. Accept its conditions at {page}, make a token that may read it, and set HF_TOKEN; "
            f"or pass {_FILES}"
        ) from error
    except RepositoryNotFoundError as error:
        raise UnknownModelError(
            f"{failed}: there is no repository {page}, or it is private (then set HF_TOKEN)"
            f"{nearest(name, micro_models())}"
        ) from error
    except network_errors(HFValidationError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(f"{failed}: {reason} Try again, or pass {_FILES}") from error
    if unreached is not None:
        raise ModelError(
            f"{failed}: it is not in the cache, and the hub cannot be reached{nearest(name, micro_models())}. Without "
            f"network, set HF_HOME to a filled cache, or pass {_FILES}; for a gated repository set HF_TOKEN, too"
        ) from unreached
    raise ModelError(
        f"{name!r} has neither {' nor '.join(wanted)} at {page}; it holds no model of transformers or open_clip"
    )
