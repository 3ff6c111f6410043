"""The wheel: everything that runs is in it, nothing else is, and it stays small enough to be downloaded."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LARGEST = 60_000_000
"""Bytes of the wheel, most of which are weights; an index such as PyPI takes 100 MB."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    assert path.stat().st_size < LARGEST
    return zipfile.ZipFile(path)


def source() -> set[str]:
    """The files of the package."""
    files = [path for path in (ROOT / "src/radapt").rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    return {path.relative_to(ROOT / "src").as_posix() for path in files}


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_its_licences_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    metadata = {name for name in names if re.match(r"radapt-[\w.]+\.dist-info/", name)}
    assert names - metadata == source()
    for needed in (
        *("py.typed", "reports/page.html", "reports/leaderboard.html", "reports/page.css", "reports/js/d3.min.js"),
        *("reports/js/LICENSE", "micro/weights/clip/model.safetensors", "micro/weights/llava/chat_template.jinja"),
        *("micro/adapters/shallow/radapt_deltas.safetensors", "data/cards/shapes.yaml", "experiments/paper/tab2.yaml"),
    ):
        assert f"radapt/{needed}" in names
    assert not [
        name for name in names if re.search(r"(^|/)(tests?|docs|runs|examples)/|\.(png|jpe?g|sqlite|pyc)$", name)
    ]
    licences = {name.partition("/licenses/")[2] for name in metadata if "/licenses/" in name}
    assert licences == set(PROJECT["license-files"])


@pytest.mark.slow
def test_the_metadata_name_the_licences_of_what_is_inside(wheel: zipfile.ZipFile) -> None:
    (name,) = (each for each in wheel.namelist() if each.endswith(".dist-info/METADATA"))
    metadata = wheel.read(name).decode()
    assert f"License-Expression: {PROJECT['license']}\n" in metadata
    inside = wheel.read("radapt/reports/js/LICENSE").decode()
    named = {"ISC": "ISC licence", "MIT": "MIT licence", "BSD-3-Clause": "BSD licence", "Apache-2.0": "Apache License"}
    assert set(PROJECT["license"].split(" AND ")) == set(named)
    assert all(words in inside for words in named.values())


@pytest.mark.slow
def test_the_wheel_runs_without_the_repository(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path / "installed")
    code = "import radapt, sys; print(radapt.__file__); from radapt.cli.main import app; app()"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed"), "COLUMNS": "100"}
    command = [sys.executable, "-c", code, "models", "micro/clip"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "installed"))
    assert "vision tower" in done.stdout
