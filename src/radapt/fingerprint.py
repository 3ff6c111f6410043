"""Fingerprints: hashes that tell weights from other weights, images from other images, and code from other code."""

from __future__ import annotations

import argparse
import functools
import hashlib
import inspect
import re
import types
from collections.abc import Iterable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from radapt.errors import ModelError, SettingsError
from radapt.origin import bytecode, is_installed, is_own_module, names_in, of_installed, unwrapped

__all__ = ["code_digest", "digest", "hooks_of", "patches_of", "version_of"]

_PLAIN = str | bytes | int | float | bool | complex | torch.dtype | torch.device | None
_MACHINERY = frozenset(vars(torch.nn.Module()))
_asked: ContextVar[frozenset[int]] = ContextVar("asked", default=frozenset())
"""Objects whose fingerprints are being taken."""


def digest(tensors: Iterable[Tensor]) -> str:
    """Hash of the bytes, types and shapes of tensors: tells images from others, and a model's weights from others.

    Raises:
        ModelError: they are not in memory.
    """
    total = hashlib.sha256()
    for tensor in tensors:
        if tensor.is_meta:
            raise ModelError("some weights are not in memory, as where accelerate offloads them; load the whole model")
        total.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()[:16]


def version_of(kind: type) -> str:
    """What tells the code of a class from what it was before: its ``revision``, and of a class that is not this
    library's the hash of its code, of the classes that it is derived from, and of what they refer to, as
    :func:`code_digest` has it."""
    code = _Code(lenient=True)
    own = [each for each in kind.__mro__ if not is_installed(each)]
    for each in own:
        code.add_source(each)
    revision = str(getattr(kind, "revision", 1))
    return f"{revision}-{code.digest}" if own else revision


def code_digest(thing: Any, *, lenient: bool = False) -> str:
    """Hash of a function or module: of its source, and of every value and tensor that it holds or refers to.

    These are the defaults and the closure of a function, and what it names of its module: values, tensors and arrays,
    collections and objects of such, torch modules, models with what is attached to them, functions and classes of your
    own, and callable objects; of a module, the attributes, weights, buffers, hooks and mode of each of its parts; of
    any other object its attributes. Private attributes of a module count where they are plain values or tensors. Of
    installed packages, no global values are looked at, nor are other objects that a function names, such as a logger,
    nor what has no source.

    Args:
        thing: the function or module, or a collection of such.
        lenient: whether its bytecode will do where its source is not to be found, and a type's name where it has none.

    Raises:
        SettingsError: its source is not to be found, so that nothing tells it from another.
    """
    code = _Code(lenient=lenient)
    code.add(thing)
    return code.digest


