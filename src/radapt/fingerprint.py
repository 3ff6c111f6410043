"""Fingerprints: hashes that tell weights from other weights, images from other images, and code from other code."""

from __future__ import annotations

import functools
import hashlib
import inspect
import types
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from radapt.errors import SettingsError

__all__ = ["code_digest", "digest", "version_of"]


def digest(tensors: Iterable[Tensor]) -> str:
    """Hash of the bytes, types and shapes of tensors: tells images from others, and a model's weights from others."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()[:16]


def version_of(kind: type) -> str:
    """What tells the code of a class from what it was before: its ``revision``, and of a class that is not this
    library's the hash of its source, and of those that it is derived from, where there is any."""
    total = hashlib.sha256()
    own = True
    for each in kind.__mro__:
        package = each.__module__.partition(".")[0]
        if package in ("radapt", "builtins", "abc", "typing"):
            continue
        own = False
        try:
            total.update(inspect.getsource(each).encode())
        except (OSError, TypeError):  # made in a notebook or an interpreter
            code = [getattr(value, "__code__", None) for value in vars(each).values()]
            total.update(repr([(c.co_code, c.co_consts, c.co_names) for c in code if c is not None]).encode())
    revision = str(getattr(kind, "revision", 1))
    return revision if own else f"{revision}-{total.hexdigest()[:16]}"


def code_digest(thing: Any) -> str:
    """Hash of a function or module: of its source, and of every value and tensor that it holds.

    Raises:
        SettingsError: its source is not to be found, so that nothing tells it from another.
    """
    total = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            total.update(digest([value]).encode())
        elif isinstance(own := getattr(value, "fingerprint", None), str):
            total.update(own.encode())
        elif isinstance(value, torch.nn.Module):
            for name, module in value.named_modules():
                add(name)
                add_source(type(module))
                plain = {k: v for k, v in vars(module).items() if not k.startswith("_") and k != "training"}
                add(sorted(plain.items()))
                hooks = (getattr(hook, "__self__", None) for hook in module._forward_pre_hooks.values())
                for mark in [hook for hook in hooks if isinstance(getattr(hook, "fingerprint", None), str)]:
                    add(mark)  # an adapter that it carries
            for name, tensor in value.state_dict().items():
                add(name)
                add(tensor)
        elif isinstance(value, functools.partial):
            add([value.func, *value.args, *sorted(value.keywords.items())])
        elif inspect.isroutine(value):
            if isinstance(value, types.BuiltinFunctionType | types.BuiltinMethodType):
                add(f"{value.__module__}.{value.__qualname__}")
                return
            add_source(value)
            add(getattr(value, "__self__", None))
            add([cell.cell_contents for cell in getattr(value, "__closure__", None) or ()])
            add(list(getattr(value, "__defaults__", None) or ()))
        elif isinstance(value, dict):
            add(sorted(value.items(), key=repr))
        elif isinstance(value, list | tuple | set | frozenset):
            for item in value:
                add(item)
        elif isinstance(value, str | bytes | int | float | bool | complex | type | torch.dtype | torch.device | None):
            total.update(repr(value).encode())
        else:
            add_source(type(value))
            add(vars(value) if hasattr(value, "__dict__") else repr(value))

    def add_source(kind: Any) -> None:
        try:
            total.update(inspect.getsource(kind).encode())
        except (OSError, TypeError) as error:
            # The source of a class in a notebook is not to be found, that of its methods is.
            own = vars(kind) if inspect.isclass(kind) else {}
            methods = {name: each for name, each in own.items() if inspect.isfunction(each)}
            if methods:
                add([kind.__qualname__, *methods.values()])
                add({k: v for k, v in own.items() if not k.startswith("__") and k not in methods})
                return
            raise SettingsError(
                f"the source of {getattr(kind, '__qualname__', kind)!r} is not to be found ({error}), so nothing would "
                "tell it from another; define it in a file, or give a fingerprint"
            ) from error

    add(thing)
    return total.hexdigest()[:16]
