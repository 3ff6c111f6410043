"""Fingerprints: hashes that tell weights from other weights, images from other images, and code from other code."""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
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
    library's the hash of its code, of the classes that it is derived from, and of what they refer to, as
    :func:`code_digest` has it."""
    code = _Code(lenient=True)
    own = [each for each in kind.__mro__ if not _installed(each)]
    for each in own:
        code.add_source(each)
    revision = str(getattr(kind, "revision", 1))
    return f"{revision}-{code.digest}" if own else revision


def code_digest(thing: Any) -> str:
    """Hash of a function or module: of its source, and of every value and tensor that it holds or refers to.

    These are the defaults and the closure of a function, and what it names of its module: values, tensors and arrays,
    collections of such, torch modules, functions and classes of your own, and callable objects; of a module, the
    attributes, weights, buffers and mode of each of its parts; of any other object its attributes. Private attributes
    of a module count where they are plain values or tensors. Of installed packages, no global values are looked at, nor
    are other objects that a function names, such as a logger, nor what has no source.

    Raises:
        SettingsError: its source is not to be found, so that nothing tells it from another.
    """
    code = _Code()
    code.add(thing)
    return code.digest


class _Code:
    """A hash of code, and of what it refers to.

    Args:
        lenient: whether bytecode will do where there is no source.
    """

    def __init__(self, *, lenient: bool = False) -> None:
        self._total, self._lenient = hashlib.sha256(), lenient
        self._met: dict[int, object] = {}
        self._classes = set[type]()

    @property
    def digest(self) -> str:
        """The hash of all that was added."""
        return self._total.hexdigest()[:16]

    def _before(self, value: Any) -> bool:
        """Whether this very object was added before: then its number is, once more."""
        if id(value) in self._met:
            self._total.update(f"as before {list(self._met).index(id(value))}".encode())
            return True
        self._met[id(value)] = value
        return False

    def add(self, value: Any) -> None:
        """Add a value, whatever it is."""
        if isinstance(value, torch.nn.Module | types.FunctionType) and self._before(value):
            return  # such as a function that calls itself
        if isinstance(value, torch.Tensor):
            self._total.update(digest([value]).encode())
        elif isinstance(value, np.ndarray):
            self._total.update(f"{value.dtype} {value.shape}".encode())
            self._total.update(repr(value.tolist()).encode() if value.dtype.hasobject else value.tobytes())
        elif isinstance(own := getattr(value, "fingerprint", None), str):
            self._total.update(own.encode())
        elif isinstance(value, torch.nn.Module):
            self._add_module(value)
        elif isinstance(value, functools.partial):
            self.add([value.func, *value.args, *sorted(value.keywords.items())])
        elif inspect.isroutine(value):
            self._add_routine(value)
        elif isinstance(value, dict):
            self.add(sorted(value.items(), key=repr))
        elif isinstance(value, list | tuple | set | frozenset):
            for item in value if isinstance(value, list | tuple) else sorted(value, key=repr):
                self.add(item)
        elif isinstance(value, type | _PLAIN):
            self._total.update(repr(value).encode())
        elif not self._before(value):
            self.add_source(type(value))
            self.add(vars(value) if hasattr(value, "__dict__") else repr(value))

    def _add_module(self, module: torch.nn.Module) -> None:
        for name, part in module.named_modules():
            self.add(name)
            self.add_source(type(part))
            attributes = {k: v for k, v in vars(part).items() if k not in _MACHINERY or k == "training"}
            self.add(sorted((k, v) for k, v in attributes.items() if not k.startswith("_") or _plain(v)))
            hooks = (getattr(hook, "__self__", None) for hook in part._forward_pre_hooks.values())
            for mark in [hook for hook in hooks if isinstance(getattr(hook, "fingerprint", None), str)]:
                self.add(mark)  # an adapter that it carries
        tensors = module.state_dict()
        for name, tensor in [*tensors.items(), *(each for each in module.named_buffers() if each[0] not in tensors)]:
            self.add(name)
            self.add(tensor)

    def _add_routine(self, routine: Any) -> None:
        if isinstance(routine, types.BuiltinFunctionType | types.BuiltinMethodType):
            self.add(f"{routine.__module__}.{routine.__qualname__}")
            return
        self.add_source(routine)
        self.add(getattr(routine, "__self__", None))
        self.add(getattr(routine, "__wrapped__", None))
        self.add([cell.cell_contents for cell in getattr(routine, "__closure__", None) or ()])
        self.add(list(getattr(routine, "__defaults__", None) or ()))
        self.add(getattr(routine, "__kwdefaults__", None) or {})
        self._add_named(routine)

    def _add_named(self, routine: Any) -> None:
        """Add what a function of one's own names of its module, and of modules of one's own."""
        code, known = getattr(routine, "__code__", None), getattr(routine, "__globals__", {})
        if code is None or _installed(routine):
            return
        names = sorted({name for name in _names(code) if not name.startswith("__")})
        places = [known, *(vars(known[name]) for name in names if _own_module(known.get(name)))]
        for place in places:
            for name in names:
                if name in place and not isinstance(place[name], types.ModuleType):
                    self._add_global(name, place[name])

    def _add_global(self, name: str, value: Any) -> None:
        if isinstance(value, list | tuple | set | frozenset | dict) and not _plain(value):
            items = value.items() if isinstance(value, dict) else value
            for item in sorted(items, key=repr) if isinstance(value, set | frozenset) else items:
                self._add_global(name, item)
            return
        if isinstance(value, type):
            if not _installed(value):
                self.add_source(value)
            return
        marked = isinstance(getattr(value, "fingerprint", None), str)  # such as a model or an adapter of ours
        if marked or _plain(value) or callable(value) or isinstance(value, np.ndarray):
            if inspect.isroutine(value) and _installed(value) and not getattr(value, "__self__", None):
                self.add([name, getattr(value, "__module__", ""), value.__qualname__])
                return
            with suppress(SettingsError):  # what has no source cannot be told from another
                self.add([name, value])

    def add_source(self, kind: Any) -> None:
        """Add the source of a class or function, and what its methods name.

        Raises:
            SettingsError: it is not to be found.
        """
        if inspect.isclass(kind):
            if kind in self._classes:
                return
            self._classes.add(kind)
            for base in kind.__bases__:
                if not _installed(base):
                    self.add_source(base)
            for each in filter(inspect.isfunction, map(_unwrapped, vars(kind).values())):
                self._add_named(each)
        try:
            self._total.update(inspect.getsource(kind).encode())
        except (OSError, TypeError) as error:
            # The source of a class in a notebook is not to be found, that of its methods is.
            own = {name: _unwrapped(each) for name, each in vars(kind).items()} if inspect.isclass(kind) else {}
            methods = {name: each for name, each in own.items() if inspect.isfunction(each)}
            if methods:
                self.add([kind.__qualname__, *methods.values()])
                self.add({k: v for k, v in own.items() if not k.startswith("__") and k not in methods and _plain(v)})
                return
            if self._lenient and (inspect.isclass(kind) or hasattr(kind, "__code__")):
                self._total.update(repr([kind.__qualname__, *_bytecode(getattr(kind, "__code__", None))]).encode())
                self.add({k: v for k, v in own.items() if not k.startswith("__") and _plain(v)})
                return
            raise SettingsError(
                f"the source of {getattr(kind, '__qualname__', kind)!r} is not to be found ({error}), so nothing would "
                "tell it from another; define it in a file, or give a fingerprint"
            ) from error


def _installed(thing: Any) -> bool:
    """Whether a function or class is of this library, of Python, or of an installed package."""
    code = getattr(thing, "__code__", None)
    if code is not None:
        return bool(code.co_filename.startswith(_INSTALLED))
    module = sys.modules.get(getattr(thing, "__module__", None) or "builtins")
    return module is not None and module.__name__ != "__main__" and not _own_module(module)


def _own_module(thing: Any) -> bool:
    """Whether something is a module that is neither of this library nor of an installed package."""
    file = getattr(thing, "__file__", None) if isinstance(thing, types.ModuleType) else None
    return file is not None and not str(file).startswith(_INSTALLED)


def _unwrapped(member: Any) -> Any:
    """The function in a static or class method or a property."""
    if isinstance(member, staticmethod | classmethod):
        return member.__func__
    return member.fget if isinstance(member, property) else member


def _bytecode(code: types.CodeType | None) -> Iterator[object]:
    """What a function does, without its line numbers."""
    if code is not None:
        yield from (code.co_code, code.co_names)
        for each in code.co_consts:
            yield from _bytecode(each) if isinstance(each, types.CodeType) else [each]


def _plain(value: object) -> bool:
    """Whether a value is a tensor, an array, a number, a text, or a collection of such."""
    if isinstance(value, dict):
        return all(map(_plain, value)) and all(map(_plain, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_plain, value))
    return isinstance(value, torch.Tensor | np.ndarray | _PLAIN)


def _names(code: types.CodeType) -> Iterator[str]:
    """The names that a function uses, and those of the functions inside it."""
    yield from code.co_names
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _names(each)
