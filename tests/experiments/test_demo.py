from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from tests.cli.conftest import Run
from tests.tiny import tiny_clip

from radapt.adapters import Adapter, AdapterMethod, data_driven
from radapt.adapters._shipped import shipped
from radapt.data import Dataset, load_dataset
from radapt.evaluation import Threat, evaluate
from radapt.experiments import artifacts
from radapt.fingerprint import digest
from radapt.models import VLM, load

# The packages have functions of these names.
DEMO: Any = importlib.import_module("radapt.experiments.demo")
METHOD: Any = importlib.import_module("radapt.adapters.data_driven")

METHODS = [
    "CLIP", "TeCoA", "FARE", "R-Adapt_CLIP", "R-Adapt_FARE", "R-Adapt_TeCoA", "R-Adapt+ (static)",
    "R-Adapt+ (adaptive)", "graft", "shallow",
]  # fmt: skip


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The demo with little to compute: the adversaries of the anchors that it trains."""
    adversaries: list[str] = []

    @wraps(data_driven)  # it counts as the method that it stands for, whatever it notes
    def quickly(*given: Any, **named: Any) -> Adapter:
        adversaries.append(named["adversary"])
        return data_driven(*given, **{**named, "steps": 1, "attack_steps": 1, "batch_size": 4})

    def few(name: str, *, split: str = "test", n: int | None = None, size: int | None = None, **rest: bool) -> Dataset:
        return load_dataset(name, split=split, n=min(n or 8, 8), size=size, **rest)

    def short(**settings: Any) -> Threat:
        return Threat(**{**settings, "options": {"steps": 2}})

    monkeypatch.setattr(METHOD, "METHOD", AdapterMethod(quickly, needs_images=True))
    monkeypatch.setattr(DEMO, "load_dataset", few)
    monkeypatch.setattr(DEMO, "Threat", short)
    monkeypatch.setattr(DEMO, "evaluate", partial(evaluate, batch_size=4, sanity=False))
    return adversaries


@pytest.mark.slow
def test_the_demo_compares_all_methods_and_continues(run: Run, trained: list[str]) -> None:
    result = run("demo", "--n", 4, "--out", "demo", "-q", "--train", "--json", "rows.json")
    assert result.exit_code == 0, result.output
    assert trained == ["static", "adaptive"]
    rows = json.loads(Path("rows.json").read_text())
    assert list(dict.fromkeys(row["method"] for row in rows)) == METHODS
    assert list(dict.fromkeys(row["dataset"] for row in rows)) == ["shapes", "textures", "compositions"]
    measured = [row for row in rows if row["attack"] != "worst case"]
    assert len(measured) == 3 * (1 * 2 + 9 * 3)  # CLIP, the source, is attacked white-box alone
    assert {row["kind"] for row in rows} == {"clean", "transfer", "white-box"}
    assert all(row["n"] == 4 for row in rows)
    # Every transferred image was made against the undefended model.
    assert {json.loads(row["options"])["source_model"] for row in rows if row["kind"] == "transfer"} == {"micro/clip"}
    written = {path.name for path in Path("demo/report").iterdir()}
    assert {"report.html", "table.md", "tradeoff.png"} <= written
    assert all(name in result.output for name in ("CLIP", "FARE", "TeCoA"))

    again = run("demo", "--n", 4, "--out", "demo", "-q", "--train", "--json", "again.json")
    assert again.exit_code == 0, again.output
    assert trained == ["static", "adaptive"]  # read, not trained again
    assert json.loads(Path("again.json").read_text()) == rows
    assert "trained again" not in again.output


@pytest.mark.slow
@pytest.mark.parametrize("adversary", ["static", "adaptive"])
def test_the_anchors_that_ship_are_those_of_the_shipped_model(adversary: str) -> None:
    folder = shipped(f"micro/r-adapt-plus-{adversary}")
    assert folder is not None
    made = json.loads((folder / "recipe.json").read_text())["recipe"]
    clip, images = load("micro/clip"), load_dataset("objects", split="train", n=DEMO._IMAGES)
    assert made["weights"] == digest(clip.model.parameters())
    assert made["images"] == digest([images.pixels(range(len(images)))])
    assert (made["adversary"], made["steps"], made["alpha"]) == (
        adversary,
        DEMO._STEPS[adversary],
        DEMO._ALPHA[adversary],
    )
    adapter = DEMO._anchored(clip, DEMO._WORLD, adversary, Path("nowhere"), False, print, quiet=True)
    with adapter.attach(clip):
        assert clip.defended


@pytest.fixture
def anchor(run: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Asks the demo for its anchor, trained for one step, and returns what it prints."""

    def quickly(*given: Any, **named: Any) -> Adapter:
        return data_driven(*given, **{**named, "steps": 1, "attack_steps": 1})

    monkeypatch.setattr(METHOD, "METHOD", AdapterMethod(quickly, needs_images=True))
    monkeypatch.setattr(DEMO, "_IMAGES", 6)

    def ask(model: VLM) -> str:
        reported: list[str] = []
        folder = Path("demo/r-adapt-plus-static")
        found = DEMO._trained(model, DEMO._WORLD, "static", folder, reported.append, quiet=True)
        assert Adapter.from_pretrained(folder).fingerprint == found.fingerprint
        return "\n".join(reported)

    return ask


