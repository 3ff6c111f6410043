"""The drawing of the architecture and its table, against the source: neither may say what is no longer so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.test_layers import LAYERS, SOURCE

from radapt.adapters import REGISTRY as ADAPTER_METHODS
from radapt.analysis import REGISTRY as ANALYSES
from radapt.attacks import REGISTRY as ATTACKS
from radapt.data import READERS
from radapt.data import REGISTRY as DATASETS
from radapt.evaluation import REGISTRY as TASKS
from radapt.finetuning import REGISTRY as FINETUNING_METHODS
from radapt.models import REGISTRY as FAMILIES
from radapt.registry import Registry

PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"
TEXT = PAGE.read_text(encoding="utf-8")
REGISTRIES = (ATTACKS, FAMILIES, DATASETS, READERS, TASKS, FINETUNING_METHODS, ADAPTER_METHODS, ANALYSES)


def floors(page: str) -> list[set[str]]:
    """The rooms of each floor of the drawing, from the top: the first word of every line between two rules."""
    [drawing] = re.findall(r"^```text\n(┌.*?┘)\n```$", page, re.DOTALL | re.MULTILINE)
    found: list[set[str]] = []
    for line in drawing.splitlines():
        if line[0] in "┌├":
            found.append(set())
        elif line[0] == "│":
            found[-1].add(line[1:].split()[0])
    return found


def rows(page: str) -> list[list[str]]:
    """The cells of the table of additions."""
    table = page.partition("| addition |")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_the_floors_of_the_drawing_are_the_layers() -> None:
    top, *others = LAYERS
    assert top == {"__init__", "__main__"}  # the package itself
    assert floors(TEXT) == [{"radapt"}, *({room for room in row if not room.startswith("_")} for row in others)]


def test_every_package_and_module_is_in_the_drawing() -> None:
    drawn = set().union(*floors(TEXT))
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    modules = {path.stem for path in SOURCE.glob("*.py") if not path.stem.startswith("_")}
    assert drawn == packages | modules | {"radapt"}


def test_a_room_that_is_missing_or_moved_is_noticed() -> None:
    drawing = "```text\n┌──┐\n│ b  x │ 1\n├──┤\n│ a  y │\n│ c  z │\n└──┘\n```"
    assert floors(drawing) == [{"b"}, {"a", "c"}]


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.package)
def test_every_kind_of_member_has_its_row(registry: Registry) -> None:
    [row] = [cells for cells in rows(TEXT) if cells[3] == f"`{registry.package}`"]
    assert row[2].startswith(f"`{registry.attribute}`" if registry.attribute else row[2])
    folder = row[1].partition("`")[2].partition("`")[0]
    assert (SOURCE / folder).exists()


def test_every_folder_of_the_table_exists() -> None:
    for cells in rows(TEXT):
        for name in re.findall(r"`([a-z_/]+(?:\.py)?)`", cells[1]):
            assert (SOURCE / name).exists(), name
