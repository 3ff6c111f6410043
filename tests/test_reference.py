"""The reference of the documentation: every public name on one page, and every page in the navigation."""

from __future__ import annotations

import ast
import inspect
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import radapt
from radapt.models import REGISTRY, families

DOCS = Path(__file__).parents[1] / "docs"
SOURCE = DOCS.parent / "src" / "radapt"
PAGES = sorted((DOCS / "reference").glob("*.md"))
ENTRY = re.compile(r"^::: (\S+)\n((?:    .*\n)*)", re.MULTILINE)
NO_API = {"radapt.cli"}
"""What holds commands, whose reference is their ``--help``."""


def path_of(module: str) -> Path:
    """The file of a module of the library."""
    path = SOURCE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def public(name: str) -> Iterator[str]:
    """A module and the public ones in it."""
    yield name
    path = path_of(name)
    if path.name == "__init__.py":
        for each in sorted(path.parent.iterdir()):
            if not each.name.startswith(("_", ".")) and (each.suffix == ".py" or (each / "__init__.py").exists()):
                yield from public(f"{name}.{each.stem}")


def names_of(module: str) -> list[str]:
    """The full names that a module declares in ``__all__``."""
    for node in ast.parse(path_of(module).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return [f"{module}.{each}" for each in ast.literal_eval(node.value)]
    return []


def entries(page: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the directives of a page ask for, with their options."""
    for name, options in ENTRY.findall(page + "\n"):
        yield name, (yaml.safe_load(options) or {}).get("options", {})


def shown(page: str) -> Iterator[str]:
    """The full names that a page of the reference shows."""
    for name, options in entries(page):
        assert "members" not in options, f"{name}: a page shows what __all__ declares, and nothing is left out"
        for module in public(name) if options.get("show_submodules") else [name]:
            yield from names_of(module)


UNITS = [f"radapt.{name}" for name in sorted(set(dir(radapt)) - set(radapt.__all__))]
SHOWN = {path.name: set(shown(path.read_text(encoding="utf-8"))) for path in PAGES}


@pytest.mark.parametrize("unit", [unit for unit in UNITS if unit not in NO_API])
def test_every_public_name_of_a_package_is_on_one_page(unit: str) -> None:
    found = Counter(name for names in SHOWN.values() for name in names)
    names = [name for module in public(unit) for name in names_of(module)]
    assert names
    assert {name: found[name] for name in names if found[name] != 1} == {}


def test_the_reference_shows_what_there_is_once() -> None:
    directives = [name for path in PAGES for name, _ in entries(path.read_text(encoding="utf-8"))]
    assert sorted(directives) == sorted(set(UNITS) - NO_API)


def test_the_top_level_is_listed() -> None:
    table = (DOCS / "reference" / "index.md").read_text(encoding="utf-8")
    missing = [name for name in radapt.__all__ if not re.search(rf"`(radapt\.)?{name}`\]\[", table)]
    assert missing == ["__version__"]


def test_every_page_is_in_the_navigation_once() -> None:
    text = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    navigation = re.findall(r"^ +- .*?([\w/-]+\.md)$", text.partition("\nnav:")[2].partition("\n\n")[0], re.MULTILINE)
    assert sorted(navigation) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def test_a_name_that_is_left_out_is_caught() -> None:
    assert "radapt.attacks.pgd.PGD" not in set(shown("::: radapt.attacks\n"))
    assert "radapt.attacks.pgd.PGD" in set(shown("::: radapt.attacks\n    options:\n      show_submodules: true\n"))
    with pytest.raises(AssertionError, match="nothing is left out"):
        list(shown("::: radapt.ui\n    options:\n      members: [launch]\n"))


def test_the_table_of_model_families_is_what_the_code_says() -> None:
    rows = ["| family | what it is | types | load | carry an adapter |", "|---|---|---|---|---|"]
    for name, types, loads in families():
        first = (inspect.getdoc(REGISTRY.get(name)) or "").partition("\n")[0]
        about = first.partition(":")[2] or first
        kinds = ", ".join(f"`{kind}`" for kind in types)
        rows.append(f"| `{name}` | {about.strip()} | {kinds} | {'yes' if loads else ''} | yes |")
    table = "\n".join(rows)
    assert table in (DOCS / "models.md").read_text(encoding="utf-8"), f"docs/models.md lacks\n{table}"