@pytest.mark.slow
def test_an_adapter_of_another_recipe_is_trained_again(
    anchor: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = tiny_clip(), Path("demo/r-adapt-plus-static")
    assert anchor(model) == ""
    assert anchor(model) == ""  # read again
    changes: list[Callable[[], object]] = [
        lambda: monkeypatch.setitem(DEMO._STEPS, "static", 41),
        lambda: monkeypatch.setitem(DEMO._ALPHA, "static", 0.7),
        lambda: monkeypatch.setattr(DEMO, "_IMAGES", 7),
        lambda: monkeypatch.setattr(artifacts, "__version__", "0.0.1"),
        lambda: model.model.vision_model.post_layernorm.weight.mul_(1.01),
        lambda: (folder / "recipe.json").unlink(),
        lambda: (folder / "recipe.json").write_text("{"),
    ]
    for change in changes:
        change()
        assert anchor(model) == f"what lies in {folder} has another recipe; it is trained again"
        assert anchor(model) == ""
    assert Adapter.from_pretrained(folder).settings.alpha == 0.7


@pytest.mark.slow
def test_an_adapter_that_is_not_as_it_was_made_is_trained_again(anchor: Callable[..., str]) -> None:
    model, folder = tiny_clip(), Path("demo/r-adapt-plus-static")
    assert anchor(model) == ""
    made = Adapter.from_pretrained(folder)
    config, weights = folder / "radapt_config.json", folder / "radapt_anchor.safetensors"
    changes: list[tuple[Callable[[], object], str]] = [
        (lambda: made.change(alpha=0.1).save_pretrained(folder), "radapt_config.json"),
        (lambda: weights.write_bytes(weights.read_bytes()[:-10]), "radapt_anchor.safetensors"),
        (weights.unlink, "radapt_anchor.safetensors"),
        (config.unlink, "radapt_config.json"),
        (lambda: [path.unlink() for path in (config, weights)], "radapt_anchor.safetensors, radapt_config.json"),
    ]
    for change, names in changes:
        change()
        assert anchor(model) == f"{names} in {folder} is missing or not as it was made; it is trained again"
        assert anchor(model) == ""
        assert Adapter.from_pretrained(folder).fingerprint == made.fingerprint
    (folder / "README.md").write_text("# Mine")
    assert anchor(model) == ""


def test_a_kill_between_training_and_saving_loses_nothing(
    anchor: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = tiny_clip(), Path("demo/r-adapt-plus-static")
    with monkeypatch.context() as patch:
        patch.setattr(Adapter, "save_pretrained", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            anchor(model)
    (checkpoint,) = folder.parent.glob("r-adapt-plus-static.*.checkpoint.safetensors")
    assert not folder.exists()
    with monkeypatch.context() as patch:
        patch.setattr(METHOD._Anchor, "__call__", Mock(side_effect=AssertionError("trained again")))
        assert anchor(model) == ""
    assert not checkpoint.exists()
