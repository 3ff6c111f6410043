"""Configurations of open_clip, its own ones and others: what loads gives open_clip's embeddings, or is refused."""

from __future__ import annotations

import copy
import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.openclip import MODEL_CFG, open_clip
from tests.models.test_open_clip import MEAN, STD, encoded, tokenizer
from torch import Tensor, nn

import radapt
from radapt.errors import ModelError
from radapt.models import estimate
from radapt.models._open_clip_config import config_of

END = 79
ADVICE = r"build it with open_clip and pass the object: radapt\.load\(open_clip\.create_model"


def shipped() -> dict[str, Any]:
    """The configurations that come with open_clip."""
    folder = Path(open_clip().__file__).parent / "model_configs"
    return {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}


def shrunk(cfg: dict[str, Any]) -> dict[str, Any]:
    """The same settings, but for sizes."""
    small = copy.deepcopy(cfg)
    vision, text = small["vision_cfg"], small["text_cfg"]
    small["embed_dim"] = 24
    vision.update(image_size=32)
    if not vision.get("timm_model_name"):
        vision.update(width=128)
        vision.update(
            {"layers": [1, 1, 1, 1]} if isinstance(vision["layers"], list) else {"layers": 2, "patch_size": 8}
        )
        vision.pop("head_width", None)
    if not text.get("hf_model_name"):
        text.update(context_length=12, vocab_size=80, width=64, heads=4, layers=2)
    return small


def flags(cfg: dict[str, Any]) -> str:
    """What tells a shrunken configuration from others, but for the names of encoders and tokenizers."""
    plain = copy.deepcopy(cfg)
    for part in plain.values():
        for key in ("timm_model_name", "hf_model_name", "hf_tokenizer_name"):
            if isinstance(part, dict) and key in part:
                part[key] = "some"
    return json.dumps(plain, sort_keys=True)


def built(cfg: dict[str, Any]) -> Any:
    """open_clip's own model, with random weights that are not those it begins with."""
    settings = copy.deepcopy(cfg)
    kind = open_clip().CustomTextCLIP if settings.pop("custom_text", False) else open_clip().CLIP
    torch.manual_seed(0)
    model = kind(**settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(2).add_(0.1 * torch.randn_like(parameter))
            if "ln_" in name or "norm" in name:
                parameter.add_(0.3)
        model.logit_scale.fill_(2.0)
    model.visual.image_mean, model.visual.image_std = MEAN, STD
    return model.eval()


def saved(model: nn.Module | None, cfg: dict[str, Any], folder: Path) -> Path:
    """A folder in open_clip's own format."""
    hub = importlib.import_module("open_clip.push_to_hf_hub")
    if model is None:
        folder.mkdir()
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg}))
        (folder / "open_clip_model.safetensors").write_bytes(b"")
    else:
        hub.save_for_hf(model, tokenizer(), cfg, folder, safe_serialization=True)
    return folder


def assert_open_clip_s(model: Any, theirs: Any) -> None:
    """Image and text embeddings are those of open_clip's own forward pass, and tell images and texts apart."""
    pixels, texts = torch.rand(3, 3, 32, 32), ["a red circle", "blue star", "star"]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        images, words = theirs.encode_image((pixels - mean) / std), theirs.encode_text(encoded(texts))
        for ours, expected in ((model.encode_image(pixels), images), (model.encode_text(texts), words)):
            assert (ours - expected).abs().max() < 1e-5 * max(1, expected.abs().max())
            assert (expected - expected[0])[1:].abs().amax(1).min() > 1e-3


