"""The architecture, checked in the source: imports point downward only, files are short, nothing is unpickled."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "radapt"
FILES = sorted(SOURCE.rglob("*.py"))

# From the top to the base. A unit imports itself and units of lower rows only; within the base, units see each other.
LAYERS = (
    {"__init__", "__main__"},
    {"cli"},
    {"ui"},
    {"experiments"},
    {"analysis"},
    {"finetuning", "evaluation", "harness", "micro"},
    {"adapters"},
    {"models", "data", "attacks"},
    {"reports"},
    {"training", "results"},
    {
        "caching",
        "classifier",
        "errors",
        "fingerprint",
        "hub",
        "images",
        "io",
        "numbers",
        "origin",
        "precision",
        "registry",
        "schema",
        "spectral",
        "text",
        "types",
        "_version",
    },
)
RANK = {unit: rank for rank, row in enumerate(LAYERS) for unit in row}
BASE = len(LAYERS) - 1
# Reports are drawn from a results file, on machines that may have no torch.
REPORT_SEES = {"reports", "results", "errors", "io", "numbers", "registry", "schema", "text", "_version"}
HEAVY = {"torch", "transformers"}
UNPICKLERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve"}
# Calls that import by name.
IMPORTERS = {"import_module", "Registry", "entry_points"}
LONGEST = 300


def dotted(path: Path) -> str:
    """Module name of a file below the source folder; packages end in ``.__init__``."""
    return ".".join(("radapt", *path.relative_to(SOURCE).with_suffix("").parts))


def unit(module: str) -> str:
    """The first name below the package: ``attacks`` of ``radapt.attacks.pgd``."""
    return [*module.split("."), "__init__"][1]


def last_name(node: ast.expr) -> str:
    """``c`` of ``a.b.c``."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def imports(module: str, source: str, *, by_name: bool = True) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything that a module imports anywhere in its source, or finds there by name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            if node.level and node.module is None and origin != "radapt":
                yield from ((node.lineno, f"{origin}.{a.name}") for a in node.names)  # siblings
                continue
            # From the package itself, each name may be a unit of its own.
            units = [f"radapt.{a.name}" for a in node.names if a.name in RANK] if origin == "radapt" else []
            whole = [origin] if len(units) < len(node.names) else []
            yield from ((node.lineno, name) for name in units + whole)
        elif by_name and isinstance(node, ast.Call) and last_name(node.func) in IMPORTERS and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and str(first.value).startswith("radapt"):
                yield node.lineno, str(first.value)


def violations(module: str, source: str) -> list[str]:
    """What the imports of a module break, one sentence each."""
    here = unit(module)
    if here not in RANK:
        return [f"{module}: no layer is named {here!r}; put it into a folder, or into LAYERS"]
    found = []
    for line, name in imports(module, source):
        place = f"{module}:{line}"
        if name.split(".")[0] == "radapt":
            there = unit(name)
            if there != here and any(part.startswith("_") for part in name.split(".")[2:]):
                found.append(f"{place}: {here} imports {name}, which is private to {there}")
            downward = RANK.get(there, -1) > RANK[here] or (RANK[here] == BASE and there in LAYERS[BASE])
            if there != here and not downward:
                found.append(f"{place}: {here} imports {there}, which is not below it")
            elif here == "reports" and there not in REPORT_SEES:
                found.append(f"{place}: reports imports {there}; it reads results only")
        elif here in REPORT_SEES and name.split(".")[0] in HEAVY:
            found.append(f"{place}: {here} imports {name}; reports must do without")
    return found


def unsafe(module: str, source: str) -> list[str]:
    """Where a module could run code out of a file that it reads."""
    found = [f"{module}:{line}: imports {name}" for line, name in imports(module, source) if name in UNPICKLERS]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module in ("torch", "numpy"):
            found += [
                f"{module}:{node.lineno}: {node.module}.load by its bare name" for a in node.names if a.name == "load"
            ]
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load"):
            continue
        options = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
        given = {k.arg for k in node.keywords}
        owner = last_name(node.func.value)
        if owner == "torch" and options.get("weights_only") is not True:
            found.append(f"{module}:{node.lineno}: torch.load without weights_only=True")
        if owner in ("np", "numpy") and options.get("allow_pickle", "allow_pickle" in given) is not False:
            found.append(f"{module}:{node.lineno}: numpy.load with allow_pickle")
    return found


def test_the_source_is_found() -> None:
    assert SOURCE / "errors.py" in FILES


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_imports_point_downward(path: Path) -> None:
    assert violations(dotted(path), path.read_text(encoding="utf-8")) == []


