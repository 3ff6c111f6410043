"""What tells one loaded model from another: its weights, and all else that decides what it puts out."""

from __future__ import annotations

import json
import types
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from radapt.fingerprint import code_digest, digest, hooks_of, patches_of, version_of
from radapt.io import digest_of
from radapt.origin import is_installed

from ._deltas import WeightChange
from ._hooks import PixelHook

__all__ = ["identity_of"]

# Where a configuration comes from, by whom it was written, and what is for training only.
_INCIDENTAL = {"_name_or_path", "name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"}
_MODES = {"training", "gradient_checkpointing"}
_PLAIN = str | int | float | bool | None
_OF_PEFT = ("_active_adapter", "_disable_adapters", "merged_adapters", "scaling")


def identity_of(module: nn.Module, attributes: Mapping[str, object]) -> str:
    """Hash of a module and of what is used beside it.

    It covers weights and buffers with their types, the classes and plain attributes of all submodules (so that another
    activation or another number of heads counts), code that is not of an installed package, low-rank adapters of PEFT
    that are on, hooks that are not an adapter's, the configuration, the attention implementation, and the attributes:
    normalisation, tokenizer, image processor, chat template.

    Args:
        module: the module, on any device and in any mode.
        attributes: what else decides the outputs, by name.
    """
    tensors = {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
        **_packed(module),
        **_own(module),
    }
    parts = list(module.named_modules(remove_duplicate=False))
    classes = {type(each) for _, each in parts}
    facts = {
        "tensors": [sorted(tensors), digest(tensors[name] for name in sorted(tensors))],
        "modules": [[name, *_structure(each)] for name, each in parts],
        "classes": {_name(each): [version_of(each), *patches_of(each)] for each in classes},
        "config": _described(getattr(module, "config", None)),
        "attention": [[name, *_attention(each)] for name, each in parts if hasattr(each, "config")],
        "attributes": {name: _described(value) for name, value in attributes.items()},
    }
    return digest_of(facts, default=repr)


def _own(module: nn.Module) -> dict[str, Tensor]:
    """The weights that an adapter keeps aside, by their names in the module."""
    own = dict[str, Tensor]()
    for name, each in module.named_modules():
        for hook in each._forward_pre_hooks.values():
            change = getattr(getattr(hook, "__self__", None), "change_of_weights", None)
            if isinstance(change, WeightChange):
                own |= {f"{name}.{key}".lstrip("."): weight for key, weight in change.aside.items()}
    return own


def _packed(module: nn.Module) -> dict[str, Tensor]:
    """Weights that are neither parameters nor buffers: those of layers quantised by torch or bitsandbytes."""
    found = dict[str, Tensor]()
    for name, each in module.named_modules():
        if hasattr(each, "_packed_params"):
            packed = [
                (key, value if isinstance(value, tuple) else (value,)) for key, value in each.state_dict().items()
            ]
            values = {f"{name}.{key}.{at}": one for key, several in packed for at, one in enumerate(several)}
            found |= {key: one.dequantize() for key, one in values.items() if isinstance(one, Tensor)}
    for name, parameter in module.named_parameters():
        scales = getattr(getattr(parameter, "quant_state", None), "absmax", None)
        if isinstance(scales, Tensor):
            found[f"{name}.absmax"] = scales
    return found


def _structure(module: nn.Module) -> Iterator[object]:
    """Class, attributes and hooks of one module, without those of its submodules."""
    kind = type(module)
    yield _name(kind)
    values = {name: value for name, value in sorted(vars(module).items()) if not name.startswith("_")}
    yield [
        [name, value if isinstance(value, _PLAIN) else _called(value)]
        for name, value in values.items()
        if name not in _MODES | _INCIDENTAL and _said(value)
    ]
    if not is_installed(kind):  # whose tensors and collections are settings, and nothing that passes leave behind
        yield [
            [name, _described(value)]
            for name, value in values.items()
            if isinstance(value, Tensor | np.ndarray | Collection)
        ]
    if "_active_adapter" in vars(module):  # a layer of PEFT
        yield [_described(vars(module).get(name)) for name in _OF_PEFT]
    for hook in hooks_of(module):
        if not isinstance(getattr(hook, "__self__", None), PixelHook):
            yield code_digest(hook, lenient=True)


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _said(value: object) -> bool:
    """Whether an attribute says something: None does not, as passes may leave something else there."""
    return value is not None and (isinstance(value, _PLAIN) or callable(value))


def _called(function: Any) -> str:
    """A function that is an attribute of a module: by its name where it is of an installed package."""
    own = function.__func__ if isinstance(function, types.MethodType) else function
    if isinstance(own, types.FunctionType) and not is_installed(own):
        return code_digest(own, lenient=True)
    return str(getattr(function, "__qualname__", type(function).__name__))


def _attention(module: nn.Module) -> Iterator[object]:
    """The attention implementation that a module's configuration names, and its code where it is one's own."""
    name = getattr(module.config, "_attn_implementation", None)
    yield name
    function = ALL_ATTENTION_FUNCTIONS.get(name) if isinstance(name, str) else None
    if function is not None and not is_installed(function):
        yield code_digest(function, lenient=True)


def _described(value: Any) -> object:
    """A value, or what stands for it, as JSON holds it."""
    if isinstance(value, Tensor):
        return digest([value])
    if isinstance(value, np.ndarray | np.generic):
        return _described(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): _described(each) for key, each in value.items() if key not in _INCIDENTAL}
    if isinstance(value, list | tuple | set | frozenset):
        return [_described(each) for each in value]
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, nn.Module):
        return code_digest(value, lenient=True)
    if isinstance(value, types.FunctionType | types.MethodType):
        return _called(value)
    kind = _name(type(value))
    if hasattr(value, "backend_tokenizer"):
        content = json.loads(value.backend_tokenizer.to_str())
        # What the last call set, and every call sets anew.
        content = {name: each for name, each in content.items() if name not in ("truncation", "padding")}
        special = {name: str(each) for name, each in value.special_tokens_map.items()}
        sides = [value.padding_side, value.truncation_side, getattr(value, "clean_up_tokenization_spaces", None)]
        return [kind, digest_of(content), special, *sides]
    if hasattr(getattr(value, "tokenizer", None), "backend_tokenizer"):  # open_clip's around one of transformers
        return [kind, {name: _described(each) for name, each in vars(value).items()}]
    if callable(getattr(value, "get_vocab", None)):
        return [kind, digest_of(value.get_vocab())]
    if isinstance(getattr(value, "encoder", None), Mapping):  # open_clip's own
        cleaned = [_described(getattr(value, name, None)) for name in ("clean_fn", "reduction_fn", "context_length")]
        ranks = {str(pair): rank for pair, rank in getattr(value, "bpe_ranks", {}).items()}
        return [kind, digest_of(dict(value.encoder), default=repr), digest_of(ranks), *cleaned]
    if callable(getattr(value, "to_dict", None)):
        return [kind, _described(value.to_dict())]
    return code_digest(value, lenient=True) if callable(value) and not is_installed(type(value)) else kind
