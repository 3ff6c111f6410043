from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)
from PIL import Image
from tests.models.generative import BUILDERS
from tests.tiny import tiny_clip
from torch import nn

import radapt
from radapt.errors import InputError, ModelError, SettingsError, UnknownModelError
from radapt.models import estimate


@pytest.fixture
def folder(tiny_vlm: Any, tmp_path: Path) -> Path:
    tiny_vlm.save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


def photo(width: int, height: int, mode: str = "RGB") -> Image.Image:
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
    image = photo(50, 40)
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
    image = photo(width, height, mode)
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
    model: Any = radapt.load(tiny_clip, processor=tiny_vlm.processor)
    assert model.model is tiny_clip
    assert model.name == "CLIPModel"
    assert model.encode_image(torch.rand(1, 3, 32, 32)).shape == (1, 16)
    with pytest.raises(ModelError, match=r"came without a tokenizer; pass one"):
        model.encode_text(["a circle"])
    with_text: Any = radapt.load(tiny_clip, tokenizer=tiny_vlm.tokenizer, processor=tiny_vlm.processor)
    assert torch.equal(with_text.encode_text(["a circle"]), tiny_vlm.encode_text(["a circle"]))
    assert radapt.load(tiny_vlm) is tiny_vlm
    with pytest.raises(ModelError, match=r"tiny/clip is loaded already, with its tokenizer and processor"):
        radapt.load(tiny_vlm, processor=tiny_vlm.processor)


def test_a_model_object_is_normalised_by_the_processor_that_is_given(tiny_vlm: Any, tiny_clip: Any) -> None:
    pixels, image = torch.rand(2, 3, 32, 32), photo(50, 40)
    both = SimpleNamespace(image_processor=tiny_vlm.processor)  # as a CLIPProcessor holds it
    for processor in (tiny_vlm.processor, both):
        model = radapt.load(tiny_clip, processor=processor)
        assert (tuple(model.tower.mean), tuple(model.tower.std)) == ((0.5,) * 3, (0.25,) * 3)
        assert torch.equal(model.encode_image(pixels), tiny_vlm.encode_image(pixels))
        assert torch.equal(model.preprocess(image), tiny_vlm.preprocess(image))
    with pytest.raises(ModelError, match=r"must have an image_mean and an image_std, got SimpleNamespace"):
        radapt.load(tiny_clip, processor=SimpleNamespace())