class _Code:
    """A hash of code, and of what it refers to.

    Args:
        lenient: as of :func:`code_digest`.
    """

    def __init__(self, *, lenient: bool = False) -> None:
        self._total, self._lenient = hashlib.sha256(), lenient
        self._met: dict[int, object] = {}
        self._classes = set[type]()

    @property
    def digest(self) -> str:
        """The hash of all that was added."""
        return self._total.hexdigest()[:16]

    def _write(self, text: str | bytes) -> None:
        """Add a text, told from those before and after it."""
        content = text.encode() if isinstance(text, str) else text
        self._total.update(f"{len(content)}:".encode())
        self._total.update(content)

    def _before(self, value: Any) -> bool:
        """Whether this very object was added before: then its number is, once more."""
        if id(value) in self._met:
            self._write(f"as before {list(self._met).index(id(value))}")
            return True
        self._met[id(value)] = value
        return False

    def add(self, value: Any) -> None:
        """Add a value, whatever it is."""
        if isinstance(value, torch.nn.Module | types.FunctionType):  # what torch.compile wraps changes with a pass
            value = getattr(value, "_orig_mod", getattr(value, "_torchdynamo_orig_callable", value))
        if isinstance(value, torch.nn.Module | types.FunctionType) and self._before(value):
            return  # such as a function that calls itself
        if isinstance(value, torch.Tensor):
            self._write(digest([value]))
        elif isinstance(value, np.ndarray):
            self._write(f"{value.dtype} {value.shape}")
            self._write(repr(value.tolist()) if value.dtype.hasobject else value.tobytes())
        elif (own := _marked(value)) is not None:
            self._write(own)
        elif isinstance(value, types.SimpleNamespace):
            self.add(vars(value))
        elif isinstance(value, torch.nn.Module):
            self._add_module(value)
        elif isinstance(value, functools.partial):
            self.add([value.func, *value.args, *sorted(value.keywords.items())])
        elif inspect.isroutine(value):
            self._add_routine(value)
        elif isinstance(value, dict):
            self.add(sorted(value.items(), key=repr))
        elif isinstance(value, list | tuple | set | frozenset):
            self._write(f"{len(value)} of a {type(value).__name__}")
            for item in value if isinstance(value, list | tuple) else sorted(value, key=repr):
                self.add(item)
        elif isinstance(value, type | _PLAIN):
            self._write(repr(value))
        elif not self._before(value):
            self.add_source(type(value))
            self.add(vars(value) if hasattr(value, "__dict__") else re.sub(" at 0x[0-9a-f]+", "", repr(value)))

    def _add_module(self, module: torch.nn.Module) -> None:
        for name, part in module.named_modules(remove_duplicate=False):
            self.add(name)
            if isinstance(part, torch.fx.GraphModule):  # whose class is made for it
                self.add(["training", part.training, part.code])
            elif isinstance(part, torch.jit.ScriptModule):
                self._add_script(part)
            elif type(part).__module__ != "torch.export._unlift":  # whose parts check the sizes of images alone
                self.add_source(type(part))
                attributes = {k: v for k, v in vars(part).items() if k not in _MACHINERY or k == "training"}
                self.add(sorted((k, v) for k, v in attributes.items() if not k.startswith("_") or _plain(v)))
            for hook in hooks_of(part):
                mark = getattr(hook, "__self__", None)
                if inspect.isfunction(hook) and is_installed(hook):
                    self.add(hook.__qualname__)
                else:
                    self.add(hook if _marked(mark) is None else mark)  # such as an adapter that it carries
        tensors = module.state_dict()
        for name, tensor in [*tensors.items(), *(each for each in module.named_buffers() if each[0] not in tensors)]:
            self.add(name)
            self.add(tensor)

    def _add_script(self, part: torch.jit.ScriptModule) -> None:
        """Add what torch.jit made of a module: its graph, without places in files and memory, and its constants."""
        self.add(
            re.sub(r" object at 0x[0-9a-f]+| # .*|\.___torch_mangle_\d+", "", part._c.dump_to_str(True, True, False))
        )
        constants = getattr(getattr(part, "forward", None), "code_with_constants", None)
        self.add({} if constants is None else constants[1])

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
        if code is None or is_installed(routine):
            return
        names = sorted({name for name in names_in(code) if not name.startswith("__")})
        places = [known, *(vars(known[name]) for name in names if is_own_module(known.get(name)))]
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
            if not is_installed(value):
                self.add_source(value)
            return
        if _marked(value) is not None or _plain(value) or callable(value):  # marked: a model or an adapter of ours
            if inspect.isroutine(value) and is_installed(value) and not getattr(value, "__self__", None):
                self.add([name, getattr(value, "__module__", ""), value.__qualname__])
                return
            with suppress(SettingsError):  # what has no source cannot be told from another
                self.add([name, value])
        elif is_dataclass(value) or isinstance(value, types.SimpleNamespace | argparse.Namespace):
            self.add([name, value])
        elif hasattr(value, "__dict__") and _plain(vars(value)):  # settings, and not a logger
            self.add([name, vars(value)])

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
                if not is_installed(base):
                    self.add_source(base)
            for each in filter(inspect.isfunction, map(unwrapped, vars(kind).values())):
                self._add_named(each)
            if not is_installed(kind):  # values that were set since
                self.add({k: v for k, v in vars(kind).items() if not k.startswith("__") and _plain(v)})
        try:
            self._write(inspect.getsource(kind))
        except (OSError, TypeError) as error:
            # The source of a class in a notebook is not to be found, that of its methods is.
            own = {name: unwrapped(each) for name, each in vars(kind).items()} if inspect.isclass(kind) else {}
            methods = {name: each for name, each in own.items() if inspect.isfunction(each)}
            if methods:
                self.add([kind.__qualname__, *methods.values()])
                return
            if self._lenient and hasattr(kind, "__qualname__"):
                self._write(repr([kind.__qualname__, *bytecode(getattr(kind, "__code__", None))]))
                return
            raise SettingsError(
                f"the source of {getattr(kind, '__qualname__', kind)!r} is not to be found ({error}), so nothing would "
                "tell it from another; define it in a file, or give a fingerprint"
            ) from error


def hooks_of(module: torch.nn.Module) -> Iterator[Any]:
    """What is called before and after a module's passes, forward and backward, but what collects outputs for
    transformers: it does so from the first pass on that is asked for them."""
    for hooks in (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks):
        places = ((each, str(getattr(each, "__module__", ""))) for each in hooks.values())
        yield from (each for each, place in places if not place.startswith("transformers."))


def _marked(value: Any) -> str | None:
    """The fingerprint that an object says itself, with that of what is attached to it.

    Within that fingerprint, where a hook of the object names it, the object is itself.
    """
    if id(value) in (asked := _asked.get()):
        return "itself"
    reset = _asked.set(asked | {id(value)})
    try:
        own = getattr(value, "fingerprint_as_it_is", None) or getattr(value, "fingerprint", None)
    except RuntimeError:  # of objects that look like modules, in torch.fx
        own = None
    finally:
        _asked.reset(reset)
    return own if isinstance(own, str) else None


def patches_of(kind: type) -> list[str]:
    """Functions of one's own that stand in the place of some in the installed classes of a class, and their hashes."""
    found = []
    for each in filter(is_installed, kind.__mro__):
        for name, function in ((name, unwrapped(member)) for name, member in vars(each).items()):
            if not inspect.isfunction(function) or is_installed(function):
                continue
            if not of_installed(function.__globals__.get("__name__")):  # what dataclasses write has its module's names
                code = _Code(lenient=True)
                code.add(function)
                found.append(f"{name} {code.digest}")
    return found


def _plain(value: object) -> bool:
    """Whether a value is a tensor, an array, a number, a text, or a collection of such."""
    if isinstance(value, dict):
        return all(map(_plain, value)) and all(map(_plain, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_plain, value))
    return isinstance(value, torch.Tensor | np.ndarray | _PLAIN)
