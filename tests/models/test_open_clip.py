"""open_clip's checkpoints and live objects, beside the reference and open_clip itself."""

from __future__ import annotations

import copy
import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.models.openclip import CLIP, MODEL_CFG, open_clip
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

import radapt
from radapt.errors import AdapterError, ModelError, UnknownModelError

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture
def reference() -> CLIP:
    return CLIP()


def folder(reference: CLIP, path: Path, *, cfg: dict[str, Any] = MODEL_CFG, **weights: Tensor) -> Path:
    """A checkpoint as open_clip publishes it, with a tokenizer whose end token is the largest."""
    path.mkdir()
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": preprocess}))
    save_file({**reference.state_dict(), **weights}, path / "open_clip_model.safetensors")
    tokenizer().save_pretrained(path)
    return path


def tokenizer() -> PreTrainedTokenizerFast:
    """Words by number, padded with 0; as in CLIP's own, the end of a text is the largest token."""
    words = {"<pad>": 0, **{word: i for i, word in enumerate(["a", "red", "blue", "circle", "star"], 1)}}
    words |= {f"word{i}": i for i in range(len(words), 78)} | {"<start>": 78, "<end>": 79}
    inner = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("<start>", 78), ("<end>", 79)]
    inner.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<end>")


def encoded(texts: list[str]) -> Tensor:
    """Texts as open_clip's tokenizers return them."""
    ids: Tensor = tokenizer()(texts, padding="max_length", max_length=12, return_tensors="pt")["input_ids"]
    return ids


def tokens() -> Tensor:
    text = torch.randint(4, 70, (5, 12), generator=torch.Generator().manual_seed(1))
    for row, end in enumerate((3, 11, 7, 1, 9)):
        text[row, end] = 79
        text[row, end + 1 :] = 0
    return text


def assert_equal(model: radapt.VLM, reference: CLIP) -> None:
    pixels = torch.rand(4, 3, 32, 32)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        assert (model.encode_image(pixels) - reference.encode_image((pixels - mean) / std)).abs().max() < 1e-5
        ours = model.model.get_text_features(input_ids=tokens()).pooler_output
        assert (ours - reference.encode_text(tokens())).abs().max() < 1e-5
    assert model.logit_scale == pytest.approx(20)


@pytest.mark.parametrize("quick", [True, False])
def test_a_folder_gives_the_reference_s_embeddings(tmp_path: Path, quick: bool) -> None:
    cfg = {**MODEL_CFG, "quick_gelu": quick}
    reference = CLIP(cfg)
    model = radapt.load(folder(reference, tmp_path / "m", cfg=cfg))
    assert_equal(model, reference)
    assert model.model.config.vision_config.hidden_act == ("quick_gelu" if quick else "gelu")
    # With the other activation it would be another model.
    other = CLIP({**cfg, "quick_gelu": not quick})
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert (other.encode_image(pixels) - reference.encode_image(pixels)).abs().max() > 1e-3


def test_pytorch_files_load_and_what_holds_code_does_not(reference: CLIP, tmp_path: Path) -> None:
    path = folder(reference, tmp_path / "m")
    (path / "open_clip_model.safetensors").unlink()
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in reference.state_dict().items()}}, path / "a.pt")
    (path / "a.pt").rename(path / "open_clip_pytorch_model.bin")
    assert_equal(radapt.load(path), reference)
    torch.save(reference, path / "open_clip_pytorch_model.bin")
    with pytest.raises(ModelError, match="nothing is ever unpickled"):
        radapt.load(path)
    (path / "open_clip_pytorch_model.bin").write_bytes(b"no weights")
    with pytest.raises(ModelError, match=r"open_clip_pytorch_model\.bin"):
        radapt.load(path)


def test_a_vision_tower_alone_takes_the_text_encoder_of_its_base(reference: CLIP, tmp_path: Path) -> None:
    base = radapt.load(folder(reference, tmp_path / "base"))
    robust = CLIP()
    with torch.no_grad():
        for parameter in robust.visual.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    for number, weights in enumerate(
        (robust.visual.state_dict(), {f"visual.{k}": v for k, v in robust.visual.state_dict().items()})
    ):
        file = tmp_path / f"robust{number}.pt"
        torch.save(weights, file)
        model = radapt.load(file, base=base)
        assert_equal(model, robust)
    # The base is as it was.
    assert_equal(base, reference)
    with radapt.training_free(base).attach(base):
        assert_equal(radapt.load(file, base=base), robust)  # its adapter stays its own
        assert base.defended
    whole = tmp_path / "whole.safetensors"
    save_file(robust.state_dict(), whole)
    assert_equal(radapt.load(whole, base=tmp_path / "base"), robust)


def test_text_encoders_of_their_own_module_load(reference: CLIP, tmp_path: Path) -> None:
    path = folder(reference, tmp_path / "m")
    apart = ("visual.", "logit_scale")
    weights = {(k if k.startswith(apart) else f"text.{k}"): v for k, v in reference.state_dict().items()}
    save_file(weights, path / "open_clip_model.safetensors")
    assert_equal(radapt.load(path), reference)


