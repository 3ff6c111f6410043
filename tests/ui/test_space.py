"""The Space: what its files say is so."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SPACE = ROOT / "examples" / "space"
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]


def header() -> dict[str, Any]:
    text = (SPACE / "README.md").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text.split("---")[1])
    return found


def test_the_header_names_what_is_there() -> None:
    assert (SPACE / header()["app_file"]).is_file()
    assert header()["sdk"] == "gradio"
    assert len(header()["short_description"]) < 80


def test_the_version_of_gradio_is_one_that_the_extra_allows() -> None:
    [lowest] = [re.fullmatch(r"gradio>=([\d.]+)", each)[1] for each in EXTRAS["ui"]]  # type: ignore[index]
    version = tuple(map(int, header()["sdk_version"].split(".")))
    assert version >= tuple(map(int, lowest.split(".")))


@pytest.mark.parametrize("name", ["requirements.txt", "Dockerfile"])
def test_the_extras_exist_and_torch_is_that_of_the_makefile(name: str) -> None:
    text = (SPACE / name).read_text(encoding="utf-8")
    torch = re.search(r"^TORCH \?= (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    extras = re.search(r"\[([a-z,]+)\]", text)
    assert torch is not None
    assert extras is not None
    assert torch[1] in text
    assert set(extras[1].split(",")) <= set(EXTRAS)


def test_what_the_container_copies_is_there() -> None:
    text = (SPACE / "Dockerfile").read_text(encoding="utf-8")
    copied = [name for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE) for name in line.split()[:-1]]
    assert copied
    assert all((ROOT / name).exists() for name in copied)


def test_the_app_listens_for_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    class Running:
        def wait(self) -> None:
            given["waited"] = True

    def started(model: Any, **settings: Any) -> Running:
        given.update(settings)
        return Running()

    monkeypatch.setattr("radapt.ui.launch", started)
    runpy.run_path(str(SPACE / "app.py"), run_name="__main__")
    assert given == {"host": "0.0.0.0", "port": 7860, "waited": True}
