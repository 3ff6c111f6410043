"""The micro LLaVA and Qwen-VL: what they are made of, how they are trained, and what they know of the world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import radapt
from radapt.attacks import make
from radapt.data import PROMPTS, load_dataset
from radapt.data.shapeworld import World, caption, draw, generator, questions
from radapt.errors import CheckError
from radapt.evaluation.captioning import Captioning
from radapt.evaluation.vqa import VQA
from radapt.micro import _dialogue, llava, qwen_vl
from radapt.models import VLM

MAKERS: dict[str, Any] = {"llava": llava.train_llava, "qwen-vl": qwen_vl.train_qwen_vl}
SETTINGS: dict[str, Any] = {"words": 2, "batch_size": 4, "pool": 12, "quiet": True}


@pytest.fixture(scope="module", params=MAKERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def shipped(name: str) -> VLM:
    return radapt.load(f"micro/{name}")


def weights(model: Any) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.model.state_dict().items()}


def test_the_tokenizer_knows_every_word_of_captions_questions_and_prompts(shipped: Any) -> None:
    texts = []
    for index, scene in enumerate(draw(World(pairs="all"), "test", range(60))):
        texts += [caption(scene), PROMPTS["captioning"]]
        for question, answer in questions(scene, generator("q", index)):
            texts += [PROMPTS["vqa"].replace("{q}", question), answer]
    unknown = shipped.tokenizer.unk_token_id
    assert not [text for text in texts if unknown in shipped.tokenizer(text)["input_ids"]]


@pytest.mark.slow
def test_a_killed_training_continues_to_the_same_weights(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = MAKERS[name](tmp_path / "whole", steps=4, **SETTINGS)
    answer_scores, calls = type(whole).answer_scores, [0]

    def failing(self: Any, pixels: Tensor, tokens: Any) -> Any:
        calls[0] += 1
        loss, said = answer_scores(self, pixels, tokens)
        return (loss * float("nan") if calls[0] == 3 else loss), said

    monkeypatch.setattr(type(whole), "answer_scores", failing)
    monkeypatch.setattr(_dialogue, "_EVERY", 1)
    with pytest.raises(CheckError, match="at step 2"):
        MAKERS[name](tmp_path / "part", steps=4, **SETTINGS)
    assert (tmp_path / "part.images.checkpoint.safetensors").exists()
    monkeypatch.setattr(type(whole), "answer_scores", answer_scores)
    again = MAKERS[name](tmp_path / "part", steps=4, **SETTINGS)
    assert not list(tmp_path.glob("*.checkpoint.safetensors"))
    for key, value in weights(whole).items():
        assert torch.equal(value, again.model.state_dict()[key]), key
    loaded = radapt.load(tmp_path / "part")
    pixels, prompt = torch.rand(2, 3, 48, 48), [PROMPTS["captioning"]] * 2
    assert loaded.generate(pixels, prompt) == radapt.load(tmp_path / "whole").generate(pixels, prompt)


def test_a_trained_one_is_trained_on_without_the_stage_of_words(
    name: str, shipped: VLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_dialogue, "_Words", lambda *given: None)  # would fail if it were asked for a loss
    settings = {**SETTINGS, "lr": 1e-6}
    made = MAKERS[name](tmp_path / "on", steps=2, start=f"micro/{name}", **settings)
    before, moved = weights(shipped), 0
    for key, value in weights(made).items():
        assert torch.allclose(value, before[key], atol=1e-3), key
        moved += not torch.equal(value, before[key])
    assert moved


def test_the_llava_has_the_very_tower_of_the_clip_and_its_adapters_fit() -> None:
    vlm, clip = radapt.load("micro/llava"), radapt.load("micro/clip")
    model: Any = vlm.model
    mine, theirs = model.model.vision_tower.state_dict(), clip.model.vision_model.state_dict()  # type: ignore[union-attr, operator]
    assert all(torch.equal(value, mine[key]) for key, value in theirs.items())
    adapter = radapt.training_free(clip, alpha=0.4)
    pixels = load_dataset("objects", n=2).pixels(range(2))
    with torch.no_grad(), adapter.attach(vlm):
        attached = vlm.encode_image(pixels)
    with torch.no_grad():
        assert not torch.equal(vlm.encode_image(pixels), attached)


def test_training_leaves_the_tower_of_the_llava_and_moves_that_of_the_qwen_vl(name: str, tmp_path: Path) -> None:
    build = {"llava": llava.build_model, "qwen-vl": qwen_vl.build_model}[name]
    before, after = (
        weights(build(radapt.load("micro/clip"))),
        weights(MAKERS[name](tmp_path / "m", steps=2, **SETTINGS)),
    )
    tower = [key for key in before if key.startswith(("model.vision_tower.", "model.visual."))]
    moved = [key for key in tower if not torch.equal(before[key], after[key])]
    assert bool(moved) == (name == "qwen-vl")
    assert any(not torch.equal(before[key], after[key]) for key in before if key not in tower)


def test_the_qwen_vl_begins_with_the_patches_and_blocks_of_the_clip() -> None:
    clip = radapt.load("micro/clip")
    source, made = clip.model, qwen_vl.build_model(clip)
    visual: Any = made.model.model.visual  # type: ignore[union-attr]
    block, theirs = visual.blocks[2], source.vision_model.encoder.layers[2]  # type: ignore[union-attr, index]
    tokens = torch.randn(5, 128)
    assert torch.allclose(block.mlp(tokens), theirs.mlp(tokens), atol=1e-5)
    width = 128
    assert torch.equal(block.attn.qkv.weight[width : 2 * width], theirs.self_attn.k_proj.weight)
    patch = torch.rand(1, 3, 8, 8)
    frames = patch[:, :, None].repeat(1, 1, 2, 1, 1).reshape(1, -1)
    expected = source.vision_model.embeddings.patch_embedding(patch).flatten()  # type: ignore[union-attr, operator]
    assert torch.allclose(visual.patch_embed(frames).flatten(), expected, atol=1e-5)


@pytest.mark.slow
def test_it_knows_the_world(shipped: VLM) -> None:
    data = load_dataset("shapeworld-captions", n=60)
    said = shipped.generate(data.pixels(range(60)), [data.prompt()] * 60)
    words = [a == b for text, own in zip(said, data.captions, strict=True)
             for a, b in zip(text.split(), own[0].split(), strict=False)]  # fmt: skip
    assert sum(words) / len(words) > 0.9
    assert sum(text == own[0] for text, own in zip(said, data.captions, strict=True)) >= 34
    asked = VQA(load_dataset("shapeworld-vqa", n=70))
    answers = asked.bind(shipped).answers(asked.data.pixels(range(70)), range(70), 35)
    assert sum(answer.score for answer in answers) >= 56


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["shapeworld-captions", "shapeworld-vqa"])
def test_it_falls_under_attack(shipped: VLM, dataset: str) -> None:
    data, rows = load_dataset(dataset, n=8), range(8)
    task = Captioning(data) if data.captions else VQA(data)
    bound = task.bind(shipped)
    attack = make("apgd", eps=8 / 255, steps=12)
    clean = sum(answer.score for answer in bound.answers(data.pixels(rows), rows, 8))
    outcome = bound.attack(attack, data.pixels(rows), rows, keys=data.keys, seed=0, batch_size=8, stop=True)
    robust = sum(answer.score for answer in bound.answers(outcome.pixels, rows, 8))
    assert robust < 0.5 * clean
