"""Files that no model has: each gives one error of this library, before anything large is made of them."""

from __future__ import annotations

import json
import math
import resource
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.generative import BUILDERS
from tests.models.openclip import CLIP
from tests.models.test_open_clip import encoded
from tests.models.test_open_clip import folder as open_clip_folder
from torch import Tensor, nn

import radapt
from radapt.errors import ModelError, UnknownModelError
from radapt.models import estimate

HOSTILE: dict[str, tuple[str, str, Any, str]] = {
    "layers": (
        "config.json",
        "vision_config.num_hidden_layers",
        10**9,
        "num_hidden_layers must be a whole number from 1",
    ),
    "no layers": ("config.json", "text_config.num_hidden_layers", 0, "num_hidden_layers .* got 0"),
    "negative layers": ("config.json", "text_config.num_hidden_layers", -2, "num_hidden_layers .* got -2"),
    "half layers": ("config.json", "vision_config.num_hidden_layers", 1.5, "num_hidden_layers .* got 1.5"),
    "no size": ("config.json", "vision_config.hidden_size", 0, "hidden_size must be a whole number from 1 .* got 0"),
    "huge size": ("config.json", "vision_config.hidden_size", 10**12, "hidden_size .* got 1000000000000"),
    "large size": (
        "config.json",
        "text_config.vocab_size",
        10**7,
        "describes a model of .* parameters, but its weights",
    ),
    "other size": ("config.json", "text_config.hidden_size", 64, r"the weights of .* hold .* of shape \(.*\), where"),
    "text": ("config.json", "vision_config.image_size", "32", "image_size .* got '32'"),
    "list": ("config.json", "vision_config.patch_size", [], r"patch_size .* got \[\]"),
    "flag": ("config.json", "vision_config.patch_size", True, "patch_size .* got True"),
    "heads": ("config.json", "vision_config.num_attention_heads", 5, "not a multiple of the number of attention heads"),
    "no heads": ("config.json", "text_config.num_attention_heads", 0, "num_attention_heads .* got 0"),
    "activation": ("config.json", "text_config.hidden_act", "gleu", "cannot load .*gleu"),
    "no activation": ("config.json", "text_config.hidden_act", 3, "cannot load .*hidden_act"),
    "eps": ("config.json", "text_config.layer_norm_eps", None, "layer_norm_eps must be a number between 0 and 1"),
    "nan eps": ("config.json", "text_config.layer_norm_eps", math.nan, "layer_norm_eps must be finite, got nan"),
    "minus eps": ("config.json", "vision_config.layer_norm_eps", -1.0, "layer_norm_eps must be a number between 0 and"),
    "nothing": ("config.json", "text_config", [], "cannot load .*text_config"),
    "dtype": ("config.json", "dtype", "float33", "cannot load .*float33"),
    "end": (
        "config.json",
        "text_config.eos_token_id",
        10**6,
        r"token 1000000 at the end of a text .*with 3$",
    ),
    "other end": ("config.json", "text_config.eos_token_id", 5, r"looks for token 5 at the end .*eos_token_id"),
    "no end": ("config.json", "text_config.eos_token_id", None, "looks for token None at the end of a text"),
    "many ends": ("config.json", "text_config.eos_token_id", [3, 4], r"looks for token \[3, 4\] at the end"),
    "number": ("config.json", "text_config.bos_token_id", 10**30, "bos_token_id is too large"),
    "surrogate": ("config.json", "_name_or_path", "\ud800", "half of a character"),
    "mean": ("preprocessor_config.json", "image_mean", [0.5, math.nan, 0.5], "image_mean .* three numbers from -1000"),
    "two means": ("preprocessor_config.json", "image_mean", [0.5, 0.5], r"three numbers .* got .0.5, 0.5.$"),
    "one mean": ("preprocessor_config.json", "image_mean", 0.5, "three numbers .* got 0.5"),
    "words": ("preprocessor_config.json", "image_mean", ["a", "b", "c"], "three numbers"),
    "std": ("preprocessor_config.json", "image_std", [0.5, 0.0, 0.5], "image_std .* three numbers from 0.001"),
    "minus std": ("preprocessor_config.json", "image_std", [0.5, -0.5, 0.5], "image_std .* three numbers"),
    "inf std": ("preprocessor_config.json", "image_std", [math.inf] * 3, "image_std .* three numbers"),
    "rescale": (
        "preprocessor_config.json",
        "rescale_factor",
        1.0,
        "does not map the values of images from 0..255",
    ),
    "no rescale": ("preprocessor_config.json", "do_rescale", False, "does not map the values|cannot be used"),
    "normalised": ("preprocessor_config.json", "do_normalize", False, "do_normalize must be true, got False"),
    "size": (
        "preprocessor_config.json",
        "size",
        {"shortest_edge": 10**9},
        "size of its image processor must be",
    ),
    "no image": (
        "preprocessor_config.json",
        "crop_size",
        {"height": 0, "width": 0},
        "crop_size of its image proc",
    ),
    "word size": ("preprocessor_config.json", "size", "x", "cannot (load|be used)|image processor"),
    "resample": ("preprocessor_config.json", "resample", 99, "cannot (load|be used)|image processor"),
    "tokens": ("tokenizer.json", "model", None, "cannot load"),
    "merges": ("tokenizer.json", "model.vocab", [1, 2], "cannot load"),
    "merged": ("tokenizer.json", "post_processor.special_tokens", {}, "cannot load"),
    "class": ("tokenizer_config.json", "tokenizer_class", 3, "cannot load"),
}


