from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor
from transformers import CLIPModel

import radapt
from radapt.data import card, datasets, load_dataset
from radapt.data.digits import DIGITS
from radapt.data.shapeworld import ATTRIBUTES, World, draw, generator, questions
from radapt.errors import ModelError, SettingsError
from radapt.micro import clip as micro

PHRASE = re.compile(r"^(?:a (?:photo|picture) of )?an? (.*?)(?: on an? (\w+) background)?$")


def read(text: str) -> dict[str, str]:
    """The attributes that a caption names, by its words."""
    match = PHRASE.match(text)
    assert match, text
    words = match[1].split()
    if words[:2] == ["handwritten", "digit"]:
        return {"digit": words[2]}
    named = {"background": match[2]} if match[2] else {}
    for word in words:
        kinds = [n for n in ("shape", "colour", "texture", "size") if word in ATTRIBUTES[n]]
        assert len(kinds) == (word != "object"), text
        named |= dict.fromkeys(kinds, word)
    return named


def test_the_tokenizer_knows_every_word_of_the_world() -> None:
    tokenizer = micro.build_tokenizer()
    names = [name for name in datasets() if card(name).source != "hub"]
    texts = [text for name in names for prompts in _prompts(name) for text in prompts]
    for scene in draw(World(pairs="all"), "test", range(60)):
        texts += [part for pair in questions(scene, generator("questions", 0)) for part in pair]
    for name in ("shapeworld-captions", "shapeworld-retrieval"):
        texts += [text for captions in load_dataset(name, n=20).captions for text in captions]
    unknown = tokenizer.unk_token_id
    assert not [text for text in texts if unknown in tokenizer(text)["input_ids"]]
    lengths = [len(tokenizer(text)["input_ids"]) for text in texts]
    assert max(lengths) <= 20
    assert tokenizer("A red circle")["input_ids"] == tokenizer("a red circle")["input_ids"]
    assert tokenizer("a circle")["input_ids"][0] == tokenizer.bos_token_id
    assert tokenizer("a circle")["input_ids"][-1] == tokenizer.eos_token_id
    assert unknown in tokenizer("a zeppelin")["input_ids"]


def _prompts(name: str) -> tuple[tuple[str, ...], ...]:
    return load_dataset(name, n=20).prompts if card(name).task == "zero-shot" else ()


@pytest.fixture
def loss() -> Any:
    tokenizer = micro.build_tokenizer()
    return micro._Loss(micro.build_model(len(tokenizer)), tokenizer, micro._Pool(40, 0.2, 0), 20, 0)


