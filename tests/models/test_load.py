from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import radapt
from radapt.errors import InputError, ModelError


@pytest.fixture
def folder(tiny_vlm: Any, tmp_path: Path) -> Path:
    tiny_vlm.save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def test_a_saved_folder_comes_back(tiny_vlm: Any, folder: Path) -> None:
    model = radapt.load(folder)
    assert (model.name, model.image_size) == (str(folder), (32, 32))
    assert not model.model.training
    assert not any(p.requires_grad for p in model.model.parameters())
    pixels, texts = torch.rand(2, 3, 32, 32), ["a red circle", "a photo of a star"]
    assert torch.equal(model.encode_image(pixels), tiny_vlm.encode_image(pixels))
    assert torch.equal(model.encode_text(texts), tiny_vlm.encode_text(texts))
    assert model.logit_scale == tiny_vlm.logit_scale
    assert (tuple(model.tower.mean), tuple(model.tower.std)) == ((0.5,) * 3, (0.25,) * 3)
    image = picture(50, 40)
    assert torch.equal(model.preprocess(image), tiny_vlm.preprocess(image))


def test_weights_can_be_stored_in_half_precision(tiny_vlm: Any, tmp_path: Path) -> None:
    tiny_vlm.save_pretrained(tmp_path / "half", dtype=torch.float16)
    model = radapt.load(tmp_path / "half")
    assert model.model.dtype == torch.float32
    weights = tiny_vlm.model.state_dict()
    assert all(torch.equal(value, weights[name].half().float()) for name, value in model.model.state_dict().items())
    assert radapt.load(tmp_path / "half", dtype=torch.bfloat16).model.dtype == torch.bfloat16
    assert next(tiny_vlm.model.parameters()).dtype == torch.float32


def test_embeddings_are_those_of_the_model_on_normalised_pixels(tiny_vlm: Any) -> None:
    pixels = torch.rand(2, 3, 32, 32)
    expected = tiny_vlm.model.get_image_features(pixel_values=(pixels - 0.5) / 0.25).pooler_output
    assert torch.allclose(tiny_vlm.encode_image(pixels), expected, atol=1e-5)


def test_images_of_another_size_work(tiny_vlm: Any) -> None:
    pixels = torch.rand(1, 3, 48, 40, requires_grad=True)
    features = tiny_vlm.model.vision_model(pixel_values=(pixels - 0.5) / 0.25, interpolate_pos_encoding=True)
    expected = tiny_vlm.model.visual_projection(features.pooler_output)
    embedding = tiny_vlm.encode_image(pixels)
    assert torch.allclose(embedding, expected, atol=1e-5)
    (gradient,) = torch.autograd.grad(embedding.sum(), pixels)
    assert gradient.abs().max() > 0


def test_gradients_of_embeddings_are_right(tiny_vlm: Any) -> None:
    pixels = torch.rand(1, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    tiny_vlm.model.double()
    direction = torch.randn_like(pixels)
    loss = lambda x: tiny_vlm.encode_image(x).square().sum()  # noqa: E731
    (gradient,) = torch.autograd.grad(loss(pixels), pixels)
    with torch.no_grad():
        numeric = (loss(pixels + 1e-5 * direction) - loss(pixels - 1e-5 * direction)) / 2e-5
    assert (gradient * direction).sum().item() == pytest.approx(numeric.item(), rel=1e-4)


@pytest.mark.parametrize(
    "pixels",
    [
        torch.rand(3, 32, 32),
        torch.rand(2, 1, 32, 32),
        torch.rand(2, 32, 32, 3),
        torch.zeros(2, 3, 32, 32, dtype=torch.uint8),
    ],
)
def test_wrong_pixels_are_refused(tiny_vlm: Any, pixels: torch.Tensor) -> None:
    normalize: Any = type(tiny_vlm).normalize
    while hasattr(normalize, "__wrapped__"):  # as a user meets it: without the checks of signatures that tests add
        normalize = normalize.__wrapped__
    with pytest.raises(InputError, match="batch x 3 x height x width"):
        normalize(tiny_vlm, pixels)


@pytest.mark.parametrize(
    ("width", "height", "mode"), [(80, 64, "RGB"), (33, 70, "L"), (20, 25, "RGB"), (40, 40, "RGBA")]
)
def test_preprocessing_resizes_and_crops_as_pil_does(tiny_vlm: Any, width: int, height: int, mode: str) -> None:
    image = picture(width, height, mode)
    pixels = tiny_vlm.preprocess(image)
    scale = 32 / min(width, height)
    size = (32, int(height * scale)) if width <= height else (int(width * scale), 32)
    resized = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - 32) // 2, (size[1] - 32) // 2
    expected = np.asarray(resized.crop((left, top, left + 32, top + 32))).transpose(2, 0, 1) / 255
    assert pixels.dtype == torch.float32
    np.testing.assert_allclose(pixels.numpy(), expected, atol=1e-6)