@pytest.mark.slow
def test_every_configuration_of_open_clip_is_its_own_model_or_refused(tmp_path: Path) -> None:
    loaded, refused = 0, 0
    groups = {flags(cfg): (name, cfg) for name, cfg in ((n, shrunk(c)) for n, c in shipped().items())}
    assert len(groups) > 20
    for name, cfg in groups.values():
        whole = cfg["vision_cfg"].get("timm_model_name") is None and cfg["text_cfg"].get("hf_model_name") is None
        own = whole and "multimodal_cfg" not in cfg
        own &= cfg["text_cfg"].get("eos_id") is None  # there, tokens of the tests' tokenizer are no ends
        theirs = built(cfg) if own else None
        path = saved(theirs, cfg, tmp_path / name)
        try:
            model, message = radapt.load(path), ""
        except ModelError as error:
            model, message = None, str(error)
        if model is not None:
            loaded += 1
            assert theirs is not None
            assert_open_clip_s(model, theirs)
            continue
        refused += 1
        named = [key for part in (cfg, *cfg.values()) if isinstance(part, dict) for key in part]
        assert "only plain CLIP models" in message
        assert any(f"{key} " in message.partition("this one has ")[2] for key in named)
        if "build it with open_clip" in message and theirs is not None:
            assert_open_clip_s(radapt.load(theirs, tokenizer=encoded), theirs)
    assert loaded >= 2
    assert refused > 15


@pytest.mark.slow
def test_configurations_of_open_clip_in_their_own_size() -> None:
    names = dict.fromkeys(shipped(), "")
    for name, cfg in shipped().items():
        try:
            config_of({"model_cfg": cfg}, name)
        except ModelError as error:
            names[name] = str(error)
    assert {name for name, error in names.items() if not error} == {
        name for name, cfg in shipped().items()
        if not {*cfg["vision_cfg"], *cfg["text_cfg"], *cfg} & {
            "timm_model_name", "hf_model_name", "multimodal_cfg", "pool_type", "no_ln_pre", "ls_init_value"
        } and not isinstance(cfg["vision_cfg"]["layers"], list)
    }  # fmt: skip
    for name, setting in {
        "ViT-H-14-worldwide": "text_cfg.eos_id 2",
        "ViT-bigG-14-worldwide-378": "text_cfg.eos_id 2",
        "ViT-L-14-worldwide": "text_cfg.tokenizer_kwargs",
        "ViT-L-14-CLIPA": 'vision_cfg.pool_type "avg"',
        "ViT-M-16-alt": "vision_cfg.ls_init_value 0.0001",
        "RN50": "vision_cfg.layers [3, 4, 6, 3]",
        "coca_ViT-L-14": "multimodal_cfg",
        "xlm-roberta-base-ViT-B-32": 'text_cfg.hf_model_name "xlm-roberta-base"',
        "ViT-B-16-SigLIP": "vision_cfg.timm_model_name",
    }.items():
        assert setting in names[name]


def with_(part: str = "", **settings: Any) -> dict[str, Any]:
    """The tests' configuration with other settings, in a part of it."""
    cfg: dict[str, Any] = copy.deepcopy(MODEL_CFG)
    (cfg[part] if part else cfg).update(settings)
    return cfg


HONOURED: dict[str, dict[str, Any]] = {
    "defaults left out": {**with_(quick_gelu=False), "vision_cfg": {"image_size": 32, "layers": 2, "patch_size": 8}},
    "layers left out": {**MODEL_CFG, "vision_cfg": {"image_size": 32, "width": 128, "patch_size": 16}},
    "heads and layers of the text left out": with_("text_cfg", heads=8, layers=12),
    "a square in two numbers": with_("vision_cfg", image_size=[32, 32], patch_size=[8, 8]),
    "heads": with_("vision_cfg", head_width=32),
    "a width that is no multiple": with_("vision_cfg", width=96, head_width=32, mlp_ratio=2.3777),
    "a ratio of the text": with_("text_cfg", mlp_ratio=3.0313),
    "tanh": {**with_("text_cfg", act_kwargs={"approximate": "tanh"}), "quick_gelu": False},
    "tanh of images": {**with_("vision_cfg", act_kwargs={"approximate": "tanh"}), "quick_gelu": False},
    "no approximation": {**with_("vision_cfg", act_kwargs={"approximate": "none"}), "quick_gelu": False},
    "eps of the text": with_("text_cfg", norm_kwargs={"eps": 0.5}),
    "eps of images": with_("vision_cfg", norm_kwargs={"eps": 0.5}),
    "an end token": with_("text_cfg", pool_type="eos", eos_id=END),
    "a text's norm after pooling": with_("text_cfg", final_ln_after_pool=True),
    "an image's norm after pooling": with_("vision_cfg", final_ln_after_pool=True),
    "fixed positions": with_("vision_cfg", pos_embed_type="sin_cos_2d"),
    "patch dropout": with_("vision_cfg", patch_dropout=0.5),
    "open_clip's other block": with_("vision_cfg", block_type="custom"),
    "another text encoder's block": with_("text_cfg", block_type="custom"),
    "custom_text": with_(custom_text=True),
    "where the scale began": with_(init_logit_scale=3.0),
}


