"""Models of ``transformers`` from the hub or a folder: weights, tokenizer, image processor, and what may be wrong."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.utils import logging

from radapt.errors import ModelError, RadaptError, SettingsError
from radapt.hub import lost_connection
from radapt.io import replacing_folder
from radapt.registry import nearest

from ._processors import checked_processor

__all__ = [
    "check_device",
    "check_tokenizer",
    "dtype_of",
    "load_tokenizer",
    "no_bars",
    "pretrained",
    "reading",
    "save_parts",
]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_LONGEST = 300
_PANIC = "PanicException"  # what tokenizers raises, which is no Exception
_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


def dtype_of(dtype: torch.dtype | str) -> torch.dtype:
    """A dtype, given itself or by name.

    Raises:
        SettingsError: no weights can be read in a dtype of that name.
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in _DTYPES:
        raise SettingsError(f"unknown dtype {dtype!r}{nearest(dtype, _DTYPES)}")
    return _DTYPES[dtype]


def check_device(device: torch.device | str, *, spread: bool = False) -> None:
    """Refuse a device that is not there.

    Args:
        device: a device or its name.
        spread: whether it may also be a way to spread a model over all of them (``auto``).

    Raises:
        ModelError: there is no such device here.
    """
    if spread and device in _MAPS:
        return
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        count = torch.accelerator.device_count()
        here = ["cpu", *(f"{torch.accelerator.current_accelerator()}:{i}" for i in range(count))]
        raise ModelError(f"no device {str(device)!r} here{nearest(str(device), [*_MAPS * spread, *here])}") from error


