"""Models: one file per family; :func:`load` and :func:`tower_of` find the right one by the model's own config."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import nn

from radapt._picture import open_picture
from radapt.errors import ModelError

from ._families import families, family_of, spreadable, type_of
from ._generative import Generative
from ._memory import Memory, estimate
from ._parts import parts
from ._pretrained import check_device, dtype_of
from ._source import locate, micro_models, model_type
from ._tower import Grid, Layout, Mount, Tower, place_tokens
from ._vlm import VLM, Tokens

__all__ = [
    "VLM",
    "Grid",
    "Layout",
    "Memory",
    "Mount",
    "Tokens",
    "Tower",
    "estimate",
    "families",
    "load",
    "micro_models",
    "open_picture",
    "parts",
    "place_tokens",
    "tower_of",
]


def tower_of(model: VLM | nn.Module) -> Tower:
    """The vision encoder of a VLM or of a model object.

    Raises:
        ModelError: the model is of an unsupported family.
    """
    if isinstance(model, VLM):
        return model.tower
    module = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    tower: Tower = family_of(type_of(module), "tower", type(module).__name__).tower(module)
    return tower


def load(
    model: str | Path | nn.Module | VLM,
    *,
    tokenizer: Any = None,
    base: str | Path | VLM | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float32,
    device_map: str | None = None,
    checkpointing: bool = False,
) -> VLM:
    """Load a vision-language model.

    Args:
        model: ``micro/...`` (ships with the package), a name on the Hugging Face hub (of a model of transformers or of
            open_clip; ``hf-hub:`` before it prefers the latter), a folder, a file of weights as open_clip or RobustVLM
            save them, or a model object such as ``transformers.CLIPModel`` (wrapped, not copied).
        tokenizer: for a model object, its tokenizer; needed to encode text.
        base: for a file of weights, the CLIP that it was trained from; a file with a vision tower alone takes the text
            encoder of that.
        device, dtype: where and in what precision the weights are (``float32``, ``bfloat16``, ``float16``); a model
            object keeps its own precision.
        device_map: spreads a LLaVA or Qwen-VL over devices (``auto``, ``balanced``), or reads it straight onto one
            (``cuda:0``), instead of ``device``; needs accelerate.
        checkpointing: for a LLaVA or Qwen-VL, whether gradients keep only the inputs of each block and compute the rest
            again: less memory, about a third more time.

    Raises:
        UnknownModelError: there is no model of that name.
        ModelError: files that cannot be had or read, an unsupported family, or an option that it does not take.
        SettingsError: an unknown dtype.
    """
    loaded = model if isinstance(model, VLM) else _loaded(model, tokenizer, base, device, dtype_of(dtype), device_map)
    if checkpointing:
        if not isinstance(loaded, Generative):
            raise ModelError(f"{loaded.name} does not generate text; checkpointing is for a LLaVA or Qwen-VL")
        loaded.checkpointing = True
    return loaded


def _loaded(
    model: str | Path | nn.Module,
    tokenizer: Any,
    base: str | Path | VLM | None,
    device: torch.device | str,
    dtype: torch.dtype,
    device_map: str | None,
) -> VLM:
    check_device(device)
    if isinstance(model, nn.Module):
        if device_map is not None:
            raise ModelError("a model object is where it is; device_map is for a model that is loaded by name")
        name = str(getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__)
        wrapped: VLM = family_of(type_of(model), "load", name).load(model, name=name, tokenizer=tokenizer)
        return wrapped.to(device)
    name = str(model)
    source = locate(name)
    kind = model_type(source, name)
    family = family_of(kind, "load", name)
    settings: dict[str, Any] = {}
    if base is not None:
        if kind != "open_clip":
            raise ModelError(f"base is for a file of weights, but {name!r} is a whole model")
        settings["base"] = load(base)
    if device_map is not None:
        settings["device_map"] = _checked(device_map, kind, name, device)
    loaded: VLM = family.load(source, name=name, tokenizer=tokenizer, dtype=dtype, **settings)
    loaded.model.eval().requires_grad_(False)
    if device_map is None:
        return loaded.to(device)
    places = {str(place) for place in getattr(loaded.model, "hf_device_map", {}).values()}
    if len(places) > 1 and places & {"cpu", "disk"}:
        raise ModelError(
            f"{name} does not fit onto the devices here: accelerate put parts of it on {' and '.join(sorted(places))}, "
            f"which no attack can work with. See `radapt models {name}` for what it takes, and try dtype bfloat16"
        )
    return loaded


def _checked(device_map: str, kind: str, name: str, device: torch.device | str) -> str:
    able = spreadable()
    if kind not in able:
        raise ModelError(f"{name} is a model of type {kind!r}; device_map is for {', '.join(able)}: use device")
    if str(device) != "cpu":
        raise ModelError(f"give either device or device_map, got {str(device)!r} and {device_map!r}")
    if importlib.util.find_spec("accelerate") is None:
        raise ModelError('device_map needs accelerate: pip install "radapt[large]"')
    check_device(device_map, spread=True)
    return device_map