@pytest.mark.parametrize("cfg", HONOURED.values(), ids=HONOURED)
def test_a_setting_is_honoured(cfg: dict[str, Any], tmp_path: Path) -> None:
    theirs = built(cfg)
    path = saved(theirs, cfg, tmp_path / "m")
    assert_open_clip_s(radapt.load(path), theirs)
    assert estimate(path).parameters == sum(parameter.numel() for parameter in theirs.parameters())


def test_the_largest_token_is_the_end_of_a_text_without_an_end_token(tmp_path: Path) -> None:
    cfg = with_("text_cfg", vocab_size=120)  # more than the tokenizer has
    theirs = built(cfg)
    assert_open_clip_s(radapt.load(saved(theirs, cfg, tmp_path / "m")), theirs)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "pool_type": (with_("vision_cfg", pool_type="avg"), rf'vision_cfg\.pool_type "avg" \(allowed: "tok"\); {ADVICE}'),
    "text pool_type": (with_("text_cfg", pool_type="last"), r'pool_type "last" \(allowed: "argmax" or "eos"\)'),
    "eos_id": (with_("text_cfg", pool_type="eos", eos_id=2), rf"text_cfg\.eos_id 2 \(allowed: any other.*{ADVICE}"),
    "no eos_id": (with_("text_cfg", pool_type="eos"), r"text_cfg\.eos_id 2 "),
    "far eos_id": (with_("text_cfg", pool_type="eos", eos_id=80), "eos_id 80 must lie below vocab_size 80"),
    "no_causal_mask": (with_("text_cfg", no_causal_mask=True), rf"no_causal_mask true \(allowed: false\); {ADVICE}"),
    "embed_cls": (with_("text_cfg", embed_cls=True), r"text_cfg\.embed_cls true"),
    "proj_bias": (with_("text_cfg", proj_bias=True), r"text_cfg\.proj_bias true"),
    "proj_type": (with_("text_cfg", proj_type="none"), r'text_cfg\.proj_type "none"'),
    "tokenizer_kwargs": (with_("text_cfg", tokenizer_kwargs={"clean": "lower"}), r'tokenizer_kwargs \{"clean": "l'),
    "tokenizer_mode": (with_("text_cfg", tokenizer_mode="clips"), r'tokenizer_mode "clips"'),
    "attentional_pool": (with_("vision_cfg", attentional_pool="parallel"), r'attentional_pool "parallel"'),
    "no_ln_pre": (with_("vision_cfg", no_ln_pre=True), r"no_ln_pre true"),
    "ls_init_value": (with_("text_cfg", ls_init_value=0.0), r"text_cfg\.ls_init_value 0\.0 \(allowed: null\)"),
    "qk_norm": (with_("vision_cfg", qk_norm=True), r"vision_cfg\.qk_norm true"),
    "scale_fc": (with_("text_cfg", scale_fc=True), r"text_cfg\.scale_fc true"),
    "act_kwargs": (with_("text_cfg", act_kwargs={}), r"text_cfg\.act_kwargs beside quick_gelu"),
    "init_logit_bias": (with_(init_logit_bias=-10), r"init_logit_bias -10 \(allowed: null\)"),
    "several": (with_("vision_cfg", no_ln_pre=True, pool_type="avg"), r"pool_type \"avg\".* and vision_cfg\.no_ln_pre"),
    "ResNet": (with_("vision_cfg", layers=[1, 1, 1, 1]), r"one has vision_cfg\.layers \[1, 1, 1, 1\], of a ResNet$"),
    "CoCa": (with_(multimodal_cfg={}), r"multimodal_cfg \{\} \(allowed: null\)$"),
    "oblong": (with_("vision_cfg", image_size=[32, 64]), "image_size must be that of a square, got 32 x 64"),
    "oblong patch": (with_("vision_cfg", patch_size=[8, 16]), "patch_size must be that of a square, got 8 x 16"),
    "small image": (with_("vision_cfg", image_size=4), "image_size 4 is smaller than patch_size 8"),
    "head_width": (with_("vision_cfg", head_width=256), "width 128 is no multiple of the number of heads, 0"),
    "heads": (with_("text_cfg", heads=5), "text_cfg: width 64 is no multiple of the number of heads, 5"),
    "unknown key": (with_("vision_cfg", pooltype="avg"), "unknown key 'pooltype'; did you mean 'pool_type'"),
    "unknown text key": (with_("text_cfg", eos_token_id=3), "text_cfg: unknown key 'eos_token_id'; did you mean"),
    "unknown whole": (with_(quickgelu=True), "unknown key 'quickgelu'; did you mean 'quick_gelu'"),
    "unknown norm": (with_("text_cfg", norm_kwargs={"epsilon": 1}), "norm_kwargs: unknown key 'epsilon'.*Allowed: eps"),
    "unknown value": (with_("text_cfg", pool_type="max"), "unknown pool_type 'max'.*Allowed: argmax, eos"),
    "missing": ({"embed_dim": 24, "vision_cfg": {}}, "model_cfg: missing text_cfg"),
    "no dict": ({**MODEL_CFG, "text_cfg": [1]}, "text_cfg: .*got "),
    "no number": (with_("vision_cfg", width="128"), "width: .*valid integer, got '128'"),
    "no whole number": (with_("vision_cfg", layers=2.5), "layers.*got 2.5"),
    "no flag": (with_(quick_gelu=1), "quick_gelu: .*valid boolean, got 1"),
    "zero": (with_("vision_cfg", width=0), "width: .*greater than or equal to 1, got 0"),
    "negative": (with_("text_cfg", layers=-1), "layers: .*greater than or equal to 1, got -1"),
    "many layers": (with_("text_cfg", layers=10**9), "layers: .*less than or equal to 256, got 1000000000"),
    "huge": (with_("vision_cfg", width=10**12), "width: .*less than or equal to 1048576, got"),
    "nan": (with_("vision_cfg", mlp_ratio=float("nan")), "mlp_ratio: .*finite"),
    "another width": (with_("vision_cfg", width=1024), "in another shape"),
    "many positions": (with_("text_cfg", context_length=10**6), "in another shape 1 tensors"),
    "more layers": (with_("text_cfg", layers=200), "lack"),
}  # fmt: skip


