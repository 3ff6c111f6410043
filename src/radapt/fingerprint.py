"""Fingerprints: hashes that tell weights from other weights, images from other images, and code from other code."""

from __future__ import annotations

import functools
import hashlib
import inspect
import sysconfig
import types
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from radapt.errors import SettingsError

__all__ = ["code_digest", "digest", "version_of"]

_PLAIN = str | bytes | int | float | bool | complex | torch.dtype | torch.device | None
_MACHINERY = frozenset(vars(torch.nn.Module()))
_INSTALLED = (
    str(Path(__file__).parent),
    *(sysconfig.get_paths()[name] for name in ("purelib", "platlib", "stdlib", "platstdlib")),
)


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
    """Hash of a function or module: of its source, and of every value and tensor that it holds or refers to.

    These are the defaults and the closure of a function, and the global values, modules and functions that it names; of
    a module, the attributes, weights, buffers and mode of each of its parts. Private attributes count where they are
    plain values or tensors. Of installed packages, no global values are looked at, nor are those without a source.

    Raises:
        SettingsError: its source is not to be found, so that nothing tells it from another.
    """
    total = hashlib.sha256()
    met: dict[int, object] = {}
    classes: set[type] = set()

    def add(value: Any) -> None:
        if isinstance(value, torch.nn.Module | types.FunctionType):
            if id(value) in met:  # a function that calls itself
                total.update(f"as before {list(met).index(id(value))}".encode())
                return
            met[id(value)] = value
        if isinstance(value, torch.Tensor):
            total.update(digest([value]).encode())
        elif isinstance(own := getattr(value, "fingerprint", None), str):
            total.update(own.encode())
        elif isinstance(value, torch.nn.Module):
            for name, module in value.named_modules():
                add(name)
                add_source(type(module))
                attributes = {k: v for k, v in vars(module).items() if k not in _MACHINERY or k == "training"}
                add(sorted((k, v) for k, v in attributes.items() if not k.startswith("_") or _plain(v)))
                hooks = (getattr(hook, "__self__", None) for hook in module._forward_pre_hooks.values())
                for mark in [hook for hook in hooks if isinstance(getattr(hook, "fingerprint", None), str)]:
                    add(mark)  # an adapter that it carries
            tensors = value.state_dict()
            for name, tensor in [*tensors.items(), *(each for each in value.named_buffers() if each[0] not in tensors)]:
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
            add(getattr(value, "__kwdefaults__", None) or {})
            add_globals(value)
        elif isinstance(value, dict):
            add(sorted(value.items(), key=repr))
        elif isinstance(value, list | tuple | set | frozenset):
            for item in value if isinstance(value, list | tuple) else sorted(value, key=repr):
                add(item)
        elif isinstance(value, type | _PLAIN):
            total.update(repr(value).encode())
        else:
            add_source(type(value))
            add(vars(value) if hasattr(value, "__dict__") else repr(value))

    def add_globals(routine: Any) -> None:
        code, known = getattr(routine, "__code__", None), getattr(routine, "__globals__", {})
        if code is None or code.co_filename.startswith(_INSTALLED):
            return
        for name in sorted({name for name in _names(code) if name in known and not name.startswith("__")}):
            value = known[name]
            near = isinstance(value, types.FunctionType) and value.__module__ == routine.__module__
            marked = isinstance(getattr(value, "fingerprint", None), str)  # such as a model or an adapter of ours
            if near or marked or isinstance(value, torch.nn.Module) or _plain(value):
                with suppress(SettingsError):  # what has no source cannot be told from another
                    add([name, value])

    def add_source(kind: Any) -> None:
        if inspect.isclass(kind) and kind not in classes:
            classes.add(kind)
            for each in filter(inspect.isfunction, vars(kind).values()):
                add_globals(each)
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


def _plain(value: object) -> bool:
    """Whether a value is a tensor, a number, a text, or a collection of such."""
    if isinstance(value, dict):
        return all(map(_plain, value)) and all(map(_plain, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_plain, value))
    return isinstance(value, torch.Tensor | _PLAIN)


def _names(code: types.CodeType) -> Iterator[str]:
    """The names that a function uses, and those of the functions inside it."""
    yield from code.co_names
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _names(each)
