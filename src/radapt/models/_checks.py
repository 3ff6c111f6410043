"""What is checked of every model that is loaded: its configuration, weights, image processor and tokenizer."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from radapt.errors import InputError, ModelError, shown

from ._dual import DualEncoder
from ._generative import Generative
from ._vlm import VLM
from ._zero_shot import Contrastive
from .qwen_vl import QwenVL

__all__ = ["check_config", "check_model"]

_LAYERS = dict.fromkeys(("num_hidden_layers", "num_layers", "depth"), 512)
_SIZES = dict.fromkeys(
    (
        "hidden_size", "intermediate_size", "image_size", "patch_size", "num_attention_heads", "num_key_value_heads",
        "num_heads", "projection_dim", "projection_size", "embed_dim", "head_dim", "num_channels", "in_channels",
        "out_hidden_size", "spatial_merge_size", "temporal_patch_size", "num_position_embeddings", "num_patches",
    ),
    1 << 20,
)  # fmt: skip
_COUNTS = dict.fromkeys(("vocab_size", "max_position_embeddings"), 1 << 24)
_MOST: dict[str, int] = {**_LAYERS, **_SIZES, **_COUNTS}
"""Largest sizes that a configuration may give: what is larger is a mistake, and would take all memory or time."""
_EMPTY = ("num_key_value_heads", "head_dim", "projection_dim")
"""Sizes that may be left empty, for others to give them."""
_USUAL_SCALE, _LARGEST_SCALE = 200.0, 1000.0
"""CLIP's logit scale is at most 100; SigLIP's checkpoints have up to 120."""
_GREY = 100
_IMAGE_SIZES = {
    **dict.fromkeys(("size", "crop_size", "patch_size"), 1 << 12),
    **dict.fromkeys(("merge_size", "temporal_patch_size"), 1 << 6),
    "max_num_patches": 1 << 16,
}
_PIXELS = {"shortest_edge": 1 << 22, "longest_edge": 1 << 30}
"""Qwen-VL's sizes are numbers of pixels."""


def check_config(content: object, where: str) -> None:
    """Refuse sizes of a ``config.json`` that no model has, before anything is made of them.

    Args:
        content: its plain values.
        where: what messages call the file.

    Raises:
        ModelError: a size is no whole number, not positive or too large, or a number is not finite.
    """
    for key, value in _entries(content):
        if isinstance(value, float) and not math.isfinite(value):
            raise ModelError(f"{where}: {key} must be finite, got {value}")
        if isinstance(value, int) and abs(value) >= 1 << 63:
            raise ModelError(f"{where}: {key} is too large: {shown(value)}")
        if key in _MOST and not (value is None and key in _EMPTY):
            for each in value if isinstance(value, list) and value else [value]:
                if not isinstance(each, int) or isinstance(each, bool) or not 1 <= each <= _MOST[key]:
                    raise ModelError(f"{where}: {key} must be a whole number from 1 to {_MOST[key]}, got {shown(each)}")
        if key.endswith("_eps") and (not isinstance(value, float) or not 0 < value < 1):
            raise ModelError(f"{where}: {key} must be a number between 0 and 1 such as 1e-05, got {shown(value)}")
        if key == "rope_theta" and not (isinstance(value, int | float) and value > 0):
            raise ModelError(f"{where}: rope_theta must be a positive number, got {shown(value)}")
        if key == "mrope_section" and not (
            isinstance(value, list) and len(value) == 3 and all(type(each) is int and each > 0 for each in value)
        ):
            raise ModelError(f"{where}: mrope_section must be three positive whole numbers, got {shown(value)}")