@pytest.mark.parametrize(("cfg", "message"), REFUSED.values(), ids=REFUSED)
def test_a_setting_is_refused(cfg: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = saved(built(MODEL_CFG), cfg, tmp_path / "m")
    with pytest.raises(ModelError, match=message) as caught:
        radapt.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({"mean": [0.5, 0.5]}, "preprocess_cfg: mean"),
        ({"mean": [0.5, float("nan"), 0.5]}, "mean: 1: .*finite"),
        ({"std": [0.5, 0.0, 0.5]}, "std: 1: .*greater than 0"),
        ({"interpolation": "nearest"}, "unknown interpolation 'nearest'"),
        ({"resize_mode": "longest"}, "unknown resize_mode 'longest'.*Allowed: shortest, squash"),
        ({"means": MEAN}, "unknown key 'means'; did you mean 'mean'"),
        ([1], "preprocess_cfg"),
    ],
)
def test_how_images_are_prepared_is_refused(steps: Any, message: str, tmp_path: Path) -> None:
    path = saved(built(MODEL_CFG), MODEL_CFG, tmp_path / "m")
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL_CFG, "preprocess_cfg": steps}))
    with pytest.raises(ModelError, match=message):
        radapt.load(path)


def test_how_images_are_prepared_is_honoured(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8))
    theirs = built(MODEL_CFG)
    path = saved(theirs, MODEL_CFG, tmp_path / "m")
    steps = {"size": 64, "mode": "RGB", "mean": MEAN, "std": STD, "interpolation": "bilinear", "resize_mode": "squash"}
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL_CFG, "preprocess_cfg": steps}))
    theirs.visual.preprocess_cfg = {**steps, "fill_color": 0}
    expected = torch.from_numpy(np.asarray(photo.resize((32, 32), Image.Resampling.BILINEAR)).copy())
    for model in (radapt.load(path), radapt.load(theirs)):
        assert (model.preprocess(photo) - expected.permute(2, 0, 1) / 255).abs().max() < 1e-6


