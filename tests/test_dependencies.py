"""What the library imports is what pyproject.toml declares, and the other way round."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Names of packages where they are not those of their modules.
PACKAGES = {
    "PIL": "pillow",
    "yaml": "pyyaml",
    "sklearn": "scikit-learn",
    "open_clip": "open-clip-torch",
    "lm_eval": "lm-eval",
}
# Modules of a package that another one always brings along.
COMES_WITH = {"annotated-types": "pydantic", "pydantic-core": "pydantic", "markupsafe": "jinja2"}
# Torch's own module imports it.
BEHIND = {"torch.utils.tensorboard": "tensorboard"}
# Calls that import by name, or ask whether a module is there.
BY_NAME = {"import_module", "find_spec"}
# Extras for people who work on this library.
FOR_DEVELOPERS = {"all", "test", "browser-test", "dev", "docs"}
# The Makefile installs it, without its dependencies.
BY_HAND = {"open-clip-torch"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def package(module: str) -> str:
    """The package of a module: ``scikit-learn`` of ``sklearn.datasets``."""
    root = module.split(".")[0]
    return normal(BEHIND.get(module, PACKAGES.get(root, root)))


def declared(*requirements: str) -> set[str]:
    """Names of the packages that requirements name; an extra of the library itself stands for what it holds."""
    found = set()
    for requirement in requirements:
        if own := re.fullmatch(r"radapt\[(.+)\]", requirement):
            found |= {name for extra in own[1].split(",") for name in declared(*EXTRAS[extra])}
        else:
            found.add(normal(re.match(r"[A-Za-z0-9._-]+", requirement)[0]))  # type: ignore[index]
    return found


def written(node: ast.AST) -> list[str]:
    """The modules that one statement or call imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [] if node.level or node.module is None else [node.module]
    if not isinstance(node, ast.Call) or not node.args:
        return []
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    # Of f"package.{name}", the part before the braces; where there is none, it is one of our own.
    first = node.args[0].values[0] if isinstance(node.args[0], ast.JoinedStr) else node.args[0]
    return [str(first.value).rstrip(".")] if name in BY_NAME and isinstance(first, ast.Constant) else []


def imports(source: str, *, top: bool = False) -> Iterator[str]:
    """Modules that a source imports, other than the standard library's and our own.

    Args:
        source: the source.
        top: those only that it imports when it is imported itself, not in a function.
    """
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if not top or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)
        for module in written(node):
            if module.split(".")[0] not in {*sys.stdlib_module_names, "radapt", "tests"}:
                yield module


def of(folder: str, *, top: bool = False) -> set[str]:
    """The packages that the files of a folder import."""
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    return {package(module) for path in files for module in imports(path.read_text(encoding="utf-8"), top=top)}


CORE = declared(*PROJECT["dependencies"])
OPTIONAL = {extra: declared(*EXTRAS[extra]) for extra in EXTRAS if extra not in FOR_DEVELOPERS}


def test_what_is_imported_with_the_library_is_a_core_dependency() -> None:
    assert of("src", top=True) - CORE - set(COMES_WITH) == set()


def test_what_is_imported_on_use_is_a_core_dependency_or_an_extra() -> None:
    assert of("src") - CORE - set(COMES_WITH) - set().union(*OPTIONAL.values()) == set()


def test_every_dependency_is_imported() -> None:
    used = of("src")
    assert CORE - used == set()
    assert {extra: names - used for extra, names in OPTIONAL.items() if names - used} == {}


def test_what_comes_with_a_dependency_does_come_with_it() -> None:
    for name, bringer in COMES_WITH.items():
        assert bringer in CORE
        always = [each for each in importlib.metadata.requires(bringer) or [] if "extra ==" not in each]
        assert name in declared(*always)


def test_all_holds_every_extra_and_the_developers_have_all() -> None:
    assert declared(*EXTRAS["all"]) == set().union(*OPTIONAL.values())
    assert declared(*EXTRAS["all"]) | declared(*EXTRAS["test"]) <= declared(*EXTRAS["dev"])


def test_the_tests_import_what_their_extras_hold() -> None:
    allowed = CORE | set(COMES_WITH) | declared(*EXTRAS["all"], *EXTRAS["test"]) | BY_HAND
    assert of("tests", top=True) - allowed == set()


def test_torchvision_is_no_dependency() -> None:
    everything = CORE | {name for extra in EXTRAS for name in declared(*EXTRAS[extra])}
    assert "torchvision" not in everything | of("src")


@pytest.mark.parametrize("extra", sorted(OPTIONAL))
def test_a_missing_extra_has_a_message(extra: str) -> None:
    messages = [path for path in (ROOT / "src").rglob("*.py") if f"radapt[{extra}]" in path.read_text(encoding="utf-8")]
    assert messages


def test_the_lowest_versions_are_those_of_the_project() -> None:
    command = [sys.executable, str(ROOT / "scripts/lowest.py")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    pins = dict(line.split("==") for line in printed)
    assert {normal(name) for name in pins} == (CORE | declared(*EXTRAS["all"])) - {"torch"}
    bounds: Sequence[str] = [*PROJECT["dependencies"], *(each for extra in OPTIONAL for each in EXTRAS[extra])]
    assert all(f"{name}>={version}" in [each.split(",")[0] for each in bounds] for name, version in pins.items())


@pytest.mark.parametrize(
    ("source", "anywhere", "top"),
    [
        ("import numpy.linalg", {"numpy"}, {"numpy"}),
        ("from PIL import Image\nimport sklearn.datasets", {"pillow", "scikit-learn"}, {"pillow", "scikit-learn"}),
        ("def f():\n    from sklearn.datasets import load_digits", {"scikit-learn"}, set()),
        ("def f():\n    importlib.import_module('torch.utils.tensorboard')", {"tensorboard"}, set()),
        ("def f():\n    import_module(f'pycocoevalcap.{name}')", {"pycocoevalcap"}, set()),
        ("import_module(f'{package}.{name}')\nimport_module(name)", set(), set()),
        ("if flag:\n    import peft", {"peft"}, {"peft"}),
        ("class A:\n    import peft", {"peft"}, {"peft"}),
        ("import json\nimport radapt\nfrom . import here\nfrom .there import x", set(), set()),
    ],
)
def test_imports_are_found(source: str, anywhere: set[str], top: set[str]) -> None:
    assert set(map(package, imports(source))) == anywhere
    assert set(map(package, imports(source, top=True))) == top