def put(file: Path, place: str, value: Any) -> None:
    content = inner = json.loads(file.read_text())
    *outer, last = place.split(".")
    for key in outer:
        inner = inner[key]
    inner[last] = value
    file.write_text(json.dumps(content))


@pytest.fixture
def folder(tiny_vlm: Any, tmp_path: Path) -> Path:
    tiny_vlm.save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


def refused(call: Callable[[], object], message: str = ".") -> str:
    """What an error says: one of this library's own, in one line of bounded length, without gigabytes taken."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match=message) as caught:
        call()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 1000
    return text


@pytest.mark.parametrize(("file", "place", "value", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_value_that_cannot_be_is_refused(folder: Path, file: str, place: str, value: Any, message: str) -> None:
    put(folder / file, place, value)
    refused(lambda: radapt.load(folder), message)


@pytest.mark.parametrize(
    ("kind", "place", "value", "message"),
    [
        ("llava", "vision_config", None, "describes a model of .* parameters, but its weights take"),
        ("llava", "text_config.num_hidden_layers", 10**9, "num_hidden_layers must be"),
        ("llava", "text_config.rms_norm_eps", math.inf, "rms_norm_eps must be finite"),
        ("llava", "vision_feature_layer", 10**9, "vision_feature_layer must be a block from 1 to 2 or from -2 to -1"),
        ("llava", "vision_feature_layer", -3, "vision_feature_layer must be .* got -3"),
        (
            "llava",
            "vision_feature_select_strategy",
            "fall",
            "cannot load .*fall",
        ),
        ("llava", "image_token_index", 10**6, "tokenizer or chat template cannot be used"),
        ("qwen3_vl", "vision_config.depth", 10**9, "depth must be a whole number from 1"),
        ("qwen3_vl", "vision_config.spatial_merge_size", 0, "spatial_merge_size must be"),
        ("qwen3_vl", "text_config.rope_parameters", "x", "cannot load"),
        ("qwen3_vl", "text_config.rope_parameters.mrope_section", [1], "mrope_section must be three positive"),
        ("qwen3_vl", "vision_config.rope_parameters", {"rope_theta": 0}, "rope_theta must be a positive number, got 0"),
        ("qwen3_vl", "image_token_id", -1, "tokenizer or chat template cannot be used"),
    ],
)
def test_a_value_of_a_larger_model_that_cannot_be_is_refused(
    kind: str, place: str, value: Any, message: str, tmp_path: Path
) -> None:
    saved = BUILDERS[kind](tmp_path / "m")
    put(saved / "config.json", place, value)
    refused(lambda: radapt.load(saved), message)


@pytest.mark.parametrize("kind", ["llava", "qwen3_vl"])
@pytest.mark.parametrize(
    ("template", "message"),
    [("{% for", "cannot load"), ("no image", "has 0"), ("{{ messages.nothing.at_all }}", "cannot load"), ("", "has 0")],
)
def test_a_chat_template_that_cannot_be_is_refused(kind: str, template: str, message: str, tmp_path: Path) -> None:
    saved = BUILDERS[kind](tmp_path / "m")
    (saved / "chat_template.jinja").write_text(template)
    refused(lambda: radapt.load(saved), message)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[" * 100_000, '{"a":' * 100_000, "\0", "null", "[]", '"x"', "\ufeff", '{"model_type": "clip"}'],
)
@pytest.mark.parametrize(
    "name", ["config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
)
def test_a_file_that_is_no_such_file_is_refused(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    if name == "tokenizer_config.json" or (name, content) == ("preprocessor_config.json", '{"model_type": "clip"}'):
        try:  # what it says has defaults
            radapt.load(folder)
        except ModelError as error:
            assert "\n" not in str(error)  # noqa: PT017
    else:
        refused(lambda: radapt.load(folder))


def test_an_estimate_refuses_the_same(folder: Path, tmp_path: Path) -> None:
    for place, value in (("vision_config.num_hidden_layers", 10**9), ("text_config.hidden_act", "x"), ("dtype", [])):
        (folder / "config.json").write_text(json.dumps({**json.loads((folder / "config.json").read_text())}))
        before = (folder / "config.json").read_text()
        put(folder / "config.json", place, value)
        refused(lambda: estimate(folder))
        (folder / "config.json").write_text(before)
    with pytest.raises(UnknownModelError):
        estimate(tmp_path / "nowhere")


def changed(folder: Path, name: str, change: Callable[[Tensor], Tensor]) -> None:
    file = folder / ("model.safetensors" if (folder / "model.safetensors").exists() else "open_clip_model.safetensors")
    weights = load_file(file)
    weights[name] = change(weights[name].clone())
    save_file(weights, file, {"format": "pt"})


def with_one(value: float) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        tensor.view(-1)[len(tensor.view(-1)) // 2] = value
        return tensor

    return change


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["visual_projection.weight", "text_model.final_layer_norm.bias"])
def test_weights_that_are_not_finite_are_named(folder: Path, value: float, name: str) -> None:
    changed(folder, name, with_one(value))
    refused(lambda: radapt.load(folder), f"the weights hold nan or inf in {name}")
    refused(lambda: radapt.load(folder, dtype="bfloat16"), name)


def test_weights_of_any_size_that_are_finite_load(folder: Path) -> None:
    changed(folder, "text_model.final_layer_norm.bias", lambda tensor: torch.full_like(tensor, 3e38))
    assert radapt.load(folder)


def test_other_families_and_objects_are_checked_as_well(tmp_path: Path, tiny_vlm: Any) -> None:
    path = open_clip_folder(CLIP(), tmp_path / "o")
    changed(path, "visual.proj", with_one(math.nan))
    refused(lambda: radapt.load(path), r"in visual_projection\.weight")
    saved = BUILDERS["qwen3_vl"](tmp_path / "q")
    changed(saved, "lm_head.weight", with_one(math.inf))
    refused(lambda: radapt.load(saved), r"in lm_head\.weight")
    live: Any = CLIP()
    live.visual.image_mean, live.visual.image_std = (0.5, 0.5, 0.5), (0.5, 0.0, 0.5)
    refused(lambda: radapt.load(live, tokenizer=encoded), "image_std")
    for std in ([0.5, 0.0, 0.5], torch.tensor([0.5, math.nan, 0.5]), "abc", None):
        wrong = SimpleNamespace(mean=[0.5] * 3, std=std)
        refused(lambda wrong=wrong: radapt.load(CLIP(), processor=wrong), "image_std")  # type: ignore[misc]
    tiny_vlm.processor.image_std = [0.0] * 3
    refused(lambda: radapt.load(tiny_vlm.model, processor=tiny_vlm.processor), "image_std")
    tiny_vlm.processor.image_std = [0.5] * 3
    nn.init.constant_(tiny_vlm.model.visual_projection.weight, math.nan)
    refused(lambda: radapt.load(tiny_vlm.model, processor=tiny_vlm.processor), r"in visual_projection\.weight")


@pytest.mark.parametrize(
    ("value", "message"),
    [(1000.0, "logit scale is inf"), (100.0, "logit scale is inf|logit scale is 2"), (-1000.0, "logit scale is 0"),
     (math.log(1000) + 0.01, "logit scale is 101"), (math.nan, "hold nan or inf in logit_scale")],
)  # fmt: skip
def test_a_logit_scale_that_cannot_be_is_refused(folder: Path, tmp_path: Path, value: float, message: str) -> None:
    changed(folder, "logit_scale", lambda tensor: torch.full_like(tensor, value))
    refused(lambda: radapt.load(folder), message)
    path = open_clip_folder(CLIP(), tmp_path / "o", logit_scale=torch.tensor(value))
    refused(lambda: radapt.load(path), message)


@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0, 118.0])
def test_the_logit_scales_of_checkpoints_are_taken(folder: Path, scale: float) -> None:
    changed(folder, "logit_scale", lambda tensor: torch.full_like(tensor, math.log(scale)))
    assert radapt.load(folder).logit_scale == pytest.approx(scale)


def test_a_large_logit_scale_is_warned_about(folder: Path) -> None:
    changed(folder, "logit_scale", lambda tensor: torch.full_like(tensor, math.log(400)))
    with pytest.warns(UserWarning, match=r"has a logit scale of 400, where CLIP's is at most 100"):
        radapt.load(folder)


def test_a_tokenizer_of_another_model_is_refused(folder: Path, tiny_vlm: Any) -> None:
    from tests.models.test_open_clip import tokenizer

    other = tokenizer()
    refused(lambda: radapt.load(folder, tokenizer=other), "looks for token 3 at the end of a text")
    refused(lambda: radapt.load(tiny_vlm.model, tokenizer=other, processor=tiny_vlm.processor), "looks for token 3")


def test_files_of_weights_that_cannot_be(tmp_path: Path) -> None:
    base = radapt.load(open_clip_folder(CLIP(), tmp_path / "base"))
    weights = CLIP().state_dict()
    key = "visual.transformer.resblocks.0.attn.in_proj_weight"
    cases: dict[str, Any] = {
        "thirds": {**weights, key: torch.ones(4, 2)},
        "number": {**weights, "visual.proj": torch.tensor(1.0)},
        "cube": {**weights, "text_projection": torch.ones(2, 2, 2)},
        "twice": {**weights, "module.visual.proj": weights["visual.proj"]},
        "keys": {1: torch.ones(2)},
        "values": {"a": 1},
        "complex": {**weights, "visual.proj": weights["visual.proj"].to(torch.complex64)},
        "sparse": {**weights, "visual.proj": weights["visual.proj"].to_sparse()},
        "meta": {**weights, "visual.proj": weights["visual.proj"].to("meta")},
        "empty": {},
    }
    ring: dict[str, Any] = {}
    ring["state_dict"] = ring
    for name, content in {**cases, "ring": ring}.items():
        torch.save(content, tmp_path / f"{name}.pt")
        refused(lambda name=name: radapt.load(tmp_path / f"{name}.pt", base=base))  # type: ignore[misc]