def _entries(content: object, key: str = "") -> Iterator[tuple[str, Any]]:
    """All values in plain values, each with the key that it, or the list that it is in, has."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            yield str(name), value
            yield from _entries(value, str(name))
    elif isinstance(content, Sequence) and not isinstance(content, str):
        for value in content:
            if not isinstance(value, int):  # whole numbers in lists are no sizes of their own
                yield "", value
            yield from _entries(value, key)


def check_model(vlm: VLM) -> None:
    """Refuse a model whose weights, scale, images or texts cannot be right.

    Raises:
        ModelError: says what is wrong.

    Warns:
        UserWarning: a logit scale that is larger than those of the known checkpoints.
    """
    _check_weights(vlm)
    if isinstance(vlm, Contrastive):
        _check_scale(vlm)
    if isinstance(vlm, DualEncoder | Generative):
        _check_images(vlm)
        if vlm.tokenizer is not None:
            _check_texts(vlm)


def _check_weights(vlm: VLM) -> None:
    for name, parameter in vlm.model.named_parameters():
        if parameter.is_floating_point() and not parameter.is_meta and not _finite(parameter.detach()):
            raise ModelError(f"{vlm.name}: the weights hold nan or inf in {name}; get them again")


def _finite(values: Tensor) -> bool:
    """Whether all values are finite; their sum tells it at once where it is finite itself."""
    if values.itemsize < 2:
        values = values.float()
    return math.isfinite(values.sum(dtype=torch.float32).item()) or bool(values.isfinite().all())


def _check_scale(vlm: Contrastive) -> None:
    if any(parameter.is_meta for parameter in vlm.model.parameters()):
        raise ModelError(
            f"{vlm.name}: some of its weights are not in memory, as where accelerate offloads them; load the whole "
            "model, in bfloat16 where it is too large"
        )
    try:
        scale = vlm.logit_scale
    except (RuntimeError, ValueError) as error:  # more than one number
        raise ModelError(f"{vlm.name}: its logit_scale is no number: {error}") from error
    if not 0 < scale < _LARGEST_SCALE:
        raise ModelError(
            f"{vlm.name}: its logit scale is {scale:g}, where CLIP's is at most 100; logit_scale holds the logarithm"
        )
    if scale > _USUAL_SCALE:
        warnings.warn(
            f"{vlm.name} has a logit scale of {scale:g}, where CLIP's is at most 100: losses may saturate, so that "
            "gradients vanish",
            stacklevel=4,  # the line that calls radapt.load
        )


def _check_images(vlm: DualEncoder | Generative) -> None:
    """Whether a grey image comes out grey."""
    settings = vlm.processor.to_dict() if hasattr(vlm.processor, "to_dict") else {}
    for key, most in _IMAGE_SIZES.items():
        given = settings.get(key)
        for part, side in (given if isinstance(given, Mapping) else {"": given}).items():
            top = _PIXELS.get(part, most) if isinstance(vlm, QwenVL) else most
            if side is not None and (type(side) is not int or not 1 <= side <= top):
                got = f"got {shown(side)}"
                raise ModelError(f"{vlm.name}: {key} of its image processor must be from 1 to {top}, {got}")
    patch = settings.get("patch_size")
    if patch is not None and patch != vlm.tower.patch_size:
        raise ModelError(
            f"{vlm.name}: its image processor makes patches of {patch} pixels, the model takes {vlm.tower.patch_size}"
        )
    try:
        pixels = vlm.preprocess(Image.new("RGB", (48, 40), (_GREY,) * 3))
    except Exception as error:  # whatever the processor's settings lead to
        text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ModelError(f"{vlm.name}: its image processor cannot be used: {text}") from error
    if pixels.ndim != 3 or not (pixels - _GREY / 255).abs().median() < 1 / 255:
        raise ModelError(
            f"{vlm.name}: its image processor does not map the values of images from 0..255 to 0..1; do_resize and "
            "do_rescale must be true, and rescale_factor 1/255"
        )


def _check_texts(vlm: DualEncoder | Generative) -> None:
    """Whether the tokens of a text are some that the model knows, with an end where it looks for one."""
    vocabulary = vlm.model.config.get_text_config().vocab_size
    try:
        ids = vlm.token_ids(["a"]) if isinstance(vlm, DualEncoder) else vlm.tokenize(["a"], ["a"]).ids
    except InputError as error:
        raise ModelError(f"{vlm.name}: its tokenizer or chat template cannot be used: {error}") from error
    if int(ids.max()) >= vocabulary or int(ids.min()) < 0:
        raise ModelError(
            f"{vlm.name}: its tokenizer gives token {int(ids.max())}, but the model has {vocabulary}; it is of another"
        )
