"""Reading models of ``transformers`` from the hub or a folder: weights, tokenizer, processor, and what may be wrong."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.utils import logging

from radapt.errors import ModelError, SettingsError
from radapt.find import nearest

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
    """Without transformers' progress bars, which flash by for every local file."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def _no_report() -> Iterator[None]:
    """Without transformers' table of missing and unexpected tensors, of which :func:`pretrained` tells itself."""
    logger = logging.get_logger("transformers.modeling_utils")
    shown = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = shown


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn what may go wrong while the files of a model are read into one error.

    Raises:
        ModelError: the files cannot be had or read.
    """
    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"cannot load {name!r}: {reason}. Without network, pass a local folder with config.json, "
            "model.safetensors, tokenizer and preprocessor_config.json; for a gated repository set HF_TOKEN"
        ) from error


def pretrained(
    kind: Any, processor: Any, source: str | Path, name: str, tokenizer: Any, dtype: torch.dtype, **settings: Any
) -> Any:
    """Model, tokenizer and processor from the hub or a folder.

    Args:
        kind: class of the model.
        processor: class of the image processor.
        source: name on the hub, or a folder.
        name: what messages call it.
        tokenizer: None for the one that lies beside the weights.
        dtype: of the weights.
        settings: what else ``from_pretrained`` of the model takes (``device_map``).

    Raises:
        ModelError: the files cannot be had or read, or the tokenizer did not really load.
    """
    from transformers import AutoTokenizer

    with reading(name), no_bars(), _no_report():
        model, report = kind.from_pretrained(source, dtype=dtype, output_loading_info=True, **settings)
        images = processor.from_pretrained(source)
        tokenizer = tokenizer or AutoTokenizer.from_pretrained(source)
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
    return model, tokenizer, images


def save_parts(folder: Path, model: Any, processor: Any, tokenizer: Any, dtype: torch.dtype) -> None:
    """Write weights (in ``dtype``), image processor and tokenizer, if there is one, in the model's own format."""
    weights = {name: value.to(dtype) for name, value in model.state_dict().items()}
    with no_bars():
        model.save_pretrained(folder, state_dict=weights)
    processor.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


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
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(
            f"{name!r} comes without a tokenizer; pass one: radapt.load(..., tokenizer=AutoTokenizer.from_pretrained("
            '"openai/clip-vit-base-patch32")), or put tokenizer.json beside the weights'
        ) from error
    check_tokenizer(tokenizer, name, vocabulary)
    return tokenizer
