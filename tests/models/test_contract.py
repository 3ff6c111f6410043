"""What must hold for every family that loads: adapt, save, load, attack, evaluate; through the API and by command."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.generative import BUILDERS
from tests.models.openclip import CLIP, MODEL_CFG
from tests.tiny import SHAPE, lively, tiny_clip
from transformers import SiglipConfig, SiglipModel
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from typer.testing import CliRunner

import radapt
from radapt.cli.main import app
from radapt.evaluation import Candidate, Threat, evaluate
from radapt.micro.clip import build_tokenizer
from radapt.models import VLM, Contrastive, Generative, families
from radapt.models.siglip import siglip
from radapt.results import Results

SIDE = 48


def a_clip(folder: Path) -> Path:
    tiny_clip(side=SIDE, factor=10.0).save_pretrained(folder)
    return folder


def a_siglip(folder: Path) -> Path:
    torch.manual_seed(0)
    config = SiglipConfig(
        vision_config={**SHAPE, "image_size": SIDE, "patch_size": 8},
        text_config={**SHAPE, "vocab_size": 80, "max_position_embeddings": 20, "projection_size": 32},
    )
    model, processor = lively(SiglipModel(config), 10.0), SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    with torch.no_grad():
        model.logit_scale.fill_(math.log(50))
    siglip("s", model, build_tokenizer(), processor).save_pretrained(folder)
    return folder


def a_siglip2(folder: Path) -> Path:
    from tests.models.test_siglip2 import published, tiny

    model = tiny((SIDE // 8) ** 2)
    with torch.no_grad():
        model.logit_scale.fill_(math.log(50))
    return published(model, folder)


def an_open_clip(folder: Path) -> Path:
    from tests.models.test_open_clip import folder as published

    cfg: dict[str, Any] = {**MODEL_CFG, "vision_cfg": {**MODEL_CFG["vision_cfg"], "image_size": SIDE}}  # type: ignore[dict-item]
    return published(CLIP(cfg), folder, cfg=cfg)


SAVED: dict[str, Callable[[Path], Path]] = {
    "hf-clip": a_clip,
    "siglip": a_siglip,
    "siglip2": a_siglip2,
    "open-clip": an_open_clip,
    "llava": BUILDERS["llava"],
    "qwen-vl": BUILDERS["qwen3_vl"],
}
TASKS = {"llava": ("shapeworld-captions", "shapeworld-vqa"), "qwen-vl": ("shapeworld-vqa", "shapeworld-captions")}
"""The datasets on which a family is evaluated: shapes and retrieval, unless it generates text."""


@pytest.fixture(params=SAVED)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return SAVED[request.param](tmp_path / "model")


@pytest.fixture
def sets(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Names of the datasets of the family."""
    return TASKS.get(request.node.callspec.params["folder"], ("shapes", "shapeworld-retrieval"))


def test_every_family_that_loads_is_tested_here() -> None:
    assert set(SAVED) == {name for name, _, loads in families() if loads}


def test_gradients_reach_the_pixels_and_no_weight(folder: Path) -> None:
    model = radapt.load(folder)
    pixels = torch.rand(2, 3, SIDE, SIDE, requires_grad=True)
    model.encode_image(pixels).square().sum().backward()
    assert pixels.grad is not None
    assert (pixels.grad.flatten(1).abs().amax(1) > 0).all()
    assert all(p.grad is None and not p.requires_grad for p in model.model.parameters())


def test_an_adapter_changes_embeddings_and_leaves_no_trace(folder: Path, tmp_path: Path) -> None:
    model, pixels = radapt.load(folder), torch.rand(2, 3, SIDE, SIDE)
    names = list(model.model.state_dict())
    adapter = radapt.training_free(model, alpha=0.4, mix="interpolate")
    with torch.no_grad():
        bare = model.encode_image(pixels)
        with adapter.attach(model):
            adapted = model.encode_image(pixels)
            assert list(model.model.state_dict()) == names
        assert torch.equal(model.encode_image(pixels), bare)
        assert (adapted - bare).abs().max() > 1e-3 * bare.abs().max()
        adapter.save_pretrained(tmp_path / "adapter")
        other = radapt.load(folder)
        with radapt.Adapter.from_pretrained(tmp_path / "adapter").attach(other):
            assert torch.equal(other.encode_image(pixels), adapted)


@pytest.mark.slow
def test_it_is_evaluated_clean_by_transfer_and_white_box(folder: Path, sets: tuple[str, ...], tmp_path: Path) -> None:
    model = radapt.load(folder)
    data = [radapt.load_dataset(name, n=6) for name in sets]
    adapter = radapt.training_free(model, alpha=0.2)
    options = {"steps": 3}
    threats = [Threat(attack="pgd", eps=8 / 255, source=who, options=options) for who in ("undefended", "self")]
    with Results(tmp_path / "r.sqlite") as results:
        figures = evaluate(
            [Candidate(method="R-Adapt", model=model, adapter=adapter)],
            data=data,
            threats=threats,
            results=results,
            batch_size=3,
            quiet=True,
        )
    assert [figure.kind for figure in figures if figure.main] == ["clean", "transfer", "white-box"] * 2
    assert all(figure.n == 6 for figure in figures)


@pytest.mark.slow
def test_the_commands_work(folder: Path, sets: tuple[str, ...], tmp_path: Path) -> None:
    def run(*words: str) -> str:
        result = CliRunner().invoke(app, list(words), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    run("adapt", "training-free", "--model", str(folder), "--out", str(tmp_path / "adapter"))
    out = run(
        *("evaluate", f"CLIP={folder}", f"R-Adapt={folder}+{tmp_path / 'adapter'}", "--data", sets[0], "--n", "4"),
        *("--attack", "pgd", "--option", "steps=2", "--eps", "4/255", "--results", str(tmp_path / "r.sqlite")),
    )
    assert "R-Adapt" in out


def test_it_comes_back_from_its_own_folder(folder: Path, tmp_path: Path) -> None:
    model, pixels = radapt.load(folder), torch.rand(2, 3, SIDE, SIDE)
    model.save_pretrained(tmp_path / "again")
    again: VLM = radapt.load(tmp_path / "again")
    with torch.no_grad():
        assert torch.equal(again.encode_image(pixels), model.encode_image(pixels))
        texts = ["a red circle", "a large blue star"]
        if isinstance(model, Generative):
            assert isinstance(again, Generative)
            assert again.generate(pixels, texts) == model.generate(pixels, texts)
        else:
            assert isinstance(model, Contrastive)
            assert isinstance(again, Contrastive)
            assert torch.allclose(again.encode_text(texts), model.encode_text(texts), atol=1e-5)