def test_faulty_checkpoints_are_refused(reference: CLIP, tmp_path: Path) -> None:
    weights = dict(reference.state_dict())
    first = "visual.transformer.resblocks.0.attn.in_proj_weight"
    save_file({k: v for k, v in weights.items() if k != first}, tmp_path / "a.safetensors")
    base = radapt.load(folder(reference, tmp_path / "base"))
    with pytest.raises(ModelError, match=r"lack 3 tensors \(vision_model.encoder.layers.0.self_attn.k_proj.weight"):
        radapt.load(tmp_path / "a.safetensors", base=base)
    with pytest.raises(ModelError, match=r"have besides 1 tensors \(visual.transformer.resblocks.0.ls_1.gamma"):
        radapt.load(folder(reference, tmp_path / "b", **{"visual.transformer.resblocks.0.ls_1.gamma": torch.ones(3)}))
    with pytest.raises(ModelError, match=r"in another shape 1 tensors \(vision_model.embeddings.class_embedding"):
        radapt.load(folder(reference, tmp_path / "c", **{"visual.class_embedding": torch.ones(3)}))
    with pytest.raises(ModelError, match="name the CLIP that it was trained from"):
        radapt.load(tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match="base is for a file of weights"):
        radapt.load("micro/clip", base=base)
    with pytest.raises(UnknownModelError, match="there is no file"):
        radapt.load(tmp_path / "absent.pt", base=base)
    odd = {**MODEL_CFG, "vision_cfg": {"timm_model_name": "vit", "layers": 2}}
    with pytest.raises(ModelError, match=r"only plain CLIP models.*timm_model_name"):
        radapt.load(folder(reference, tmp_path / "d", cfg=odd))
    path = folder(reference, tmp_path / "e")
    (path / "open_clip_model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no weights; expected is one of"):
        radapt.load(path)
    path = folder(reference, tmp_path / "f")
    (path / "open_clip_config.json").write_text("{}")
    with pytest.raises(ModelError, match="lacks model_cfg"):
        radapt.load(path)
    (path / "open_clip_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"has no readable open_clip_config\.json"):
        radapt.load(path)
    with pytest.raises(ModelError, match=r"cannot fetch 'hf-hub:chs20/fare4-clip' from the hub.*HF_TOKEN"):
        radapt.load("hf-hub:chs20/fare4-clip")


def test_without_a_tokenizer_it_says_what_to_pass(reference: CLIP, tmp_path: Path) -> None:
    path = folder(reference, tmp_path / "m")
    for file in path.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match="comes without a tokenizer; pass one"):
        radapt.load(path)
    model = radapt.load(path, tokenizer=tokenizer())
    text = torch.tensor([[78, 1, 2, 4, 79], [78, 3, 5, 79, 0]])
    with torch.no_grad():
        expected = reference.encode_text(text)
    assert (model.encode_text(["a red circle", "blue star"]) - expected).abs().max() < 1e-5


def test_an_adapter_and_an_attack_work_through_it(reference: CLIP, tmp_path: Path) -> None:
    model = radapt.load(folder(reference, tmp_path / "m"))
    pixels, classifier = torch.rand(3, 3, 32, 32), model.classifier([["a red circle"], ["a blue star"]])
    with radapt.training_free(model, alpha=0.3).attach(model):
        labels = model.logits(pixels, classifier).argmax(1)
        outcome = radapt.attack(
            lambda x: model.logits(x, classifier), pixels, labels, attack="pgd", eps=16 / 255, loss="margin", quiet=True
        )
    assert outcome.loss_rose.all()


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("custom_text", [False, True])
def test_open_clip_itself_agrees(tmp_path: Path, quick: bool, custom_text: bool) -> None:
    package, cfg = open_clip(), {**MODEL_CFG, "quick_gelu": quick}
    reference = CLIP(cfg)
    # It reads the folder that these tests write, as the model that they compare with.
    theirs = package.create_model(
        f"local-dir:{folder(reference, tmp_path / 'm', cfg=cfg)}", force_custom_text=custom_text
    )
    assert type(theirs).__name__ == ("CustomTextCLIP" if custom_text else "CLIP")
    theirs.eval()
    pixels = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        assert (theirs.encode_image(pixels) - reference.encode_image(pixels)).abs().max() < 1e-5
        assert (theirs.encode_text(tokens()) - reference.encode_text(tokens())).abs().max() < 1e-5
    # And what it writes is read here, as is the object itself.
    hub = importlib.import_module("open_clip.push_to_hf_hub")
    hub.save_for_hf(theirs, tokenizer(), cfg, tmp_path / "theirs", safe_serialization=True)
    converted, live = radapt.load(tmp_path / "theirs"), radapt.load(theirs, tokenizer=encoded)
    assert_equal(converted, theirs)
    texts = ["a red circle", "blue star", "star"]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        images, words = theirs.encode_image((pixels - mean) / std), theirs.encode_text(encoded(texts))
        for model in (converted, live):
            assert (model.encode_image(pixels) - images).abs().max() < 1e-5
            assert (model.encode_text(texts) - words).abs().max() < 1e-5
            assert model.logit_scale == pytest.approx(20)


