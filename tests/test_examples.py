"""The code that users read first: the Python blocks of the documentation, and what is in examples/.

The blocks of a page are run as one script. Two comments before a block are for this test:
``<!-- in the tests: A -> B -->`` runs it with B in the place of A, and ``<!-- not run: REASON -->`` leaves it out.
"""

from __future__ import annotations

import ast
import json
import linecache
import re
import runpy
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from radapt.results import WORST_CASE, Results

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
THROUGH = EXAMPLES / "02_attack_through_a_defence.ipynb"
TUTORIALS = ROOT / "docs" / "tutorials"
PAGES = ("docs/index", "docs/concepts", "docs/finetuning")
SLOW_PAGES = (
    *("README", "docs/quickstart", "docs/analysis", "docs/extending", "docs/method", "docs/checking"),
    "docs/leaderboard",
)
BLOCK = re.compile(r"^((?:<!--.*?-->\n)*)```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
CHANGE = re.compile(r"<!-- in the tests: (.+?) -> (.+?) -->")
LEFT_OUT = "<!-- not run: "


def script(page: str) -> str:
    """The blocks of a page as one script, in which every line has the number that it has on the page."""
    lines: list[str] = []
    for match in BLOCK.finditer(page):
        comments, code = match.groups()
        if LEFT_OUT in comments:
            continue
        for old, new in CHANGE.findall(comments):
            assert old in code, f"a comment of the page is out of date, there is no {old!r} in\n{code}"
            code = code.replace(old, new)
        above = page[: match.start(2)].count("\n") - len(lines)
        lines += [""] * above + code.splitlines()
    return "\n".join(lines)


def cells(notebook: Path) -> Iterator[tuple[str, str]]:
    """The code cells of a notebook, each with its name."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    for number, cell in enumerate(content["cells"], 1):
        if cell["cell_type"] == "code":
            yield f"<{notebook.name}, cell {number}>", "".join(cell["source"])


def run_notebook(notebook: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the cells as Jupyter does: the main module has no file, but each cell keeps its source."""
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    for file, source in cells(notebook):
        monkeypatch.setitem(linecache.cache, file, (len(source), None, source.splitlines(keepends=True), file))
        exec(compile(source, file, "exec"), vars(main))
    return vars(main)


def run_script(path: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> dict[str, Any]:
    """Run a file as ``python FILE WORDS``."""
    monkeypatch.setattr(sys, "argv", [str(path), *words])
    return runpy.run_path(str(path), run_name="__main__")


def stored(file: str) -> dict[tuple[str, str], float]:
    """Per cent by method and kind in a results file."""
    with Results(file, read_only=True) as results:
        return {(result.setting.method, result.kind): result.percent for result in results.all()}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything runs in a folder of its own, in which there is a photo."""
    monkeypatch.chdir(tmp_path)
    noise = (torch.rand(60, 80, 3) * 255).to(torch.uint8)
    Image.fromarray(noise.numpy()).save("cat.jpg")


@pytest.mark.parametrize("page", [*PAGES, *(pytest.param(page, marks=pytest.mark.slow) for page in SLOW_PAGES)])
def test_the_blocks_of_a_page_run(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / f"{page}.md").read_text(encoding="utf-8")
    code = Path("page.py")
    code.write_text(script(text), encoding="utf-8")
    assert code.read_text(encoding="utf-8").strip()
    run_script(code, monkeypatch)


def test_a_line_of_a_page_keeps_its_number_and_comments_are_heeded() -> None:
    page = "# Title\n\n<!-- in the tests: 9 -> 1 -->\n```python\na = 9\n```\ntext\n\n```python\nb = a\n```\n"
    page += "<!-- not run: slow -->\n```python\nc = 1\n```\n```bash\nd\n```\n"
    assert script(page).splitlines() == ["", "", "", "", "a = 1", "", "", "", "", "b = a"]
    with pytest.raises(AssertionError, match="out of date"):
        script("<!-- in the tests: 9 -> 1 -->\n```python\na = 8\n```\n")


def test_there_are_scripts_and_notebooks() -> None:
    assert {path.stem for path in SCRIPTS} >= {"compare_defences", "own_attack", "attack_any_classifier"}
    assert len(NOTEBOOKS) == 4


@pytest.mark.slow
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_script(path, monkeypatch)
    numbers = stored(f"{path.stem}.sqlite")
    assert len(numbers) > 1
    assert max(numbers.values()) > 50


@pytest.mark.slow
def test_defences_are_compared_on_a_folder_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, colour in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        (Path("photos") / name).mkdir(parents=True)
        Image.new("RGB", (90, 60), colour).save(Path("photos") / name / "1.jpg")
    names = run_script(EXAMPLES / "compare_defences.py", monkeypatch, "photos")
    assert names["data"].classes == ("blue", "red")
    assert names["data"].image_size == names["model"].image_size
    assert {method for method, _ in stored("compare_defences.sqlite")} == {"CLIP", "R-Adapt", "Quantise"}


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path != THROUGH], ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_notebook(path, monkeypatch)
    figures = {(result.setting.method, result.kind): result.percent for result in names["results"] if result.main}
    robust = {method: percent for (method, kind), percent in figures.items() if kind == "white-box"}
    assert min(robust, key=robust.__getitem__) in ("CLIP", "Original", "LLaVA")
    assert max(robust.values()) > min(robust.values())


@pytest.mark.slow
def test_the_notebook_shows_what_a_masked_gradient_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_notebook(THROUGH, monkeypatch)
    _, masked, worst = names["masked"]
    honest = names["honest"][-1]
    assert masked.kind == honest.kind == "white-box"
    assert "zero gradient" in masked.flags
    assert honest.percent < masked.percent / 2
    assert worst.setting.attack == WORST_CASE
    assert worst.percent < masked.percent / 2  # the checks find what the attack does not
    assert names["chance"]["EOT, 8 passes"] < names["chance"]["single passes"] < names["chance"]["clean"]
    assert "trusted: no" in names["found"].text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_page_of_a_notebook_is_made_of_its_cells(path: Path) -> None:
    page = (TUTORIALS / f"{path.stem}.md").read_text(encoding="utf-8")
    content = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in content if cell["cell_type"] == "code"]
    again = f"python scripts/tutorials.py {path.stem[:2]}"
    assert [found.rstrip("\n") for _, found in BLOCK.findall(page)] == code, f"the notebook was changed since: {again}"
    prose = ["".join(cell["source"]) for cell in content if cell["cell_type"] == "markdown"]
    assert all(re.sub(r"\]\(.*?\)", "", text) in re.sub(r"\]\(.*?\)", "", page) for text in prose), again


def test_what_the_pages_of_notebooks_hold_is_small() -> None:
    pictures = sorted(TUTORIALS.glob("*.png"))
    assert {path.name for path in pictures} == set(
        re.findall(r"\]\((\S+\.png)\)", "".join(path.read_text(encoding="utf-8") for path in TUTORIALS.glob("*.md")))
    )
    assert all(path.stat().st_size < 100_000 for path in pictures)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_no_outputs(path: Path) -> None:
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None


def test_the_attack_of_the_documentation_is_that_of_the_script() -> None:
    page = (ROOT / "docs" / "attacks.md").read_text(encoding="utf-8")
    [block] = [code for _, code in BLOCK.findall(page) if "class HeavyBall" in code]
    code = (EXAMPLES / "own_attack.py").read_text(encoding="utf-8")
    classes = [
        [ast.dump(node) for node in ast.parse(text).body if isinstance(node, ast.ClassDef)] for text in (block, code)
    ]
    assert classes[0] == classes[1]
