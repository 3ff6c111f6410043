"""The newcomer's path: from an installed wheel to an adapted, saved and measured model of one's own, in ten lines.

The lines and the commands are those of docs/quickstart.md. How long they take is printed and recorded, and bounded by a
timeout of ten minutes alone: no test asserts on the clock.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import radapt
from radapt.results import Results

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## Your own CLIP, in ten lines")[2].partition("\n## ")[0]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def block(language: str) -> list[str]:
    """The lines of the one block of the section in a language."""
    [code] = re.findall(rf"^```{language}\n(.*?)^```$", SECTION, re.DOTALL | re.MULTILINE)
    return [line for line in code.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment, in which pip has installed the wheel; what it needs is that of the tests."""
    folder = tmp_path_factory.mktemp("newcomer")
    offline = ["--no-deps", "--no-index"]
    build = [*PIP, "wheel", *offline, "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(build, check=True)
    [wheel] = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([*PIP[:3], "--python", str(python), *PIP[3:], "install", *offline, str(wheel)], check=True)
    [packages] = (folder / "venv" / "lib").glob("python*/site-packages")
    # A line of a .pth file adds a folder, and not the .pth files in it: no radapt but that of the wheel is found.
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    return python.parent


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder in which there is a CLIP that nobody else has."""
    from transformers import CLIPModel

    micro = radapt.load("micro/clip")
    network = CLIPModel(micro.model.config)
    state = micro.model.state_dict()
    network.load_state_dict({name: value + 1e-3 * torch.randn_like(value) for name, value in state.items()})
    for part in (network, micro.tokenizer, micro.processor):
        part.save_pretrained(tmp_path / "my" / "clip")
    return tmp_path


def run(folder: Path, *command: str | Path) -> str:
    """What a program prints that sees nothing of this environment."""
    hidden = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
    return done.stdout


def figures(folder: Path) -> dict[tuple[str, str], float]:
    """Per cent by method and kind, of what was measured; the worst case where there are several."""
    with Results(folder / "results.sqlite", read_only=True) as results:
        return {(each.setting.method, each.kind): each.percent for each in results.all()}


def reached(folder: Path) -> dict[tuple[str, str], float]:
    """What the newcomer has in the end."""
    adapter = radapt.Adapter.from_pretrained(folder / "my-adapter")
    assert adapter.settings.alpha == 0.4
    found = figures(folder)
    assert set(found) >= {("CLIP", "clean"), *(("adapted", kind) for kind in ("clean", "transfer", "white-box"))}
    assert found["adapted", "clean"] > 50
    assert found["adapted", "white-box"] < found["adapted", "clean"]
    assert "adapted" in (folder / "my" / "report" / "report.html").read_text(encoding="utf-8")
    return found


def test_ten_lines_of_python_and_the_same_in_commands(
    installed: Path, own: Path, tmp_path_factory: pytest.TempPathFactory, record_property: Callable[[str, object], None]
) -> None:
    lines, commands = block("python"), block("bash")
    assert len(lines) < 10
    home = run(own, installed / "python", "-c", "import radapt; print(radapt.__file__)")
    assert Path(home.strip()).is_relative_to(installed.parent)

    begun = time.perf_counter()
    (own / "newcomer.py").write_text("\n".join(lines), encoding="utf-8")
    printed = run(own, installed / "python", "newcomer.py")
    in_python = time.perf_counter() - begun
    assert "adapted white-box" in printed
    found = reached(own)

    shell = tmp_path_factory.mktemp("shell")
    shutil.copytree(own / "my" / "clip", shell / "my" / "clip")
    begun = time.perf_counter()
    for words in map(shlex.split, commands):
        run(shell, installed / words[0], *words[1:])
    in_commands = time.perf_counter() - begun
    assert reached(shell) == found

    for name, seconds in {"python": in_python, "commands": in_commands}.items():
        print(f"newcomer, in {name}: {seconds:.0f} s")
        record_property(f"seconds in {name}", round(seconds))