@contextmanager
def no_bars() -> Iterator[None]:
    """Without transformers' progress bars, which appear for every local file."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def _no_report() -> Iterator[None]:
    """Without transformers' table of missing and unexpected tensors, which :func:`pretrained` reports itself."""
    logger = logging.get_logger("transformers.modeling_utils")
    shown = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = shown


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn what may go wrong while a model is read into a ModelError."""
    try:
        yield
    except (RadaptError, Warning):  # a warning where warnings are errors
        raise
    except BaseException as error:  # transformers, tokenizers and safetensors raise whatever a file leads them to
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise
        lost = lost_connection(error)
        reason = " ".join(str(lost or error).split()) or type(lost or error).__name__
        reason = reason if len(reason) <= _LONGEST else f"{reason[: _LONGEST - 3]}..."
        if lost is not None:
            reason = f"the connection to the hub broke off ({reason}); the same command tries again"
        raise ModelError(
            f"cannot load {name!r}: {reason}. Without network, pass a local folder with config.json, "
            "model.safetensors, tokenizer and preprocessor_config.json; for a gated repository set HF_TOKEN"
        ) from error


def pretrained(
    kind: Any,
    processor_kind: Any,
    source: str | Path,
    name: str,
    *,
    tokenizer: Any,
    processor: Any,
    dtype: torch.dtype,
    device_map: str | None = None,
) -> Any:
    """Model, tokenizer and image processor from the hub or a folder.

    Args:
        kind: class of the model.
        processor_kind: class of the image processor.
        source: name on the hub, or a folder.
        name: what messages call it.
        tokenizer, processor: None for the ones that lie beside the weights.
        dtype: of the weights.
        device_map: as ``from_pretrained`` of the model takes it.

    Raises:
        ModelError: the files are unavailable or unreadable, or the tokenizer did not really load.
    """
    from transformers import AutoTokenizer

    settings = {} if device_map is None else {"device_map": device_map}
    with reading(name), no_bars(), _no_report():
        _check_volume(kind, Path(source), name)
        model, report = kind.from_pretrained(
            source, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **settings
        )
        processor = checked_processor(processor_kind.from_pretrained(source) if processor is None else processor)
        tokenizer = tokenizer or AutoTokenizer.from_pretrained(source)
    for key, there, wanted in sorted(report["mismatched_keys"]):
        raise ModelError(
            f"the weights of {name!r} hold {key} of shape {tuple(there)}, where its config.json describes "
            f"{tuple(wanted)}; they are of another model"
        )
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise ModelError(
            f"the weights of {name!r} lack {len(report['missing_keys'])} tensors ({missing}); get them again"
        )
    extra = sorted(report["unexpected_keys"])
    if extra:
        warnings.warn(
            f"the weights of {name!r} have {len(extra)} tensors that the model has no place for "
            f"({', '.join(extra[:3])}); they are left out",
            stacklevel=5,  # the line that calls radapt.load
        )
    check_tokenizer(tokenizer, name, model.config.get_text_config().vocab_size)
    return model, tokenizer, processor


def _check_volume(kind: Any, folder: Path, name: str) -> None:
    """Refuse a configuration of far more parameters than there are weights, before room is made for them.

    Raises:
        ModelError: the folder has fewer bytes of weights than its configuration has parameters.
    """
    there = sum(file.stat().st_size for suffix in ("safetensors", "bin") for file in folder.glob(f"*.{suffix}"))
    if not there:
        return
    from transformers import AutoConfig

    with torch.device("meta"):
        model = getattr(kind, "from_config", kind)(AutoConfig.from_pretrained(folder))
    wanted = sum(parameter.numel() for parameter in model.parameters())
    if wanted > there:
        raise ModelError(
            f"cannot load {name!r}: its config.json describes a model of {wanted:,} parameters, but its weights take "
            f"{there:,} bytes; they are cut short, or of another model"
        )


def save_parts(
    folder: Path,
    model: Any,
    processor: Any,
    tokenizer: Any,
    dtype: torch.dtype,
    texts: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write weights (in ``dtype``), image processor and tokenizer, if there is one, in the model's own format.

    ``texts`` are further files, by name.

    A run that is killed leaves the model that lay there before, the new one, or one without a configuration, which is
    not loaded.

    Raises:
        ModelError: the folder cannot be written, or weights that are finite are not in ``dtype``.
    """
    held = model.state_dict()
    weights = {name: value.to(dtype) for name, value in held.items()}
    for name, value in held.items():
        if bool(torch.isfinite(value).all()) and not bool(torch.isfinite(weights[name]).all()):
            raise ModelError(
                f"{name} holds values up to {value.abs().max():.3g}, too large for {dtype}; save in float32"
            )
    try:
        with replacing_folder(folder, last="config.json") as staged:
            with no_bars():
                model.save_pretrained(staged, state_dict=weights)
            processor.save_pretrained(staged)
            if tokenizer is not None:
                tokenizer.save_pretrained(staged)
            for file, text in texts.items():
                (staged / file).write_text(text, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise ModelError(f"the model cannot be written to {folder}: {error}") from error


def check_tokenizer(tokenizer: Any, name: str, vocabulary: int) -> None:
    """Refuse a tokenizer that did not really load: offline, transformers may make an all but empty one.

    Raises:
        ModelError: it has less than half of the entries that the model expects.
    """
    if len(tokenizer) < vocabulary // 2:
        raise ModelError(
            f"the tokenizer of {name!r} has {len(tokenizer)} entries where the model expects {vocabulary}: "
            "it did not really load; put vocab.json and merges.txt (or tokenizer.json) beside the weights"
        )


def load_tokenizer(source: str, name: str, vocabulary: int) -> Any:
    """The tokenizer that lies at ``source``.

    Raises:
        ModelError: there is none, or it did not really load.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source)
    except Exception as error:  # transformers and tokenizers raise whatever a file leads them to
        raise ModelError(
            f"{name!r} comes without a tokenizer; pass one: radapt.load(..., tokenizer=AutoTokenizer.from_pretrained("
            '"openai/clip-vit-base-patch32")), or put tokenizer.json beside the weights'
        ) from error
    check_tokenizer(tokenizer, name, vocabulary)
    return tokenizer