def test_an_adapter_does_the_same_to_open_clip_s_object_and_to_its_checkpoint(tmp_path: Path) -> None:
    path = folder(CLIP(), tmp_path / "m")
    theirs = open_clip().create_model(f"local-dir:{path}").eval()
    pixels, adapted, gradients = torch.rand(3, 3, 32, 32), [], []
    for model in (radapt.load(theirs), radapt.load(path)):
        x = pixels.clone().requires_grad_()
        with radapt.training_free(model, alpha=0.4, mix="interpolate").attach(model):
            features = model.encode_image(x)
        assert (features - model.encode_image(pixels)).abs().max() > 1e-2
        features.square().sum().backward()
        adapted.append(features.detach())
        gradients.append(x.grad)
    assert (adapted[0] - adapted[1]).abs().max() < 1e-4
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3 * float(gradients[0].abs().max()))


@pytest.mark.filterwarnings("ignore:.*came without an image processor:UserWarning")
@pytest.mark.parametrize("custom_text", [False, True])
def test_no_images_go_past_the_adapter_of_a_live_object(tmp_path: Path, custom_text: bool) -> None:
    path = folder(CLIP(), tmp_path / "m")
    theirs = open_clip().create_model(f"local-dir:{path}", force_custom_text=custom_text).eval()
    pixels = torch.rand(2, 3, 32, 32)
    before, own = theirs.forward_intermediates(pixels)["image_features"], dict(vars(theirs.visual))
    with radapt.training_free(theirs, alpha=0.0).attach(theirs):
        copied = copy.deepcopy(theirs)
        for model in (theirs, copied):
            for module in (model, model.visual):
                with pytest.raises(AdapterError, match=r"forward_intermediates takes images past the adapter"):
                    module.forward_intermediates(pixels)
    assert vars(theirs.visual).keys() == own.keys()
    assert torch.equal(theirs.forward_intermediates(pixels)["image_features"], before)
    assert radapt.detach(copied)
    assert torch.equal(copied.forward_intermediates(pixels)["image_features"], before)


def test_a_live_object_is_normalised_by_what_is_given() -> None:
    steps = SimpleNamespace(transforms=[SimpleNamespace(size=32), SimpleNamespace(mean=MEAN, std=STD)])
    images = SimpleNamespace(image_mean=MEAN, image_std=STD)
    for processor in (steps, images, SimpleNamespace(image_processor=images)):  # open_clip's transform, and others
        tower = radapt.load(CLIP(), processor=processor).tower
        assert (tower.mean, tower.std) == (MEAN, STD)
    for read in (radapt.load, radapt.training_free):
        live: Any = CLIP()
        with pytest.warns(
            UserWarning, match=r"CLIP came without an image processor: .* mean 0.4815, 0.4578, 0.4082 and"
        ):
            read(live)
        live.visual.image_mean, live.visual.image_std = MEAN, STD  # and says so itself: nothing to warn of
        read(live)


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_live_object_behaves_as_its_checkpoint(tmp_path: Path, batch_first: bool) -> None:
    live = CLIP(batch_first=batch_first)
    live.visual.image_mean, live.visual.image_std = MEAN, STD
    converted = radapt.load(folder(live, tmp_path / "m"))
    model = radapt.load(live, tokenizer=encoded)
    pixels, texts = torch.rand(3, 3, 32, 32), ["a red circle", "blue star"]
    adapters = [radapt.training_free(each, alpha=0.4, mix="interpolate") for each in (model, converted)]
    with torch.no_grad():
        assert (model.encode_text(texts) - converted.encode_text(texts)).abs().max() < 1e-5
        bare = model.encode_image(pixels)
        assert (bare - converted.encode_image(pixels)).abs().max() < 1e-5
        with adapters[0].attach(model), adapters[1].attach(converted):
            adapted = model.encode_image(pixels)
            assert (adapted - converted.encode_image(pixels)).abs().max() < 1e-4
            assert (adapted - bare).abs().max() > 1e-2
        assert torch.equal(model.encode_image(pixels), bare)
        # One file serves both.
        adapters[1].save_pretrained(tmp_path / "adapter")
        with radapt.Adapter.from_pretrained(tmp_path / "adapter").attach(live):
            assert (model.encode_image(pixels) - adapted).abs().max() < 1e-4
    assert (model.tower.grid, model.tower.width, model.tower.tokens) == ((4, 4), 128, 17)
    assert set(model.image_parameters()) == {name for name, _ in live.named_parameters() if name.startswith("visual.")}
    with pytest.raises(ModelError, match="came without a tokenizer"):
        radapt.load(live).encode_text(texts)
    live.visual = torch.nn.Linear(2, 2)
    with pytest.raises(ModelError, match="with a Linear cannot carry an adapter"):
        radapt.training_free(live)