def edges(module: str, source: str, modules: Collection[str]) -> set[str]:
    """The modules of this library that one imports when it runs, wherever in its source."""
    tree = ast.parse(source)
    typing = [node for node in ast.walk(tree) if isinstance(node, ast.If) and last_name(node.test) == "TYPE_CHECKING"]
    skipped = {line for node in typing for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    found = set()
    for line, name in imports(module, source, by_name=False):
        if line not in skipped:
            found |= {each for each in (name, f"{name}.__init__") if each in modules}
    return found


def cycles(graph: Mapping[str, Collection[str]]) -> list[list[str]]:
    """Circles of modules that import each other: the strongly connected components of more than one module."""
    order, seen = list[str](), set[str]()

    def visit(start: str, links: Mapping[str, Collection[str]], into: list[str]) -> None:
        stack = [(start, iter(sorted(links[start])))]
        seen.add(start)
        while stack:
            module, rest = stack[-1]
            new = next((each for each in rest if each not in seen), None)
            if new is None:
                into.append(module)
                stack.pop()
            else:
                seen.add(new)
                stack.append((new, iter(sorted(links[new]))))

    for module in sorted(graph):
        if module not in seen:
            visit(module, graph, order)
    reverse = {module: {each for each in graph if module in graph[each]} for module in graph}
    seen.clear()
    found = []
    for module in reversed(order):
        if module not in seen:
            component = list[str]()
            visit(module, reverse, component)
            found.append(sorted(component))
    return [component for component in found if len(component) > 1]


def test_no_modules_import_each_other_in_a_circle() -> None:
    names = {dotted(path) for path in FILES}
    graph = {dotted(path): edges(dotted(path), path.read_text(encoding="utf-8"), names) for path in FILES}
    assert sum(map(len, graph.values())) > len(FILES)
    assert cycles(graph) == []


def test_a_circle_is_found() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]
    assert cycles({"a": {"b"}, "b": set()}) == []


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_nothing_is_unpickled(path: Path) -> None:
    assert unsafe(dotted(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_files_are_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST, f"{path.name} has {lines} lines: one noun or verb per file, or split it"


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("radapt.evaluation._evaluate", "from radapt import finetuning"),
        ("radapt.evaluation._evaluate", "from .. import finetuning"),
        ("radapt.evaluation.__init__", "from ..analysis import cka"),
        ("radapt.evaluation._evaluate", "def late():\n    from radapt.micro import clip"),
        ("radapt.evaluation._evaluate", "Registry('radapt.finetuning', 'method', 'METHOD')"),
        ("radapt.evaluation._evaluate", "importlib.import_module('radapt.cli.main')"),
        ("radapt.evaluation._evaluate", "from radapt.attacks._active_set import ActiveSet"),
        ("radapt.evaluation._evaluate", "import radapt.models._tower"),
        ("radapt.adapters._shares", "from radapt.evaluation import evaluate"),
        ("radapt.attacks.pgd", "from radapt.models import VLM"),
        ("radapt.attacks.pgd", "from radapt import Adapter"),
        ("radapt.attacks.pgd", "import radapt"),
        ("radapt.data._readers", "from radapt.attacks.pgd import PGD"),
        ("radapt.models.hf_clip", "from radapt.evaluation import zero_shot"),
        ("radapt.training.fit", "from radapt.models import VLM"),
        ("radapt.spectral", "from .cli import main"),
        ("radapt.spectral", "from radapt.results import Results"),
        ("radapt.reports.html", "from radapt.cli import main"),
        ("radapt.reports.html", "from radapt.evaluation import Result"),
        ("radapt.reports.html", "from radapt.types import Pixels"),
        ("radapt.reports.html", "from radapt.training import fit"),
        ("radapt.reports.html", "import torch.nn"),
        ("radapt.reports.html", "from transformers import CLIPModel"),
        ("radapt.results.store", "import torch"),
        ("radapt.helpers", "import math"),
    ],
)
def test_an_import_that_points_upward_or_sideways_is_caught(module: str, source: str) -> None:
    assert len(violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("radapt.__init__", "from radapt.adapters import Adapter\nfrom .cli import main"),
        ("radapt.cli.main", "from radapt.reports import html\nfrom ..micro import clip\nfrom radapt import _version"),
        ("radapt.experiments.run", "from radapt.analysis import cka\nfrom .spec import read"),
        ("radapt.evaluation._evaluate", "from radapt.attacks import pgd\nfrom ..adapters import Adapter\nimport torch"),
        ("radapt.evaluation.zero_shot", "from ._task import Task\nfrom . import _threat"),
        ("radapt.data.shapeworld.render", "from .scene import Scene\nfrom radapt.errors import InputError"),
        ("radapt.attacks.pgd", "from radapt.registry import Registry\nRegistry('radapt.attacks', 'attack', 'ATTACK')"),
        ("radapt.training.fit", "from radapt.errors import CheckError\nfrom . import checkpoint"),
        ("radapt.reports.html", "from radapt.results import Results\nimport jinja2\nfrom .table import table"),
    ],
)
def test_an_import_that_points_downward_passes(module: str, source: str) -> None:
    assert violations(module, source) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "from torch import load",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
    ],
)
def test_a_call_that_unpickles_is_caught(source: str) -> None:
    assert len(unsafe("radapt.adapters._storage", source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path, weights_only=True)",
        "np.load(path)",
        "np.load(path, allow_pickle=False)",
        "json.load(file)",
        "from safetensors.torch import load_file",
    ],
)
def test_a_safe_way_to_read_passes(source: str) -> None:
    assert unsafe("radapt.adapters._storage", source) == []