def test_a_model_object_finds_the_processor_beside_its_weights(tiny_vlm: Any, folder: Path) -> None:
    from transformers import CLIPModel

    pixels = torch.rand(2, 3, 32, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = radapt.load(CLIPModel.from_pretrained(folder))
    assert model.name == str(folder)
    assert torch.equal(model.encode_image(pixels), tiny_vlm.encode_image(pixels))
    (folder / "preprocessor_config.json").unlink()
    with pytest.warns(UserWarning, match=r"came without an image processor"):
        radapt.load(CLIPModel.from_pretrained(folder))


@pytest.mark.parametrize("kind", ["tiny_clip", "tiny_llava", "tiny_qwen"])
def test_a_normalisation_that_is_a_guess_is_warned_about(kind: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(kind)
    with pytest.warns(UserWarning, match=r"mean 0\.\d+, .* trained with others, .*load\(model, processor=") as caught:
        radapt.load(model, name="mine")
    (warning,) = caught
    assert str(warning.message).startswith("mine came without an image processor: ")


def test_a_processor_replaces_the_one_beside_the_weights(tiny_vlm: Any, folder: Path) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(**{**tiny_vlm.processor.to_dict(), "image_std": [0.5] * 3})
    model = radapt.load(folder, processor=processor)
    assert tuple(model.tower.std) == (0.5,) * 3


def test_reports_call_a_model_as_the_user_does(tiny_vlm: Any, tiny_clip: Any, folder: Path) -> None:
    assert radapt.load(folder, name="mine").name == "mine"
    assert radapt.load(tiny_clip, name="mine", processor=tiny_vlm.processor).name == "mine"
    assert radapt.load(tiny_vlm, name="mine").name == "mine"


def test_a_model_says_what_it_is(tiny_vlm: Any) -> None:
    millions = sum(parameter.numel() for parameter in tiny_vlm.model.parameters()) / 1e6
    short = f"DualEncoder('tiny/clip', 32 x 32 px, {millions:.3g} M parameters"
    assert repr(tiny_vlm) == f"{short})"
    tiny_vlm.input_transform = torch.round
    assert repr(tiny_vlm) == f"{short}, defended)"


def test_a_vision_tower_alone_is_not_a_vlm(tiny_clip: Any, folder: Path) -> None:
    from transformers import CLIPVisionModel

    vision = CLIPVisionModel(tiny_clip.config.vision_config)
    with pytest.raises(ModelError, match=r"'clip_vision_model' cannot be loaded"):
        radapt.load(vision)
    vision.save_pretrained(folder)
    with pytest.raises(ModelError, match=r"'clip_vision_model' cannot be loaded"):
        radapt.load(folder)


def test_families_that_cannot_be_loaded_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'Linear' cannot be loaded by radapt.load.*Allowed: .*clip, .*open_clip"):
        radapt.load(nn.Linear(2, 2))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')  # a language model, without a vision tower
    with pytest.raises(ModelError, match=r"'llama' cannot be loaded.*did you mean 'llava'.*Allowed: .*qwen3_vl"):
        radapt.load(tmp_path)


def test_unknown_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights" / "clip").mkdir(parents=True)
    (tmp_path / "weights" / "clip" / "config.json").write_text("{}")
    monkeypatch.setattr("radapt.models._source.MICRO", tmp_path / "weights")
    with pytest.raises(ModelError, match=r"unknown model 'micro/clop'; did you mean 'micro/clip'"):
        radapt.load("micro/clop")
    for name in ("micro/clip+micro/shallow", "clip+micro/shallow", "own/clip+micro/shallow"):
        with pytest.raises(
            ModelError, match=r"load '(micro/|own/)?clip', then attach .*from_pretrained\('micro/shallow'\)"
        ):
            radapt.load(name)
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


def test_tensors_without_a_place_are_told_once(
    folder: Path, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    weights = load_file(path)
    save_file({**weights, **{f"adapter.{i}": torch.zeros(1) for i in range(5)}}, path, {"format": "pt"})
    model = radapt.load(folder)
    assert [str(warning.message) for warning in recwarn] == [
        f"the weights of {str(folder)!r} have 5 tensors that the model has no place for "
        "(adapter.0, adapter.1, adapter.2); they are left out"
    ]
    assert "UNEXPECTED" not in caplog.text  # transformers' own report of the same
    assert model.encode_image(torch.rand(1, 3, 32, 32)).shape == (1, 16)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_dtype_is_given_by_name(folder: Path, name: str) -> None:
    assert radapt.load(folder, dtype=name).model.dtype == getattr(torch, name)


def test_an_unknown_dtype_gets_the_nearest(folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"unknown dtype 'bf16'; did you mean 'bfloat16'\? Allowed: bfloat16, fl"):
        radapt.load(folder, dtype="bf16")


def test_checkpointing_is_for_models_that_generate_text(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"does not generate text; gradient_checkpointing is for a LLaVA or Qwen-VL"):
        radapt.load(folder, gradient_checkpointing=True)
    saved = BUILDERS["llava"](tmp_path / "llava")
    pixels, prompts, answers = torch.rand(1, 3, 48, 48, requires_grad=True), ["what is it?"], ["a circle"]
    gradients = []
    for wanted in (False, True):
        model: Any = radapt.load(saved, gradient_checkpointing=wanted)
        assert model.gradient_checkpointing is wanted
        gradients.append(torch.autograd.grad(model.answer_loss(pixels, prompts, answers).sum(), pixels)[0])
    assert torch.allclose(*gradients, atol=1e-6)
    again: Any = radapt.load(radapt.load(saved).model, gradient_checkpointing=True)
    assert again.gradient_checkpointing


@pytest.mark.parametrize("kind", ["llava", "qwen3_vl"])
def test_a_device_map_places_the_model(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate")
    saved = BUILDERS[kind](tmp_path)

    def moved(self: Any, device: Any) -> Any:
        raise AssertionError("a model with a device map must not be moved")

    plain = radapt.load(saved)
    monkeypatch.setattr("radapt.models._vlm.VLM.to", moved)
    model = radapt.load(saved, device_map="cpu", dtype="float32")
    assert model.device.type == "cpu"
    assert not model.model.training
    assert not any(p.requires_grad for p in model.model.parameters())
    pixels = torch.rand(1, 3, *model.image_size)
    assert torch.equal(model.encode_image(pixels), plain.encode_image(pixels))


def test_a_model_that_would_be_offloaded_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlavaForConditionalGeneration

    saved = BUILDERS["llava"](tmp_path)
    map_ = {"model.vision_tower": 0, "model.language_model": "cpu", "lm_head": "disk"}
    monkeypatch.setattr(LlavaForConditionalGeneration, "hf_device_map", map_, raising=False)
    with pytest.raises(ModelError, match=r"does not fit onto the devices here.*parts of it on 0 and cpu and disk"):
        radapt.load(saved, device_map="cpu")


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there_is_refused(folder: Path, device: str) -> None:
    with pytest.raises(ModelError, match=rf"no device '{device}' here.*Allowed: cpu"):
        radapt.load(folder, device=device)


def test_a_device_map_that_cannot_be(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"type 'clip'; device_map is for llava, llava_next, qwen2_5_vl, qwen3_vl"):
        radapt.load(folder, device_map="auto")
    with pytest.raises(ModelError, match="a model object is where it is"):
        radapt.load(nn.Linear(2, 2), device_map="auto")
    saved = BUILDERS["llava"](tmp_path / "llava")
    with pytest.raises(ModelError, match="give either device or device_map, got 'meta' and 'auto'"):
        radapt.load(saved, device="meta", device_map="auto")
    with pytest.raises(ModelError, match=r"no device 'atuo' here; did you mean 'auto'\? Allowed: auto, balanced,"):
        radapt.load(saved, device_map="atuo")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r'needs accelerate: pip install "radapt\[large\]"'):
        radapt.load(saved, device_map="auto")


class Hub:
    """In the place of ``hf_hub_download``: a repository with some files, or an error for each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, files: Path | None = None, error: Exception | None = None):
        self.files, self.error = files, error
        self.asked: list[tuple[str, str]] = []
        monkeypatch.setattr("huggingface_hub.hf_hub_download", self)

    def __call__(self, repository: str, file: str, *, local_files_only: bool = False) -> str:
        self.asked.append((repository, file))
        if self.error is not None:
            raise self.error
        assert self.files is not None
        if not (self.files / file).exists():
            raise RemoteEntryNotFoundError("404 Client Error.", response=answer(404))
        return str(self.files / file)


def answer(status: int) -> Any:
    """As much of a response as errors read; its class hangs on the version of huggingface_hub."""
    return SimpleNamespace(status_code=status, headers={}, request=None)


def test_an_open_clip_repository_needs_no_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.models.openclip import CLIP, MODEL_CFG
    from tests.models.test_open_clip import folder as published

    files = published(CLIP(MODEL_CFG), tmp_path / "files")
    hub = Hub(monkeypatch, files)
    tokenizer = radapt.load(files).tokenizer  # type: ignore[attr-defined]
    model = radapt.load("someone/something", tokenizer=tokenizer)
    assert hub.asked[0] == ("someone/something", "config.json")
    assert model.name == "someone/something"
    pixels = torch.rand(1, 3, *model.image_size)
    assert torch.equal(model.encode_image(pixels), radapt.load(files).encode_image(pixels))
    assert estimate("someone/something").parameters == sum(p.numel() for p in model.model.parameters())


def test_what_keeps_a_model_from_being_fetched_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Hub(monkeypatch, tmp_path)
    with pytest.raises(
        ModelError, match=r"neither config.json nor open_clip_config.json at https://huggingface.co/some"
    ):
        radapt.load("someone/something")
    files = r"pass a local folder with config.json, model.safetensors, .*of open_clip: open_clip_config.json"
    Hub(monkeypatch, error=GatedRepoError("403 Client Error.", response=answer(403)))
    with pytest.raises(ModelError, match=rf"'someone/something'.* is gated.*set HF_TOKEN.*{files}"):
        radapt.load("someone/something")
    Hub(monkeypatch, error=RepositoryNotFoundError("404 Client Error.", response=answer(404)))
    with pytest.raises(UnknownModelError, match=r"no repository https://.*or it is private \(then set HF_TOKEN\)"):
        radapt.load("someone/something")
    hub = Hub(monkeypatch, error=LocalEntryNotFoundError("An error happened."))
    with pytest.raises(ModelError, match=rf"cannot be reached.*set HF_HOME to a filled cache, or {files}.*HF_TOKEN"):
        radapt.load("someone/something")
    assert [file for _, file in hub.asked] == ["config.json", "open_clip_config.json"]
    Hub(monkeypatch, error=HfHubHTTPError("500 Server Error.", response=answer(500)))
    with pytest.raises(ModelError, match=rf"cannot fetch 'someone/something' from the hub: 500 Server Error.*{files}"):
        radapt.load("someone/something")
    Hub(monkeypatch, error=HFValidationError("Repo id must not contain '--'."))
    with pytest.raises(ModelError, match=r"cannot fetch 'so--me/thing' from the hub: Repo id must not"):
        radapt.load("so--me/thing")


def test_a_model_of_two_encoders_without_an_image_processor_normalises_and_says_what_it_lacks() -> None:
    from radapt.models import DualEncoder
    from radapt.models.hf_clip import tower

    whole = tiny_clip()
    bare = DualEncoder("bare", whole.model, whole.tokenizer, None, tower=tower)
    assert bare.tower.mean == tower(whole.model).mean
    assert bare.encode_image(torch.rand(2, 3, 48, 48)).isfinite().all()
    with pytest.raises(ModelError, match="came without an image processor"):
        bare.preprocess(Image.new("RGB", (60, 48)))


def test_a_model_object_stays_where_it_is(tiny_vlm: Any, tiny_clip: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = list[object]()

    def to(self: Any, device: object) -> Any:
        moved.append(device)
        return self

    monkeypatch.setattr(type(tiny_vlm), "to", to)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        radapt.load(tiny_clip)
        radapt.graft(tiny_clip, type(tiny_clip)(tiny_clip.config))
        radapt.adapt("training-free", tiny_clip)
        assert moved == []
        radapt.load(tiny_clip, device="cpu")
    assert moved == ["cpu"]
