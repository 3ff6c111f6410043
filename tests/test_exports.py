"""The public names: every module declares its own, and the package offers a short, documented, checked list."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError

SOURCE = Path(__file__).parents[1] / "src" / "radapt"
FILES = sorted(SOURCE.rglob("*.py"))
MOST = 30


def dotted(path: Path) -> str:
    """Name under which a file is imported."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module, those in its conditions and guarded blocks included."""
    for node in body:
        yield node
        for field in ("body", "orelse", "finalbody") if isinstance(node, ast.If | ast.Try | ast.With) else ():
            yield from statements(getattr(node, field, []))
        for handler in getattr(node, "handlers", []):
            yield from statements(handler.body)


def assigned(node: ast.stmt) -> Iterator[str]:
    """Names that a statement defines; imports define none."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    for target in targets:
        yield from (n.id for n in ast.walk(target) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))


def declared(source: str) -> list[str] | None:
    """The module's literal ``__all__``; None when it has none, or one that is put together at run time."""
    for node in ast.parse(source).body:
        if "__all__" in assigned(node):
            try:
                return list(ast.literal_eval(node.value))  # type: ignore[attr-defined]
            except (ValueError, TypeError):
                return None
    return None


def undeclared(source: str) -> set[str]:
    """Public names that a module defines and does not declare."""
    names = {name for node in statements(ast.parse(source).body) for name in assigned(node)}
    return {name for name in names if not name.startswith("_")} - set(declared(source) or ())


def is_bare(source: str) -> bool:
    """Whether a module holds nothing but its docstring."""
    return all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in ast.parse(source).body)


def has_docstring(value: Any) -> bool:
    """Whether a class, a function or a module has a docstring of its own; plain values need none."""
    if not (inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value)):
        return True
    text = (vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__) or ""
    # A dataclass without a docstring gets its signature for one.
    return bool(text) and not text.startswith(f"{getattr(value, '__name__', '')}(")


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_module_declares_what_it_defines(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    if not is_bare(source):
        assert declared(source) is not None, f"{dotted(path)} has no literal __all__"
    assert undeclared(source) == set(), f"{dotted(path)}: declare these in __all__, or give them an underscore"


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_declared_names_exist_once(path: Path) -> None:
    names = declared(path.read_text(encoding="utf-8")) or []
    module = importlib.import_module(dotted(path))
    assert [name for name in names if not hasattr(module, name)] == []
    assert len(names) == len(set(names))


def test_the_package_offers_a_short_list_of_documented_names() -> None:
    import radapt

    names = list(radapt.__all__)
    assert 0 < len(names) <= MOST
    assert [name for name in names if not hasattr(radapt, name)] == []
    assert [name for name in names if not has_docstring(getattr(radapt, name))] == []


def test_the_package_shows_nothing_else() -> None:
    import radapt

    packages = set(dir(radapt)) - set(radapt.__all__)
    units = {path.stem if path.parent == SOURCE else path.parent.name for path in SOURCE.glob("*/__init__.py")}
    units |= {path.stem for path in SOURCE.glob("*.py") if not path.stem.startswith("_")}
    assert packages == units
    assert all(getattr(radapt, name) is importlib.import_module(f"radapt.{name}") for name in packages)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = radapt.no_such_name


def test_shapes_in_signatures_are_checked_at_run_time() -> None:
    from radapt.attacks import ClassificationObjective

    objective = ClassificationObjective(lambda pixels: pixels.flatten(1)[:, :3], torch.tensor([0, 1]), classes=3)
    objective(torch.rand(2, 3, 4, 4), torch.tensor([0, 1]))
    with pytest.raises(TypeCheckError, match="pixels"):
        objective(torch.rand(2, 4, 4, 3), torch.tensor([0, 1]))
    with pytest.raises(TypeCheckError, match="index"):
        objective(torch.rand(2, 3, 4, 4), torch.tensor([0, 1, 1]))


def test_the_version_is_that_of_the_package() -> None:
    import radapt
    from radapt._version import __version__

    assert radapt.__version__ == __version__


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("__all__ = ['a']\ndef a(): ...\ndef b(): ...", {"b"}),
        ("__all__ = ['A']\nclass A: ...\nclass B: ...", {"B"}),
        ("__all__ = []\nLIMIT = 3", {"LIMIT"}),
        ("__all__ = []\nLIMIT: int = 3\nx, y = 1, 2", {"LIMIT", "x", "y"}),
        ("__all__ = []\ntry:\n    import ray\nexcept ImportError:\n    ray_is_there = False", {"ray_is_there"}),
        ("__all__ = []\nfrom math import pi\n_hidden = 1", set()),
        ("def a(): ...", {"a"}),
    ],
)
def test_an_undeclared_name_is_caught(source: str, names: set[str]) -> None:
    assert undeclared(source) == names


@pytest.mark.parametrize(
    "source", ["import math", "__all__ = [name for name in dir()]", "__all__ = base.__all__ + ['a']"]
)
def test_a_missing_or_computed_list_is_caught(source: str) -> None:
    assert declared(source) is None
    assert not is_bare(source)


def test_a_missing_docstring_is_caught() -> None:
    class Base:
        """Documented."""

    class Derived(Base):
        pass

    @dataclass
    class Plain:
        x: int

    def bare() -> None:
        pass

    assert has_docstring(Base)
    assert has_docstring(has_docstring)
    assert has_docstring("0.1.0")
    assert not any(has_docstring(value) for value in (Derived, Plain, bare))
