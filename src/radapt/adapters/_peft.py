"""Deltas of low rank as PEFT writes them: ``adapter_config.json`` and ``adapter_model.safetensors`` of a LoRA."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor, nn

from radapt.errors import AdapterError, shown
from radapt.io import expanded, replacing
from radapt.models import VLM, Delta, LowRank, check_deltas, names_of, tower_of
from radapt.schema import read_json
from radapt.types import Anchor

from ._checks import checked_deltas
from ._settings import AdapterSettings

__all__ = ["read_lora", "write_lora"]

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_UP, _DOWN = ".lora_B.weight", ".lora_A.weight"
_LARGEST = 1 << 20
_NAME = re.compile(r"[\w.-]+")
# What a LoRA may do beyond its two matrices, and what its absence looks like.
_PLAIN: dict[str, tuple[object, ...]] = {
    "use_dora": (False, None),
    "bias": ("none", None),
    "modules_to_save": (None, []),
    "fan_in_fan_out": (False, None),
    # Others (pissa, olora, corda, loftq, lora_ga) change the weights of the model, too.
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
    **dict.fromkeys(("lora_bias", "use_qalora", "use_bdlora"), (False, None)),
    **dict.fromkeys(("kasa_config", "arrow_config", "monteclora_config", "layer_replication"), (None, [])),
    "alora_invocation_tokens": (None, []),
}


def write_lora(
    settings: AdapterSettings, anchor: Anchor | None, deltas: Mapping[str, Delta], model: VLM | nn.Module, folder: Path
) -> Path:
    """Write deltas as a LoRA for a model.

    Raises:
        AdapterError: PEFT has no such parts, or the folder cannot be written.
    """
    if settings.cutoff is not None or (anchor is not None and settings.alpha):
        raise AdapterError(
            "PEFT knows neither filter nor anchor; write the deltas alone: adapter.change(cutoff=None, alpha=0)"
        )
    pairs = {name: delta for name, delta in deltas.items() if isinstance(delta, LowRank)}
    whole = [name for name in deltas if name not in pairs or not name.endswith(".weight")]
    if whole or not pairs:
        what = f"that of {whole[0]} is not" if whole else "there is none"
        raise AdapterError(f"a LoRA has deltas of low rank alone, and {what}; make the adapter with a rank")
    module = model.model if isinstance(model, VLM) else model
    root = tower_of(model).root
    check_deltas(root, pairs)
    _check_shared(root, pairs)
    above = f"{tower_of(model).name_in(module)}."
    tensors, ranks = dict[str, Tensor](), dict[str, int]()
    for name, delta in pairs.items():
        target = f"{above}{name.removesuffix('.weight')}".lstrip(".")
        if not isinstance(module.get_submodule(target), nn.Linear):
            raise AdapterError(f"{target} is no linear layer, so PEFT cannot hold its delta as matrices")
        ranks[target] = delta.rank
        for end, tensor in ((_UP, delta.up), (_DOWN, delta.down)):
            tensors[_PREFIX + target + end] = tensor.detach().to("cpu", copy=True).contiguous()
    rank = max(ranks.values())
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": settings.base_model,
        "task_type": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": sorted(ranks),
        "rank_pattern": {name: own for name, own in sorted(ranks.items()) if own != rank},
        "alpha_pattern": {name: own for name, own in sorted(ranks.items()) if own != rank},
    }
    folder = expanded(folder)
    try:
        with replacing(folder / _CONFIG) as new_config, replacing(folder / _WEIGHTS) as new_weights:
            new_config.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
            new_weights.write_bytes(save_bytes(tensors, {"format": "pt"}))
    except OSError as error:
        raise AdapterError(f"cannot write the LoRA to {folder}: {error}") from error
    return folder


def read_lora(folder: Path, model: VLM | nn.Module) -> tuple[str, dict[str, Delta]]:
    """The name of the base model and the deltas of a LoRA in a folder.

    Raises:
        AdapterError: it is none, is damaged, or does more to a model than an adapter can.
    """
    config: Any = read_json(folder / _CONFIG, what="LoRA's configuration", error=AdapterError, largest=_LARGEST)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise AdapterError(f"{folder} holds an adapter of type {shown(kind)}, not 'LORA'")
    for key, plain in _PLAIN.items():
        if config.get(key) not in plain:
            raise AdapterError(
                f"{folder}: {key}={shown(config[key])} does more than add two matrices' product; "
                "convert it to a plain LoRA, or merge it in PEFT and load the model"
            )
    try:
        tensors = load_bytes((folder / _WEIGHTS).read_bytes())
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise AdapterError(f"{folder / _WEIGHTS} cannot be read: {error}") from error
    if not tensors:
        raise AdapterError(f"{folder / _WEIGHTS} holds no tensors")
    module = model.model if isinstance(model, VLM) else model
    root = tower_of(model).root
    linear = {name for name, each in root.named_modules() if isinstance(each, nn.Linear)}
    above = f"{_PREFIX}{tower_of(model).name_in(module)}.".replace("..", ".")
    deltas = dict[str, Delta]()
    for key in tensors:
        stem = key.removesuffix(_UP).removesuffix(_DOWN)
        ours = stem != key and stem.removeprefix(above) in linear and stem.startswith(above)
        if not ours or not {stem + _UP, stem + _DOWN} <= set(tensors):
            raise AdapterError(
                f"{folder} changes {shown(key)}, which is no linear layer of the vision encoder ({above}*)"
            )
        up, down = tensors[stem + _UP], tensors[stem + _DOWN]
        if not (up.is_floating_point() and down.is_floating_point() and up.ndim == down.ndim == 2):
            what = ", ".join(f"{tuple(each.shape)} of {each.dtype}" for each in (up, down))
            raise AdapterError(f"{folder}: {shown(stem)} has no two matrices of floating-point numbers, but {what}")
        scale = _scale(config, stem.removeprefix(_PREFIX), len(down), folder)
        deltas[f"{stem.removeprefix(above)}.weight"] = LowRank(up=up.float() * scale, down=down.float())
    checked = checked_deltas(deltas)
    check_deltas(root, checked)
    _check_shared(root, checked)
    return str(config.get("base_model_name_or_path") or ""), checked


def _check_shared(root: nn.Module, names: Collection[str]) -> None:
    """Refuse weights that several layers share: PEFT changes one layer, and an adapter all that have the weight."""
    for name in names:
        if other := [place for place in names_of(root, root.get_parameter(name)) if place != name]:
            raise AdapterError(f"{name} and {other[0]} are one weight; a LoRA of PEFT would change one alone")


def _scale(config: Mapping[str, Any], module: str, rank: int, folder: Path) -> float:
    """By what PEFT multiplies the product: alpha / r, or alpha / sqrt(r) with rank-stabilised LoRA."""
    patterns, alpha = config.get("alpha_pattern") or {}, config.get("lora_alpha")
    for name, own in reversed(patterns.items()) if isinstance(patterns, dict) else ():  # the first that fits counts
        if not _NAME.fullmatch(name):
            raise AdapterError(f"{folder}: alpha_pattern has {shown(name)}; names of layers are read, patterns are not")
        alpha = own if module == name or module.endswith(f".{name}") else alpha
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not -_LARGEST < alpha < _LARGEST or rank < 1:
        raise AdapterError(f"{folder}: lora_alpha must be a number, got {shown(alpha)}, and the rank at least 1")
    stabilised = config.get("use_rslora") or False
    if not isinstance(stabilised, bool):
        raise AdapterError(f"{folder}: use_rslora must be true or false, got {shown(stabilised)}")
    return float(alpha / (math.sqrt(rank) if stabilised else rank))
