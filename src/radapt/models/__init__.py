"""Models: one file per family; :func:`load` and :func:`tower_of` find the right one by the model's own config."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from radapt.errors import ModelError, SettingsError
from radapt.images import open_image
from radapt.io import expanded

from ._attention import attention_weights, patch_attention
from ._capture import capture
from ._checks import check_model
from ._classifier import ClassifierModel
from ._deltas import Delta, LowRank, WeightChange, check_deltas, difference, full, low_rank, scaled, tensors_of
from ._dual import DualEncoder
from ._families import REGISTRY, families, family_of, spreadable, type_of
from ._generative import Generative, generative
from ._hooks import Mount, PixelHook
from ._interpolated import check_twins, interpolated
from ._layout import Grid, Layout, place_tokens
from ._memory import Memory, estimate
from ._mode import evaluating
from ._names import names_of
from ._parts import parts
from ._pretrained import check_device, dtype_of, reading
from ._processors import warn_normalisation
from ._replica import replica
from ._source import locate, micro_models, model_type
from ._tokens import Tokens, likelihood
from ._tower import ImageTower, Tower
from ._vlm import VLM
from ._zero_shot import Contrastive, ZeroShotModel, contrastive, zero_shot

__all__ = [
    "REGISTRY",
    "VLM",
    "ClassifierModel",
    "Contrastive",
    "Delta",
    "DualEncoder",
    "Generative",
    "Grid",
    "ImageTower",
    "Layout",
    "LowRank",
    "Memory",
    "Mount",
    "PixelHook",
    "Tokens",
    "Tower",
    "WeightChange",
    "ZeroShotModel",
    "attention_weights",
    "capture",
    "check_deltas",
    "check_device",
    "check_twins",
    "common_image_size",
    "contrastive",
    "difference",
    "estimate",
    "evaluating",
    "families",
    "full",
    "generative",
    "interpolated",
    "likelihood",
    "load",
    "low_rank",
    "micro_models",
    "names_of",
    "open_image",
    "parts",
    "patch_attention",
    "place_tokens",
    "replica",
    "scaled",
    "supports",
    "tensors_of",
    "tower_of",
    "warn_normalisation",
    "zero_shot",
]


def common_image_size(models: Sequence[VLM]) -> int | None:
    """Height and width of the images that models take; None without models.

    Raises:
        SettingsError: they take images of different sizes.
    """
    sizes = {model.image_size: model.name for model in models}
    if len(sizes) > 1:
        text = ", ".join(f"{name} {height} x {width}" for (height, width), name in sizes.items())
        raise SettingsError(f"the models take images of different sizes ({text}); evaluate them one after the other")
    return next(iter(sizes))[0] if sizes else None


def tower_of(model: VLM | nn.Module) -> Tower:
    """The vision encoder of a VLM or of a model object.

    Raises:
        ModelError: the model is of an unsupported family.
    """
    if isinstance(model, VLM):
        return model.tower
    module = _inside(model)
    tower: Tower = family_of(type_of(module), "tower", type(module).__name__).tower(module)
    return tower


def _inside(model: nn.Module) -> nn.Module:
    """The model that ``torch.compile``, ``DataParallel`` or PEFT wraps, whose modules are the same.

    Raises:
        ModelError: PEFT adds more than changes of weights.
    """
    while True:
        module = getattr(model, "_orig_mod", model)
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        base: Any = getattr(module, "get_base_model", None)
        if callable(base):
            kind = getattr(module, "active_peft_config", None)
            if getattr(kind, "is_prompt_learning", False):
                raise ModelError(f"{type(kind).__name__} of PEFT adds prompts to a model, which are not supported here")
            module = base()
        if module is model:
            return module
        model = module


def supports(model: nn.Module) -> bool:
    """Whether a model object is of a family that :func:`load` takes, and more than a classifier on its tower."""
    model = _inside(model)
    if _is_classifier(model):
        return False
    try:
        family_of(type_of(model), "load", type(model).__name__)
    except ModelError:
        return False
    return True


def _is_classifier(model: nn.Module) -> bool:
    return type(model).__name__.endswith("ForImageClassification")


def load(
    model: str | Path | nn.Module | VLM,
    *,
    name: str | None = None,
    tokenizer: Any = None,
    processor: Any = None,
    base: str | Path | VLM | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str = torch.float32,
    device_map: str | None = None,
    gradient_checkpointing: bool = False,
) -> VLM:
    """Load a vision-language model.

    Args:
        model: ``micro/...`` (ships with the package), a name on the Hugging Face hub (of a model of transformers or of
            open_clip; ``hf-hub:`` before it prefers the latter), a folder, a file of weights as open_clip or RobustVLM
            save them, or a model object such as ``transformers.CLIPModel`` (wrapped, not copied).
        name: what reports call the model; None for its name on the hub or its folder.
        tokenizer: for a model object, its tokenizer; needed to encode text.
        processor: for a model object, its image processor, whose size, mean and standard deviation are used; None for
            the one beside the files that the object came from.
        base: for a file of weights, the CLIP that it was trained from; a file with a vision tower alone takes the text
            encoder of that.
        device, dtype: where and in what precision the weights are (``float32``, ``bfloat16``, ``float16``); None: the
            CPU. A model object, or one that is loaded already, keeps its own precision, and stays where it is unless it
            is given a device.
        device_map: spreads a LLaVA or Qwen-VL over devices (``auto``, ``balanced``), or reads it straight onto one
            (``cuda:0``), instead of ``device``; needs accelerate.
        gradient_checkpointing: for a LLaVA or Qwen-VL, whether gradients keep only the inputs of each block and compute
            the rest again: less memory, about a third more time.

    Raises:
        UnknownModelError: there is no model of that name.
        ModelError: unavailable or unreadable files, an unsupported family, an option that it does not take, or weights,
            a scale, an image processor or a tokenizer that cannot be right.
        SettingsError: an unknown dtype.

    Warns:
        UserWarning: a model object came without an image processor, so that its normalisation is a guess; tensors
            without a place in the model; an uncommonly large logit scale.
    """
    if isinstance(model, VLM):
        if tokenizer is not None or processor is not None:
            raise ModelError(f"{model.name} is loaded already, with its tokenizer and processor; load its model object")
        if base is not None or device_map is not None:
            raise ModelError(f"{model.name} is loaded already: base and device_map are for what is read from files")
        with reading(model.name):
            loaded = model if device is None else model.to(device)
    elif isinstance(model, nn.Module):
        with reading(name or type(model).__name__):
            loaded = _wrapped(model, name, tokenizer, processor, device, device_map)
            check_model(loaded)
    else:
        written, kind = str(model), dtype_of(dtype)
        source = str(expanded(written)) if written.startswith("~") else written
        with reading(written):
            place = "cpu" if device is None else device
            loaded = _read(source, tokenizer, processor, base, place, kind, device_map)
            check_model(loaded)
    if name is not None:
        loaded = copy.copy(loaded) if loaded is model else loaded
        loaded.name = name
    if gradient_checkpointing:
        if not isinstance(loaded, Generative):
            raise ModelError(f"{loaded.name} does not generate text; gradient_checkpointing is for a LLaVA or Qwen-VL")
        loaded.gradient_checkpointing = True
    return loaded


def _wrapped(
    model: nn.Module,
    name: str | None,
    tokenizer: Any,
    processor: Any,
    device: torch.device | str | None,
    device_map: str | None,
) -> VLM:
    if device is not None:
        check_device(device)
    model = _inside(model)
    if device_map is not None:
        raise ModelError("a model object is where it is; device_map is for a model that is loaded by name")
    path = getattr(getattr(model, "config", None), "_name_or_path", "")
    name = name or str(path or type(model).__name__)
    if _is_classifier(model):
        raise ModelError(
            f"{name} is a {type(model).__name__}, which has classes of its own and encodes no text; evaluate it as a "
            "classifier, a function from pixels to logits: radapt.evaluate({'mine': lambda pixels: "
            "model((pixels - mean) / std)}, ...)"
        )
    family = family_of(type_of(model), "load", name)
    wrapped: VLM = family.load(model, name=name, tokenizer=tokenizer, processor=processor)
    return wrapped if device is None else wrapped.to(device)


def _read(
    name: str,
    tokenizer: Any,
    processor: Any,
    base: str | Path | VLM | None,
    device: torch.device | str,
    dtype: torch.dtype,
    device_map: str | None,
) -> VLM:
    check_device(device)
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
    loaded: VLM = family.load(source, name=name, tokenizer=tokenizer, processor=processor, dtype=dtype, **settings)
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
