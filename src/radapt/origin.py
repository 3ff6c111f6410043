"""Where code comes from: this library, an installed package, or a file of one's own; and what is in it."""

from __future__ import annotations

import sys
import sysconfig
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["bytecode", "is_installed", "is_own_module", "names_in", "of_installed", "unwrapped"]

_INSTALLED = (
    str(Path(__file__).parent),
    *(sysconfig.get_paths()[name] for name in ("purelib", "platlib", "stdlib", "platstdlib")),
)
_PACKAGES = frozenset({"site-packages", "dist-packages"})


def is_installed(thing: Any) -> bool:
    """Whether a function or class is of this library, of Python, or of an installed package."""
    code = getattr(thing, "__code__", None)
    if code is not None:
        return _is_installed_at(code.co_filename)
    return of_installed(getattr(thing, "__module__", None))


def _is_installed_at(file: str) -> bool:
    """Whether a file is of an installed package, of this environment or of one that it builds on."""
    return file.startswith(_INSTALLED) or not _PACKAGES.isdisjoint(Path(file).parts)


def of_installed(name: str | None) -> bool:
    """Whether the module of a name is of this library, of Python, or of an installed package."""
    module = sys.modules.get(name or "builtins")
    return module is not None and module.__name__ != "__main__" and not is_own_module(module)


def is_own_module(thing: Any) -> bool:
    """Whether something is a module that is neither of this library nor of an installed package."""
    file = getattr(thing, "__file__", None) if isinstance(thing, types.ModuleType) else None
    return file is not None and not _is_installed_at(str(file))


def unwrapped(member: Any) -> Any:
    """The function in a static or class method or a property."""
    if isinstance(member, staticmethod | classmethod):
        return member.__func__
    return member.fget if isinstance(member, property) else member


def bytecode(code: types.CodeType | None) -> Iterator[object]:
    """What a function does, without its line numbers."""
    if code is not None:
        yield from (code.co_code, code.co_names)
        for each in code.co_consts:
            yield from bytecode(each) if isinstance(each, types.CodeType) else [each]


def names_in(code: types.CodeType) -> Iterator[str]:
    """The names that a function uses, and those of the functions inside it."""
    yield from code.co_names
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from names_in(each)
