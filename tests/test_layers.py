"""The architecture, checked in the source: imports point downward only, files are short, nothing is unpickled."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "radapt"
FILES = sorted(SOURCE.rglob("*.py"))

# From the top to the base. A unit imports itself and units of lower rows only; within the base, units see each other.
LAYERS = (
    {"__init__", "__main__"},
    {"cli"},
    {"report"},
    {"adapt", "finetune", "evaluate", "analyze", "micro"},
    {"models", "data", "attacks"},
    {
        *("errors", "find", "plots", "types", "results", "train"),
        *("_checkpoint", "_digest", "_interval", "_metric", "_picture", "_records", "_version", "_workers"),
    },
)
RANK = {unit: rank for rank, row in enumerate(LAYERS) for unit in row}
BASE = len(LAYERS) - 1
# Reports are drawn from a results file, on machines that may have no torch.
REPORT_SEES = {"report", "errors", "find", "plots", "results", "_interval", "_metric", "_records", "_version"}
HEAVY = {"torch", "transformers"}
UNPICKLERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve"}
# Calls that import by name.
IMPORTERS = {"import_module", "find", "members"}
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


def imports(module: str, source: str) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything that a module imports anywhere in its source."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            # From the package itself, each name may be a unit of its own.
            units = [f"radapt.{a.name}" for a in node.names if a.name in RANK] if origin == "radapt" else []
            whole = [origin] if len(units) < len(node.names) else []
            yield from ((node.lineno, name) for name in units + whole)
        elif isinstance(node, ast.Call) and last_name(node.func) in IMPORTERS and node.args:
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
            downward = RANK.get(there, -1) > RANK[here] or (RANK[here] == BASE and there in LAYERS[BASE])
            if there != here and not downward:
                found.append(f"{place}: {here} imports {there}, which is not below it")
            elif here == "report" and there not in REPORT_SEES:
                found.append(f"{place}: report imports {there}; it reads results only")
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
        ("radapt.evaluate._run", "import radapt.adapt.adapter"),
        ("radapt.evaluate._run", "from radapt import adapt"),
        ("radapt.evaluate._run", "from ..adapt import adapter"),
        ("radapt.evaluate._run", "from .. import finetune"),
        ("radapt.evaluate.__init__", "from ..analyze import cka"),
        ("radapt.evaluate._run", "def late():\n    from radapt.micro import clip"),
        ("radapt.evaluate._run", "find('radapt.finetune', 'fare', 'train')"),
        ("radapt.evaluate._run", "importlib.import_module('radapt.report.html')"),
        ("radapt.attacks.pgd", "from radapt.models import VLM"),
        ("radapt.attacks.pgd", "from radapt import Adapter"),
        ("radapt.attacks.pgd", "import radapt"),
        ("radapt.data._readers", "from radapt.attacks.pgd import PGD"),
        ("radapt.models.hf_clip", "from radapt.evaluate import zero_shot"),
        ("radapt.train", "from radapt.models import VLM"),
        ("radapt.train", "from .cli import main"),
        ("radapt.report.html", "from radapt.cli import main"),
        ("radapt.report.html", "from radapt.evaluate import Result"),
        ("radapt.report.html", "from radapt.types import Pixels"),
        ("radapt.report.html", "import torch.nn"),
        ("radapt.report.html", "from transformers import CLIPModel"),
        ("radapt.results", "import torch"),
        ("radapt.helpers", "import math"),
    ],
)
def test_an_import_that_points_upward_or_sideways_is_caught(module: str, source: str) -> None:
    assert len(violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("radapt.__init__", "from radapt.adapt import Adapter\nfrom .cli import main"),
        ("radapt.cli.main", "from radapt.report import html\nfrom ..micro import clip\nfrom radapt import _version"),
        ("radapt.evaluate._run", "from radapt.attacks import pgd\nfrom ..data import _dataset\nimport torch"),
        ("radapt.evaluate.zero_shot", "from ._task import Task\nfrom . import _plan"),
        ("radapt.data.shapeworld.render", "from .scene import Scene\nfrom radapt.errors import InputError"),
        ("radapt.attacks.pgd", "from radapt.find import find\nimport torch\nfind('radapt.attacks', 'pgd', 'PGD')"),
        ("radapt.train", "from radapt.errors import CheckError\nfrom . import results"),
        ("radapt.report.html", "from radapt.results import Results\nimport jinja2\nfrom .table import table"),
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
    assert len(unsafe("radapt.adapt.checkpoint", source)) == 1


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
    assert unsafe("radapt.adapt.checkpoint", source) == []
