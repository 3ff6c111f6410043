"""The how-to guides: their packages are installed, and their blocks and commands run as a reader would run them.

A block with a title is a file of a package; pip installs it. The other Python blocks of a page are one script, and its
commands run in the same folder. All of it in processes of its own, without the run-time checks of the tests.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.test_examples import script

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "howto").glob("*.md"))
FILE = re.compile(r'^```\w+ title="(\S+)"\n(.*?)^```$', re.DOTALL | re.MULTILINE)
COMMANDS = re.compile(r"^```bash\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PACKAGES = [path for path in PAGES if FILE.search(path.read_text(encoding="utf-8"))]
SCRIPTS = [path for path in PAGES if path not in PACKAGES]
COMMAND = """
print({mark!r}, flush=True)
try:
    app({words!r})
except SystemExit as end:
    if end.code:
        raise
"""
MARK = "=== the next command ==="


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which pip has installed the packages of all pages."""
    folder = tmp_path_factory.mktemp("howto")
    sources = []
    for page in PACKAGES:
        source = folder / page.stem
        source.mkdir()
        for name, text in FILE.findall(page.read_text(encoding="utf-8")):
            (source / name).write_text(text, encoding="utf-8")
        sources.append(str(source))
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder / "site"), *sources]
    subprocess.run(command, check=True)
    return folder / "site"


def python(folder: Path, *words: str, site: Path | None = None) -> str:
    """What a process of Python prints in a folder."""
    path = os.pathsep.join([*([str(site)] if site else []), str(ROOT / "src")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    return done.stdout


def run(page: Path, folder: Path, *, site: Path | None = None, after: str = "") -> list[str]:
    """Run the blocks of a page, then its commands; what the first prints, and each of the others."""
    text = page.read_text(encoding="utf-8")
    lines = [script(text), after, "from radapt.cli.main import app"]
    for words in (shlex.split(line, comments=True) for block in COMMANDS.findall(text) for line in block.splitlines()):
        assert words[0] == "radapt", words
        lines.append(COMMAND.format(mark=MARK, words=words[1:]))
    (folder / "page.py").write_text("\n".join(lines), encoding="utf-8")
    return python(folder, "page.py", site=site).split(MARK)


@pytest.mark.slow
@pytest.mark.parametrize("page", PACKAGES, ids=lambda path: path.stem)
def test_a_package_of_a_how_to_is_installed_and_its_member_works(page: Path, site: Path, tmp_path: Path) -> None:
    _, *printed = run(page, tmp_path, site=site)
    [member] = {
        "attack": ["corners"],
        "dataset": ["stripes"],
        "defence": ["halved"],
        "family": ["metaclip"],
    }[page.stem]
    assert any(member in each for each in printed)


@pytest.mark.slow
def test_an_exported_model_answers_as_the_eager_one_and_the_pipeline_is_defended(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(tmp_path / "cat.jpg")
    after = """
import json
plain = pipeline("zero-shot-image-classification", model="my-clip")
words = dict(candidate_labels=names, hypothesis_template="a photo of a {}.")
scores = [{each["label"]: each["score"] for each in one("cat.jpg", **words)} for one in (classify, plain)]
from PIL import Image
photo = model.preprocess(Image.open("cat.jpg"))[None]
with torch.no_grad():
    own = served(photo).softmax(1)[0].tolist()
    radapt.detach(model)
    bare = served(pixels)
print(json.dumps({
    "exported": float(difference), "onnx": float(onnx_difference), "defence": float((bare - expected).abs().max()),
    "pipeline": max(abs(scores[0][name] - one) for name, one in zip(names, own)),
    "changed": max(abs(scores[0][name] - scores[1][name]) for name in names),
}))
"""
    [printed] = run(ROOT / "docs" / "howto" / "serve.md", tmp_path, after=after)
    found = json.loads(printed.splitlines()[-1])
    assert found["exported"] < 1e-4
    assert found["onnx"] < 1e-3
    assert found["pipeline"] < 1e-4
    assert found["defence"] > 0.1  # what was compared is the adapted model
    assert found["changed"] > 1e-3


@pytest.mark.slow
def test_a_model_in_eight_bits_is_evaluated_with_its_adapter(tmp_path: Path) -> None:
    after = """
import json
with radapt.Results("eight-bits.sqlite", read_only=True) as store:
    print(json.dumps([[result.setting.method, result.kind, result.n] for result in store.all()]))
"""
    [printed] = run(ROOT / "docs" / "howto" / "eight-bits.md", tmp_path, after=after)
    found = {(method, kind) for method, kind, _ in json.loads(printed.splitlines()[-1])}
    page = (ROOT / "docs" / "howto" / "eight-bits.md").read_text(encoding="utf-8")
    methods = re.findall(r'^    "(.+)": ', page, re.MULTILINE)
    assert len(methods) == 6
    assert {(method, kind) for method in methods for kind in ("clean", "white-box")} <= found


def test_every_how_to_is_run() -> None:
    assert {path.stem for path in PACKAGES} == {"attack", "dataset", "defence", "family"}
    assert {path.stem for path in SCRIPTS} == {"eight-bits", "serve"}
