"""What must hold for every model that ships with the package, and what micro/photos knows of photographs."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import radapt
from radapt.data import load_dataset
from radapt.evaluation import evaluate
from radapt.models import locate, micro_models

ROOT = Path(os.environ.get("RADAPT_DATA") or "nowhere")


@pytest.mark.parametrize("name", micro_models())
def test_a_model_that_ships_loads_and_has_a_card(name: str) -> None:
    folder = Path(locate(name))
    assert f"# {name}\n" in (folder / "README.md").read_text(encoding="utf-8")
    assert {path.suffix for path in folder.iterdir()} <= {".md", ".json", ".jinja", ".safetensors"}
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        assert {weights.get_slice(key).get_dtype() for key in weights.keys()} == {"F16"}  # noqa: SIM118 - no mapping
    model = radapt.load(name)
    assert model.image_size == ((64, 64) if name.startswith("micro/photos") else (48, 48))
    assert sum(each.numel() for each in model.model.parameters()) <= 6_000_000
    facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert not str(facts.get("_name_or_path", "")).startswith("/")  # no path of the machine that trained it


def test_the_model_of_photographs_knows_the_words_of_its_sets() -> None:
    model = radapt.load("micro/photos")
    texts = ["a photo of a cat.", "a photo of a airplane.", "a photo of a wild cat.", "a photo of a yin yang."]
    unknown = model.tokenizer.unk_token_id
    assert not [text for text in texts if unknown in model.tokenizer(text)["input_ids"]]
    assert unknown in model.tokenizer("a photo of a locomotive.")["input_ids"]
    encoded = model.encode_text(texts)
    assert encoded.shape == (4, 128)
    assert torch.pdist(encoded).min() > 0.1


PHOTOGRAPHS = pytest.mark.skipif(
    not (ROOT / "wds_vtab-cifar10" / "test").is_dir(),
    reason="needs CIFAR-10: RADAPT_DATA must name a folder with a copy of wds_vtab-cifar10",
)


@pytest.mark.slow
@PHOTOGRAPHS
@pytest.mark.parametrize("name", ["micro/photos", "micro/photos-fare", "micro/photos-tecoa"])
def test_the_twins_of_photographs_hold_what_their_cards_say(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    twin = "micro/photos-fare" if name == "micro/photos" else name  # whose card names both
    card = (Path(locate(twin)) / "README.md").read_text(encoding="utf-8")
    (line,) = re.findall(rf"^\| {name} \| CIFAR-10 \|(.*)\|$", card, re.MULTILINE)
    promised = [float(cell.split("[")[0]) for cell in line.split("|")]
    n = 50
    results = evaluate(
        name,
        data=["cifar-10"],
        n=n,
        eps=["2/255", "4/255"],
        source="self",
        results=tmp_path / "r.sqlite",
        sanity=False,
        quiet=True,
    )
    found = [next(each for each in results if round(each.setting.eps * 255) == radius) for radius in (0, 2, 4)]
    for result, percent in zip(found, promised, strict=True):
        # Of 50 images, 95 % of all draws lie within this of what is true.
        assert abs(result.percent - percent) <= 100 * 1.96 * math.sqrt(max(percent, 4) * (100 - percent) / 1e4 / n) + 1


@pytest.mark.slow
@PHOTOGRAPHS
def test_the_model_of_photographs_classifies_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    model = radapt.load("micro/photos")
    data = load_dataset("cifar-10", n=100, size=64)
    texts = torch.cat([model.encode_text(prompts).mean(0, keepdim=True) for prompts in data.prompts])
    nearest = (model.encode_image(data.pixels(range(100))) @ texts.T).argmax(1)
    assert (nearest == data.labels).float().mean() >= 0.7