def test_a_classifier_is_the_unit_mean_of_unit_prompts(tiny_vlm: Any) -> None:
    prompts = [["a circle", "a photo of a circle"], ["a star"]]
    classifier = tiny_vlm.classifier(prompts)
    for row, texts in zip(classifier, prompts, strict=True):
        units = torch.stack([F.normalize(tiny_vlm.encode_text([text])[0].double(), dim=0) for text in texts])
        assert torch.allclose(row.double(), F.normalize(units.mean(0), dim=0), atol=1e-5)
    assert torch.allclose(classifier.norm(dim=1), torch.ones(2), atol=1e-6)
    with pytest.raises(InputError, match="at least one prompt"):
        tiny_vlm.classifier([["a circle"], []])


def test_logits_are_scaled_cosines(tiny_vlm: Any) -> None:
    pixels, texts = torch.rand(3, 3, 32, 32), ["a red circle", "a star"]
    tokens = tiny_vlm.tokenizer(texts, padding=True, return_tensors="pt")
    whole = tiny_vlm.model(
        input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=(pixels - 0.5) / 0.25
    )
    logits = tiny_vlm.logits(pixels, tiny_vlm.classifier([[text] for text in texts]))
    assert torch.allclose(logits, whole.logits_per_image, atol=1e-4)


def test_long_texts_are_cut_and_empty_ones_refused(tiny_vlm: Any) -> None:
    tiny_vlm.tokenizer.model_max_length = int(1e30)  # as of tokenizers that do not know the model
    assert tiny_vlm.encode_text(["a red circle " * 30]).shape == (1, 16)
    for texts in ([], [""], ["a circle", "  "]):
        with pytest.raises(InputError, match="non-empty"):
            tiny_vlm.encode_text(texts)


def test_a_model_object_is_wrapped_not_copied(tiny_vlm: Any, tiny_clip: Any) -> None:
    model = radapt.load(tiny_clip)
    assert model.model is tiny_clip
    assert model.name == "CLIPModel"
    assert model.encode_image(torch.rand(1, 3, 32, 32)).shape == (1, 16)
    with pytest.raises(ModelError, match=r"came without a tokenizer; pass one"):
        model.encode_text(["a circle"])
    with_text = radapt.load(tiny_clip, tokenizer=tiny_vlm.tokenizer)
    assert torch.equal(with_text.encode_text(["a circle"]), tiny_vlm.encode_text(["a circle"]))
    assert radapt.load(tiny_vlm) is tiny_vlm


def test_a_vision_tower_alone_is_not_a_vlm(tiny_clip: Any, folder: Path) -> None:
    from transformers import CLIPVisionModel

    vision = CLIPVisionModel(tiny_clip.config.vision_config)
    with pytest.raises(ModelError, match=r"'clip_vision_model' cannot be loaded"):
        radapt.load(vision)
    vision.save_pretrained(folder)
    with pytest.raises(ModelError, match=r"'clip_vision_model' cannot be loaded"):
        radapt.load(folder)


@pytest.mark.parametrize("family", ["linear", "llava"])
def test_families_that_cannot_be_loaded_are_refused(tiny_llava: Any, family: str) -> None:
    with pytest.raises(ModelError, match=r"cannot be loaded by radapt.load.*Allowed: .*clip, open_clip, siglip"):
        radapt.load(nn.Linear(2, 2) if family == "linear" else tiny_llava)


def test_unknown_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights" / "clip").mkdir(parents=True)
    (tmp_path / "weights" / "clip" / "config.json").write_text("{}")
    monkeypatch.setattr("radapt.models._MICRO", tmp_path / "weights")
    with pytest.raises(ModelError, match=r"unknown model 'micro/clop'; did you mean 'micro/clip'"):
        radapt.load("micro/clop")
    with pytest.raises(ModelError, match=r"'no-such-model': neither a folder nor a name on the hub"):
        radapt.load("no-such-model")
    with pytest.raises(ModelError, match="neither a folder"):
        radapt.load(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"cannot fetch 'someone/something' from the hub"):
        radapt.load("someone/something")


@pytest.mark.parametrize("text", [None, "", "{}", "[]", "3", '{"model_type"'])
def test_a_folder_without_a_readable_config_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"no readable config.json"):
        radapt.load(tmp_path)


def test_a_folder_of_another_family_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "clap"}))
    with pytest.raises(ModelError, match=r"'clap' cannot be loaded.*did you mean 'clip'"):
        radapt.load(folder)


def test_a_tokenizer_that_did_not_really_load_is_refused(folder: Path) -> None:
    from tokenizers import Tokenizer, models

    for path in folder.glob("*token*"):
        path.unlink()
    broken = Tokenizer(models.WordLevel({"<unk>": 0, "<end>": 1}, unk_token="<unk>"))
    broken.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(ModelError, match=r"has 2 entries where the model expects 80"):
        radapt.load(folder)


@pytest.mark.parametrize("size", [0, 100, -1])
def test_truncated_weights_are_refused(folder: Path, size: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ModelError, match="cannot load"):
        radapt.load(folder)


def test_missing_weights_are_never_made_up(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights["visual_projection.weight"]
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(ModelError, match=r"visual_projection.weight"):
        radapt.load(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "preprocessor_config.json"])
def test_a_missing_file_is_an_error(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelError, match="cannot load"):
        radapt.load(folder)