OBJECTS: dict[str, dict[str, Any]] = {
    "qk_norm": with_("vision_cfg", qk_norm=True),
    "other scales": with_("vision_cfg", scale_heads=True, scale_attn_inner=True, scale_attn=True, scale_fc=True),
    "pooling": with_("vision_cfg", no_ln_pre=True, pool_type="avg", final_ln_after_pool=True),
    "attention pooling": with_("vision_cfg", attentional_pool=True, attn_pooler_queries=4, attn_pooler_heads=2),
    "layer scale": with_("vision_cfg", ls_init_value=0.1),
    "text": {**with_("text_cfg", no_causal_mask=True, pool_type="last", proj_bias=True), "custom_text": True},
}


@pytest.mark.parametrize("cfg", OBJECTS.values(), ids=OBJECTS)
def test_an_object_of_open_clip_works_as_it_is(cfg: dict[str, Any]) -> None:
    theirs = built(cfg)
    model: Any = radapt.load(theirs, tokenizer=encoded)
    assert_open_clip_s(model, theirs)
    pixels = torch.rand(2, 3, 32, 32, requires_grad=True)
    bare = model.encode_image(pixels)
    with radapt.training_free(model, alpha=0.5).attach(model):
        adapted = model.encode_image(pixels)
    assert (adapted - bare).abs().max() > 1e-3
    assert (torch.autograd.grad(adapted.sum(), pixels)[0].flatten(1).abs().amax(1) > 0).all()
    assert torch.equal(model.encode_image(pixels), bare)


class Timm(nn.Module):
    """As much of open_clip's ``TimmModel`` as is read when an object is loaded."""

    image_size, image_mean, image_std = (32, 32), MEAN, STD


def changed(**attributes: Any) -> Any:
    model = built(MODEL_CFG)
    for name, value in attributes.items():
        setattr(model.visual, name, value)
    return model


def with_visual(visual: nn.Module) -> Any:
    model = built(MODEL_CFG)
    model.visual = visual
    return model


def test_objects_that_cannot_work_are_refused_as_they_are_loaded() -> None:
    resnet = built(with_("vision_cfg", layers=[1, 1, 1, 1], width=64))
    for model, message in (
        (resnet, "with a ModifiedResNet cannot carry an adapter or be loaded; allowed is open_clip's own vision trans"),
        (with_visual(Timm()), "with a Timm cannot carry an adapter or be loaded"),
        (built(with_("vision_cfg", image_size=[32, 64])), "for images of 32 x 64 cannot be loaded"),
        (changed(output_tokens=True), "whose output_tokens is true cannot be loaded"),
        (changed(pool_type="none"), "whose pool_type is 'none' has no image embedding"),
    ):
        with pytest.raises(ModelError, match=message):
            radapt.load(model, tokenizer=encoded)


def test_a_tokenizer_of_another_kind_is_explained() -> None:
    def nested(texts: list[str]) -> list[list[int]]:
        rows: list[list[int]] = encoded(texts).tolist()
        return rows

    def flat(texts: list[str]) -> Tensor:
        return encoded(texts)[0]

    theirs = built(MODEL_CFG)
    for wrong in (tokenizer(), nested, flat):
        model: Any = radapt.load(theirs, tokenizer=wrong)
        with pytest.raises(ModelError, match=r"must give the tokens of each text as a row of one tensor"):
            model.encode_text(["a red circle"])