def test_a_caption_is_positive_for_exactly_the_pictures_it_fits(loss: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    positives: list[Tensor] = []
    texts: list[list[str]] = []
    cross_entropy, captions = micro._soft_cross_entropy, type(loss)._captions

    def watch_loss(logits: Tensor, positive: Tensor) -> Tensor:
        positives.append(positive)
        return cross_entropy(logits, positive)

    def watch_captions(self: Any, rows: Any, rng: Any) -> Any:
        result = captions(self, rows, rng)
        texts.append(result[0])
        return result

    monkeypatch.setattr(micro, "_soft_cross_entropy", watch_loss)
    monkeypatch.setattr(type(loss), "_captions", watch_captions)
    pool = loss.pool
    for step in range(2):
        loss(step)
        rows = pool.rows(step, 20, 0)
        by_caption, by_picture = positives[-2:]
        expected = torch.zeros(20, 20)
        for i, text in enumerate(texts[-1]):
            named = read(text)
            for j, row in enumerate(rows):
                if row >= pool.size:
                    truth = {"digit": DIGITS[pool.attributes[row, -1]]}
                else:
                    truth = {name: getattr(pool.scenes[row], name) for name in ATTRIBUTES}
                expected[i, j] = named.items() <= truth.items()
        assert torch.equal(by_caption, expected)
        assert torch.equal(by_picture, expected.T)
        assert expected.diagonal().all()  # every caption is true of its own picture
        assert expected.sum() > 20


def test_class_prompts_come_in_the_order_of_the_attributes(loss: Any) -> None:
    prompts = loss._prompts(generator("prompts", 0))
    expected = [{name: value} for name in ATTRIBUTES for value in ATTRIBUTES[name]]
    expected += [{"digit": digit} for digit in DIGITS]
    named = [read(p) if "background" not in p else {"background": read(p)["background"]} for p in prompts]
    assert named == expected


def test_soft_cross_entropy_of_one_positive_is_cross_entropy() -> None:
    logits, labels = torch.randn(5, 7), torch.tensor([0, 6, 2, 2, 4])
    one_hot = torch.nn.functional.one_hot(labels, 7).float()
    assert torch.allclose(micro._soft_cross_entropy(logits, one_hot), torch.nn.functional.cross_entropy(logits, labels))
    two = one_hot.clone()
    two[0, 3] = 1
    two[1] = 0  # a row without positives does not count
    rows = -logits.double().log_softmax(1)
    expected = torch.stack([(rows[0, 0] + rows[0, 3]) / 2, rows[2, 2], rows[3, 2], rows[4, 4]]).mean()
    assert micro._soft_cross_entropy(logits, two).item() == pytest.approx(expected.item(), rel=1e-5)


def test_batches_pass_every_scene_once_an_epoch(loss: Any) -> None:
    epoch = [loss.pool.rows(step, 20, 0) for step in range(2)]  # 16 scenes and 4 digits of 40 scenes
    scenes = [row for rows in epoch for row in rows[:16].tolist()]
    assert len(set(scenes)) == 32
    assert set(scenes) <= set(range(40))
    assert all((rows[16:] >= 40).all() and len(rows) == 20 for rows in epoch)


def test_a_pool_smaller_than_a_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="at least the batch of 12 images, got 11"):
        micro.train_clip(tmp_path / "clip", batch_size=12, pool=11)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lr": float("inf")}, "lr"), ({"steps": 10**20}, "steps"), ({"seed": 10**23}, "seed"), ({"seed": -1}, "seed"),
        ({"batch_size": 0}, "batch_size"), ({"pool": 10**20}, "pool"), ({"digit_share": 1.5}, "digit_share"),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        micro.train_clip(tmp_path / "clip", **{"batch_size": 12, "pool": 24, **wrong})
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_training_that_is_not_saved_is_kept_and_another_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, settings = tmp_path / "clip", {"steps": 2, "batch_size": 12, "pool": 24, "quiet": True}
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="must be a folder"):
        micro.train_clip(tmp_path / "file", **settings)
    with monkeypatch.context() as patch:
        patch.setattr(CLIPModel, "save_pretrained", Mock(side_effect=OSError("No space left")))
        with pytest.raises(ModelError, match="No space left"):
            micro.train_clip(out, **settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.checkpoint.safetensors", "file"]
    build = micro.build_model
    with monkeypatch.context() as patch:
        patch.setattr(micro, "build_model", lambda vocabulary, seed: build(vocabulary, seed + 1))
        with pytest.raises(SettingsError, match=r"belongs to a training with weights '\w+' instead of '\w+';"):
            micro.train_clip(out, **settings)
    with monkeypatch.context() as patch:
        patch.setattr(micro._Loss, "__call__", Mock(side_effect=AssertionError("trained again")))
        micro.train_clip(out, **settings)
    assert radapt.load(out).image_size == (48, 48)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip", "file"]


def test_training_saves_a_folder_that_loads(tmp_path: Path) -> None:
    out = tmp_path / "clip"
    model = micro.train_clip(out, steps=2, batch_size=12, pool=24, quiet=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip"]  # no checkpoint is left
    again = radapt.load(out)
    pixels = load_dataset("shapes", n=3).pixels(range(3))
    assert torch.allclose(again.encode_image(pixels), model.encode_image(pixels), atol=0.05)
    assert again.image_size == (48, 48)
    assert (tuple(again.tower.mean), tuple(again.tower.std)) == ((0.5,) * 3, (0.125,) * 3)
    assert again.encode_text(["a red circle"]).shape == (1, 128)
    assert not model.model.training
    config = json.loads((out / "config.json").read_text())
    assert config["model_type"] == "clip"
    start = micro.build_model(len(micro.build_tokenizer()), 0).state_dict()
    assert not torch.allclose(start["visual_projection.weight"], again.model.state_dict()["visual_projection.weight"])
