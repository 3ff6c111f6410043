"""Run the notebooks of examples/ and write each, with what it prints and draws, as a page of docs/tutorials/.

``python scripts/tutorials.py`` runs all of them, on micro models, in some minutes on two cores; with ``03``, those
whose names begin so.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import linecache
import os
import sys
import tempfile
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
PAGES = ROOT / "docs" / "tutorials"
DPI, COLOURS = 80, 64


def cells(notebook: Path) -> list[tuple[str, str]]:
    """The cells of a notebook: kind and source."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    return [(cell["cell_type"], "".join(cell["source"])) for cell in content["cells"]]


def prose(source: str) -> str:
    """The text of a cell, with links as they are from the page."""
    return source.replace("](../docs/", "](../").replace(".ipynb)", ".md)")


def run(source: str, name: str, names: dict[str, Any]) -> tuple[str, list[Any]]:
    """Run a cell as Jupyter does: what it prints, its last value included, and the figures that it leaves."""
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    body = ast.parse(source).body
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    last = ast.Expression(body.pop().value) if isinstance(body[-1], ast.Expr) else None  # type: ignore[attr-defined]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.Module(body, []), name, "exec"), names)
        value = None if last is None else eval(compile(last, name, "eval"), names)
    figures = [plt.figure(number) for number in plt.get_fignums()]
    if isinstance(value, Figure):
        figures = [value]
    elif value is not None:
        printed.write(repr(value))
    plt.close("all")
    lines = (line.rstrip() for line in printed.getvalue().splitlines())
    return "\n".join(lines).strip(), figures


def save(figure: Any, path: Path) -> None:
    """Write a figure as a small PNG."""
    from PIL import Image

    picture = io.BytesIO()
    figure.savefig(picture, dpi=DPI, bbox_inches="tight", facecolor="white")
    Image.open(picture).convert("RGB").quantize(COLOURS).save(path, optimize=True)


def rendered(notebook: Path) -> Iterator[str]:
    """The parts of the page of a notebook."""
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    for number, (kind, source) in enumerate(cells(notebook), 1):
        if kind == "markdown":
            yield prose(source)
            if number == 1:
                yield f"The notebook is `examples/{notebook.name}`; what stands below its cells is what one run gave."
            continue
        yield f"```python\n{source}\n```"
        printed, figures = run(source, f"<{notebook.name}, cell {number}>", vars(main))
        if printed:
            yield f"```text\n{printed}\n```"
        for count, figure in enumerate(figures):
            path = PAGES / f"{notebook.stem}-{number}{'abc'[count] if count else ''}.png"
            save(figure, path)
            yield f"![What cell {number} draws]({path.name})"


def main() -> None:
    """Write the pages."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}
    warnings.simplefilter("ignore")
    PAGES.mkdir(exist_ok=True)
    asked = sys.argv[1:] or [""]
    for notebook in (path for path in NOTEBOOKS if path.name.startswith(tuple(asked))):
        for old in PAGES.glob(f"{notebook.stem}*"):
            old.unlink()
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            page = "\n\n".join(rendered(notebook))
        (PAGES / f"{notebook.stem}.md").write_text(page + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
