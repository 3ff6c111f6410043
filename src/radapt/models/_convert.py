"""Conversion of open_clip's weights to those of ``transformers.CLIPModel``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from radapt.errors import ModelError

__all__ = ["check_fit", "convert", "fill", "first_line", "read_weights"]

_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)")
_PARTS = {
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "attn.out_proj.": "self_attn.out_proj.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}
_WHOLE = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
}
_TRANSPOSED = ("visual.proj", "text_projection")
_NESTED = 3
"""How often a state dict may lie in another as its ``state_dict``."""
_IGNORED = ("attn_mask", "input_resolution", "context_length", "vocab_size")


def convert(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of an open_clip state dict, or of its vision tower alone, under the names of ``transformers.CLIPModel``.

    The fused projection of queries, keys and values is taken apart, and the two output projections are transposed.
    Names that have no counterpart come back as they are, so that loading can say which they are.

    Args:
        weights: names and tensors; prefixes ``module.`` and ``text.`` are dropped, and a file that holds a vision tower
            alone may leave out ``visual.``.

    Raises:
        ModelError: two tensors have the same name but for the prefix.
    """
    plain: dict[str, Tensor] = {}
    for full, value in weights.items():
        name = re.sub(r"^(module\.)?(model\.(?=visual\.))?(text\.)?", "", full)
        if name in plain:
            raise ModelError(f"the weights hold {name!r} twice, once as {full!r}; of two models, keep one")
        plain[name] = value
    if "conv1.weight" in plain:
        plain = {f"visual.{name}": value for name, value in plain.items()}
    result: dict[str, Tensor] = {}
    for name, value in plain.items():
        if name in _IGNORED:
            continue
        if name in _WHOLE:
            result[_WHOLE[name]] = value.T.contiguous() if name in _TRANSPOSED and value.ndim == 2 else value
            continue
        block = _BLOCK.match(name)
        if block is None:
            result[name] = value
            continue
        visual, number, part = block.groups()
        to = f"{'vision' if visual else 'text'}_model.encoder.layers.{number}."
        if part in ("attn.in_proj_weight", "attn.in_proj_bias") and value.ndim and len(value) % 3 == 0:
            kind = part.removeprefix("attn.in_proj_")
            for letter, third in zip("qkv", value.chunk(3), strict=True):
                result[f"{to}self_attn.{letter}_proj.{kind}"] = third.contiguous()
        else:
            known = next((old for old in _PARTS if part.startswith(old)), None)
            result[name if known is None else to + _PARTS[known] + part.removeprefix(known)] = value
    return result


def read_weights(file: Path) -> dict[str, Tensor]:
    """Tensors of a ``.safetensors`` file, or of a ``.pt`` or ``.bin`` file that holds a state dict; runs no code.

    Raises:
        ModelError: the file cannot be read, or holds anything but tensors.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError) as error:
        raise ModelError(f"cannot read {file}: {first_line(error)}. It must hold a state dict of tensors") from error
    except Exception as error:  # what torch.load raises on objects is pickle's own
        raise ModelError(
            f"{file} holds more than tensors ({first_line(error)}), and nothing is ever unpickled; save its state "
            "dict with safetensors.torch.save_file"
        ) from error
    for _ in range(_NESTED):
        if isinstance(content, Mapping) and "state_dict" in content:
            content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise ModelError(f"{file} holds no state dict: a mapping of names to tensors is expected")
    for name, value in content.items():
        if value.layout != torch.strided or value.is_quantized or value.is_meta or value.is_complex():
            raise ModelError(f"{file} holds {name!r} as a {value.dtype} that cannot be read; save it as plain numbers")
    return dict(content)


def check_fit(model: Any, weights: Mapping[str, Tensor], name: str, *, part: str = "") -> None:
    """Refuse weights that are not exactly those of a model, or of the part of it whose names begin so.

    Raises:
        ModelError: tensors are missing, extra or of another shape.
    """
    wanted = {key: value.shape for key, value in model.state_dict().items() if key.startswith(part)}
    wrong = {
        "lack": sorted(wanted.keys() - weights.keys()),
        "have besides": sorted(weights.keys() - wanted.keys()),
        "have in another shape": sorted(k for k in wanted.keys() & weights.keys() if wanted[k] != weights[k].shape),
    }
    faults = [f"{how} {len(keys)} tensors ({', '.join(keys[:3])})" for how, keys in wrong.items() if keys]
    if faults:
        raise ModelError(f"the weights of {name!r} {' and '.join(faults)}; they are of another model than it says")


def fill(model: Any, weights: Mapping[str, Tensor], name: str, *, part: str = "") -> None:
    """Load weights strictly, all of them or those whose names begin with ``part``.

    Raises:
        ModelError: tensors are missing, extra or of another shape.
    """
    check_fit(model, weights, name, part=part)
    model.load_state_dict({key: value.float() for key, value in weights.items()}, strict=not part)


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
