"""What fine-tuning changes: parts of the vision encoder, and low-rank updates of its linear layers (LoRA)."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from radapt.errors import SettingsError, shown
from radapt.models import VLM, parts

__all__ = ["Layers", "open_layers"]

_LORA = re.compile(r"lora:r([1-9]\d{0,4})@(.+)")
# PEFT's default: the update of a layer is 8 / rank times the product of its two matrices.
_ALPHA = 8


@dataclass(frozen=True, eq=False)
class Layers:
    """What is trained of a model.

    Args:
        parameters: the trained tensors by name; they require gradients, and nothing else of the model does.
        close: makes the model an ordinary one again, with low-rank updates added to the weights that they are for.
    """

    parameters: dict[str, Tensor]
    close: Callable[[], None]


def open_layers(model: VLM, text: str, *, seed: int = 0) -> Layers:
    """Make chosen layers of a model trainable, in place.

    Args:
        model: the model; it is changed.
        text: parts as in :func:`radapt.models.parts`; and ``lora:r8@0-2``, updates of rank 8 (Hu et al. 2022) of every
            linear layer of the blocks 0 to 2.
        seed: seed of the first factors of the updates; the second ones begin at zero.

    Raises:
        SettingsError: unknown parts, or low-rank updates that are written wrongly or meet a layer that is trained
            whole; or PEFT is missing.
    """
    model.model.requires_grad_(False)
    if not isinstance(text, str):
        raise SettingsError(f"layers must be a text such as 'all', 'block:0-2' or 'lora:r8', got {shown(text)}")
    written = [part.strip() for part in text.split("+")]
    plain = [part for part in written if part.partition(":")[0] != "lora"]
    updates = [part for part in written if part not in plain]
    chosen = parts(model, "+".join(plain)) if plain else {}
    close = _nothing
    if updates:
        if len(updates) > 1:
            raise SettingsError(f"{text!r}: write one lora part, with a range of blocks, such as lora:r8@0-2")
        rank, names = _linear(model, updates[0])
        both = [name for name in names if f"{name}.weight" in chosen]
        if both:
            raise SettingsError(f"{updates[0]!r}: {both[0]} is trained whole already; leave one of the two out")
        close = _inject(model, rank, names, seed)
        factors = {n: p for n, p in model.model.named_parameters() if ".lora_A." in n or ".lora_B." in n}
        chosen = chosen | factors
    # Only now: PEFT freezes all that was there before.
    for parameter in chosen.values():
        parameter.requires_grad_(True)
    return Layers(chosen, close)


def _nothing() -> None:
    pass


def _linear(model: VLM, part: str) -> tuple[int, list[str]]:
    """Rank and names of the linear layers of ``lora:r8@0-2``."""
    match = _LORA.fullmatch(part)
    if match is None:
        raise SettingsError(
            f"{part!r}: write a low-rank update as lora:r8@0-2, its rank (99999 at most) and the blocks"
        )
    try:
        inside = parts(model, f"block:{match[2]}")
    except SettingsError as error:
        raise SettingsError(f"{part!r}: {error}") from error
    modules = dict(model.model.named_modules())
    if any(isinstance(m, nn.MultiheadAttention) and f"{n}.in_proj_weight" in inside for n, m in modules.items()):
        raise SettingsError(
            f"{part!r}: the attention of {model.name} is not made of linear layers; load its checkpoint by name instead"
        )
    return int(match[1]), [n for n, m in modules.items() if isinstance(m, nn.Linear) and f"{n}.weight" in inside]


def _inject(model: VLM, rank: int, names: list[str], seed: int) -> Callable[[], None]:
    try:
        peft: Any = importlib.import_module("peft")
    except ImportError as error:
        raise SettingsError('low-rank updates need PEFT: pip install "radapt[lora]"') from error
    config = peft.LoraConfig(r=rank, lora_alpha=_ALPHA, target_modules=names)
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        wrapped = peft.LoraModel(model.model, config, "default")
    model.model.eval()

    def close() -> None:
        wrapped.merge_and_unload()

    return close
