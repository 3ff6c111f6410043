"""What tells one loaded model from another: its weights, and all else that decides what it puts out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from radapt.errors import SettingsError
from radapt.fingerprint import code_digest, digest
from radapt.io import digest_of

from ._deltas import WeightChange
from ._hooks import PixelHook

__all__ = ["identity_of"]

# Where a configuration comes from, by whom it was written, and what is for training only.
_INCIDENTAL = {"_name_or_path", "name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"}
_MODES = {"training", "gradient_checkpointing"}
_PLAIN = str | int | float | bool | None


def identity_of(module: nn.Module, attributes: Mapping[str, object]) -> str:
    """Hash of a module and of what is used beside it.

    It covers weights and buffers with their types, the classes and plain attributes of all submodules (so that another
    activation or another number of heads counts), hooks that are not an adapter's, the configuration, the attention
    implementation, and the attributes: normalisation, tokenizer, image processor, chat template.

    Args:
        module: the module, on any device and in any mode.
        attributes: what else decides the outputs, by name.
    """
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers()), **_own(module)}
    config = getattr(module, "config", None)
    facts = {
        "tensors": [sorted(tensors), digest(tensors[name] for name in sorted(tensors))],
        "modules": [[name, *_structure(each)] for name, each in module.named_modules()],
        "config": _described(config),
        "attention": getattr(config, "_attn_implementation", None),
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
                own |= {f"{name}.{key}".lstrip("."): weight for key, weight in change.own.items()}
    return own


def _structure(module: nn.Module) -> Iterator[object]:
    """Class, plain attributes and hooks of one module, without those of its submodules."""
    kind = type(module)
    yield f"{kind.__module__}.{kind.__qualname__}"
    values = vars(module)
    yield [
        [name, value if isinstance(value, _PLAIN) else getattr(value, "__qualname__", type(value).__name__)]
        for name, value in sorted(values.items())
        if not name.startswith("_") and name not in _MODES | _INCIDENTAL and _said(value)
    ]
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for hook in hooks.values():
            # Those of transformers collect what passes by, from the first pass that is asked for it on.
            own = not str(getattr(hook, "__module__", "")).startswith("transformers.")
            if own and not isinstance(getattr(hook, "__self__", None), PixelHook):
                yield _code(hook)


def _said(value: object) -> bool:
    """Whether an attribute says something: None does not, as passes may leave something else there."""
    return value is not None and (isinstance(value, _PLAIN) or callable(value))


def _code(function: Any) -> str:
    try:
        return code_digest(function)
    except SettingsError:  # its source is not to be found: its name must do
        return getattr(function, "__qualname__", type(function).__qualname__)


def _described(value: Any) -> object:
    """A value, or what stands for it, as JSON holds it."""
    if isinstance(value, Tensor):
        return digest([value])
    if isinstance(value, Mapping):
        return {str(key): _described(each) for key, each in value.items() if key not in _INCIDENTAL}
    if isinstance(value, list | tuple | set | frozenset):
        return [_described(each) for each in value]
    if isinstance(value, _PLAIN):
        return value
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if hasattr(value, "backend_tokenizer"):
        content = json.loads(value.backend_tokenizer.to_str())
        # What the last call set, and every call sets anew.
        content = {name: each for name, each in content.items() if name not in ("truncation", "padding")}
        special = {name: str(each) for name, each in value.special_tokens_map.items()}
        return [kind, digest_of(content), special, value.padding_side, value.truncation_side]
    if callable(getattr(value, "get_vocab", None)):
        return [kind, digest_of(value.get_vocab())]
    if isinstance(getattr(value, "encoder", None), Mapping):  # open_clip's own
        return [kind, digest_of(dict(value.encoder), default=repr), getattr(value, "context_length", None)]
    if callable(getattr(value, "to_dict", None)):
        return [kind, _described(value.to_dict())]
    return kind if not callable(value) else getattr(value, "__qualname__", kind)
