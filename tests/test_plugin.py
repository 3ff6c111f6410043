"""A second package, really installed, adds one member of every kind through entry points alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import radapt

PLUGIN = Path(__file__).parent / "plugin"
GROUPS = {
    "radapt.attacks": "random-sign",
    "radapt.models": "mean-colour",
    "radapt.data": "bright-shapes",
    "radapt.evaluation": "top-two",
    "radapt.finetuning": "clean-only",
    "radapt.adapters": "grey-anchor",
    "radapt.analysis": "weight-change",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which pip has installed the package."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(PLUGIN, folder / "source", ignore=shutil.ignore_patterns("*.egg-info", "build", "__pycache__"))
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    target = ["--target", str(folder / "site"), str(folder / "source")]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *target], check=True)
    return folder / "site"


def python(site: Path, folder: Path, code: str) -> str:
    """What a Python program prints that sees the installed package."""
    path = os.pathsep.join([str(site), str(Path(radapt.__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_every_registry_lists_its_member_and_loads_it(site: Path, tmp_path: Path) -> None:
    code = f"""
import json, importlib
from radapt.registry import Registry
groups = {GROUPS!r}
from radapt import adapters, analysis, attacks, data, evaluation, finetuning, models
names = {{
    "radapt.attacks": attacks.names(), "radapt.data": data.datasets(), "radapt.evaluation": evaluation.names(),
    "radapt.finetuning": finetuning.names(), "radapt.adapters": adapters.names(), "radapt.analysis": analysis.names(),
    "radapt.models": [name for name, *_ in models.families()],
}}
print(json.dumps({{group: name in names[group] for group, name in groups.items()}}))
"""
    assert json.loads(python(site, tmp_path, code)) == dict.fromkeys(GROUPS, True)


def test_nothing_of_it_is_there_without_the_package() -> None:
    from radapt import adapters, analysis, attacks, data, evaluation, finetuning

    listed = {
        *attacks.names(),
        *data.datasets(),
        *evaluation.names(),
        *finetuning.names(),
        *adapters.names(),
        *analysis.names(),
    }
    assert not listed & set(GROUPS.values())


@pytest.mark.slow
def test_every_member_does_its_work_beside_those_of_the_library(site: Path, tmp_path: Path) -> None:
    code = """
import json, torch, radapt, radapt_plugin
from radapt.models import load

torch.set_num_threads(1)
torch.manual_seed(0)
colour = radapt_plugin.MeanColour()
own = load(colour)
adapter = radapt.adapt("grey-anchor", "micro/clip", alpha=0.3)
results = radapt.evaluate(
    {"CLIP": "micro/clip", "grey": ("micro/clip", adapter)},
    data="bright-shapes", n=8, task="top-two",
    attack="random-sign", eps="16/255", options={"restarts": 3}, sanity=False, quiet=True,
)
colours = radapt.evaluate(
    {"colour": colour}, data="bright-shapes", n=8, attack=None, quiet=True, results="own.sqlite"
)
twin = radapt.finetune("clean-only", "micro/clip", n=8, steps=1, batch_size=4, attack_steps=1, quiet=True)
models = {"CLIP": "micro/clip", "twin": twin.model}
(plot,) = radapt.analyze("weight-change", models, n=2, options={"power": 1}, quiet=True)
print(json.dumps({
    "kinds": [[r.setting.method, r.kind, r.setting.task, r.setting.metric, r.n] for r in results],
    "colour": [colours[0].setting.model, colours[0].n], "repr": repr(own),
    "adapter": [adapter.settings.cutoff, adapter.settings.alpha], "loss": twin.losses, "change": plot.lines[0].y[0],
}))
"""
    found = json.loads(python(site, tmp_path, code))
    rows = [("CLIP", "clean"), ("CLIP", "white-box")]  # it is its own source
    rows += [("grey", kind) for kind in ("clean", "transfer", "white-box")]
    kinds = [tuple(each) for each in found["kinds"]]
    assert kinds[: len(rows)] == [(*row, "top-two", "top-2", 8) for row in rows]
    assert {each[1] for each in kinds[len(rows) :]} <= {"white-box"}  # the worst case over both attacks
    assert found["colour"] == ["MeanColour", 8]
    assert found["adapter"] == [None, 0.3]
    assert len(found["loss"]) == 1
    assert found["change"] >= 0


@pytest.mark.slow
def test_the_command_line_takes_them_too(site: Path, tmp_path: Path) -> None:
    def command(*words: str) -> str:
        return python(site, tmp_path, f"import sys\nsys.argv[1:] = {words!r}\nfrom radapt.cli.main import main\nmain()")

    assert "random-sign" in command("attacks")
    assert "bright-shapes" in command("datasets")
    command("adapt", "grey-anchor", "--alpha", "0.2", "--out", "grey", "-q")
    words = ("--data", "bright-shapes", "--attack", "random-sign", "--n", "4", "--no-sanity", "-q")
    assert "random-sign" in command("evaluate", "grey=micro/clip+grey", *words)
