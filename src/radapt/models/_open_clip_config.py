"""What an ``open_clip_config.json`` says, read completely: each setting is honoured, or refused by its name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from PIL.Image import Resampling
from pydantic import Field
from transformers import CLIPConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from radapt.errors import ModelError
from radapt.schema import STRICT, parse

__all__ = ["CONFIG", "config_of", "processor_of"]

CONFIG = "open_clip_config.json"

_Size = Annotated[int, Field(ge=1, le=1 << 20)]
_Layers = Annotated[int, Field(ge=1, le=256)]
_Positive = Annotated[float, Field(gt=0, le=1 << 10)]
_Number = int | float | None


@dataclass(frozen=True)
class _Norm:
    __pydantic_config__ = STRICT
    eps: _Positive = 1e-5


@dataclass(frozen=True)
class _Act:
    __pydantic_config__ = STRICT
    approximate: Literal["none", "tanh"] = "none"


@dataclass(frozen=True, kw_only=True)
class _Encoder:
    """Names and defaults, here and below, are open_clip's."""

    __pydantic_config__ = STRICT
    mlp_ratio: _Positive = 4.0
    ls_init_value: _Number = None
    final_ln_after_pool: bool = False
    output_tokens: bool = False
    block_type: Literal["default", "custom"] | None = None
    qk_norm: bool = False
    scaled_cosine_attn: bool = False
    scale_heads: bool = False
    scale_attn_inner: bool = False
    scale_attn: bool = False
    scale_fc: bool = False


@dataclass(frozen=True, kw_only=True)
class _Vision(_Encoder):
    layers: _Layers | tuple[_Layers, ...] = 12
    width: _Size = 768
    head_width: _Size = 64
    patch_size: _Size | tuple[_Size, _Size] | None = 16
    image_size: _Size | tuple[_Size, _Size] = 224
    patch_dropout: float = 0.0
    attentional_pool: bool | str = False
    attn_pooler_queries: int = 256
    attn_pooler_heads: int = 8
    no_ln_pre: bool = False
    pos_embed_type: Literal["learnable", "sin_cos_2d"] = "learnable"
    pool_type: Literal["tok", "avg", "none"] = "tok"
    act_kwargs: _Act | None = None
    norm_kwargs: _Norm | None = None
    timm_model_name: str | None = None
    timm_model_pretrained: bool = False
    timm_pool: str = "avg"
    timm_proj: str | None = "linear"
    timm_proj_bias: bool = False
    timm_drop: float = 0.0
    timm_drop_path: _Number = None


@dataclass(frozen=True, kw_only=True)
class _Text(_Encoder):
    context_length: _Size = 77
    vocab_size: Annotated[int, Field(ge=1, le=1 << 24)] = 49408
    hf_tokenizer_name: str | None = None
    tokenizer_mode: str | None = None
    tokenizer_kwargs: dict[str, Any] | None = None
    width: _Size = 512
    heads: _Size = 8
    layers: _Layers = 12
    embed_cls: bool = False
    pad_id: int = 0
    eos_id: int = 2
    no_causal_mask: bool = False
    pool_type: Literal["argmax", "eos", "first", "last", "none"] = "argmax"
    proj_bias: bool = False
    proj_type: Literal["linear", "none"] = "linear"
    act_kwargs: _Act | None = None
    norm_kwargs: _Norm | None = None
    hf_model_name: str | None = None
    hf_model_pretrained: bool = True
    hf_proj_type: str | None = "mlp"
    hf_pooler_type: str = "mean_pooler"


@dataclass(frozen=True, kw_only=True)
class _Model:
    __pydantic_config__ = STRICT
    embed_dim: _Size
    vision_cfg: _Vision
    text_cfg: _Text
    quick_gelu: bool = False
    custom_text: bool = False
    init_logit_scale: _Number = None
    init_logit_bias: _Number = None
    nonscalar_logit_scale: bool = False
    output_dict: bool = False
    multimodal_cfg: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class _Preprocess:
    __pydantic_config__ = STRICT
    size: _Size | tuple[_Size, ...] | None = None
    mode: Literal["RGB"] = "RGB"
    mean: tuple[float, float, float] = tuple(OPENAI_CLIP_MEAN)  # type: ignore[assignment]
    std: tuple[_Positive, _Positive, _Positive] = tuple(OPENAI_CLIP_STD)  # type: ignore[assignment]
    interpolation: Literal["bicubic", "bilinear", "random"] = "bicubic"
    resize_mode: Literal["shortest", "squash"] = "shortest"
    fill_color: Any = 0


@dataclass(frozen=True, kw_only=True)
class _File:
    __pydantic_config__ = STRICT
    model_cfg: _Model
    preprocess_cfg: _Preprocess = field(default_factory=_Preprocess)


_PLAIN_BLOCK = ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc")
_PLAIN: dict[str, dict[str, tuple[Any, ...]]] = {
    "vision_cfg": {
        "timm_model_name": (None, ""),
        "pool_type": ("tok",),
        **dict.fromkeys(("attentional_pool", "no_ln_pre", "output_tokens", *_PLAIN_BLOCK), (False,)),
        "ls_init_value": (None,),
    },
    "text_cfg": {
        "hf_model_name": (None, ""),
        "pool_type": ("argmax", "eos"),
        **dict.fromkeys(("no_causal_mask", "embed_cls", "proj_bias", "output_tokens", *_PLAIN_BLOCK), (False,)),
        "proj_type": ("linear",),
        "ls_init_value": (None,),
        "tokenizer_mode": (None, ""),
        "tokenizer_kwargs": (None, {}),
    },
    "": {"multimodal_cfg": (None,), "init_logit_bias": (None,), "nonscalar_logit_scale": (False,)},
}
"""The values that a ``transformers.CLIPModel`` can have of the settings that it lacks.

Of the other settings, those of patch dropout, attention pooling, timm and Hugging Face's encoders and the padding token
do nothing in such a model; ``final_ln_after_pool`` changes nothing where one token is taken.
"""
_NO_OBJECT = ("timm_model_name", "layers", "vision_cfg.output_tokens", "multimodal_cfg")
"""Settings of models that :func:`radapt.load` does not take as objects either."""


def config_of(content: object, name: str) -> CLIPConfig:
    """Configuration of the CLIP that the content of an ``open_clip_config.json`` describes.

    Args:
        content: the plain values of the file.
        name: of the model, for messages.

    Raises:
        ModelError: a key is unknown or missing, a value is of the wrong kind or out of range, or it describes something
            else than a plain CLIP (a ResNet, a SigLIP, another text encoder, other pooling).
    """
    model = _read(content, name)
    vision, text = model.vision_cfg, model.text_cfg
    odd = dict(_odd(model))
    if odd:
        listed = " and ".join(f"{key} {got}" for key, got in odd.items())
        hint = "" if any(key.endswith(_NO_OBJECT) for key in odd) else (
            "; build it with open_clip and pass the object: radapt.load(open_clip.create_model('local-dir:...'), "
            "tokenizer=open_clip.get_tokenizer('local-dir:...'))"
        )  # fmt: skip
        raise ModelError(
            f"{_where(name)}: only plain CLIP models with a vision transformer are converted; this one has {listed}"
            f"{hint}"
        )
    side, patch = (_square(getattr(vision, key), key, name) for key in ("image_size", "patch_size"))
    heads = vision.width // vision.head_width
    for part, width, count in (("vision_cfg", vision.width, heads), ("text_cfg", text.width, text.heads)):
        if not count or width % count:
            raise ModelError(f"{_where(name)}: {part}: width {width} is no multiple of the number of heads, {count}")
    if side < patch:
        raise ModelError(f"{_where(name)}: vision_cfg: image_size {side} is smaller than patch_size {patch}")
    if text.pool_type == "eos" and not 0 <= text.eos_id < text.vocab_size:
        raise ModelError(f"{_where(name)}: text_cfg: eos_id {text.eos_id} must lie below vocab_size {text.vocab_size}")
    return CLIPConfig(
        vision_config={
            "hidden_size": vision.width,
            "intermediate_size": int(vision.width * vision.mlp_ratio),
            "num_hidden_layers": vision.layers,
            "num_attention_heads": heads,
            "image_size": side,
            "patch_size": patch,
            "projection_dim": model.embed_dim,
            **_functions(model, vision),
        },
        text_config={
            "hidden_size": text.width,
            "intermediate_size": int(text.width * text.mlp_ratio),
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "max_position_embeddings": text.context_length,
            "vocab_size": text.vocab_size,
            "projection_dim": model.embed_dim,
            "bos_token_id": max(0, text.vocab_size - 2),
            # In transformers, 2 stands for the largest token of a text, as open_clip's argmax does.
            "eos_token_id": text.eos_id if text.pool_type == "eos" else 2,
            "pad_token_id": 0,
            **_functions(model, text),
        },
        projection_dim=model.embed_dim,
    )


def processor_of(steps: object, name: str, side: int) -> CLIPImageProcessorPil:
    """The image processor that open_clip's ``preprocess_cfg`` describes, for images of one size.

    Args:
        steps: the plain values of ``preprocess_cfg``.
        name: of the model, for messages.
        side: height and width of the images.

    Raises:
        ModelError: a key is unknown, or a value is of the wrong kind.
    """
    read: _Preprocess = parse(_Preprocess, steps, where=f"the preprocess_cfg of {name!r}", error=ModelError)
    square = {"height": side, "width": side}
    return CLIPImageProcessorPil(
        size={"shortest_edge": side} if read.resize_mode == "shortest" else square,
        crop_size=square,
        image_mean=list(read.mean),
        image_std=list(read.std),
        resample=Resampling.BILINEAR if read.interpolation == "bilinear" else Resampling.BICUBIC,
    )


def _where(name: str) -> str:
    return f"the {CONFIG} of {name!r}"


def _read(content: object, name: str) -> _Model:
    if not isinstance(content, Mapping) or not isinstance(content.get("model_cfg"), Mapping):
        raise ModelError(f"{_where(name)} lacks model_cfg")
    file: _File = parse(_File, content, where=_where(name), error=ModelError)
    return file.model_cfg


def _odd(model: _Model) -> Iterator[tuple[str, str]]:
    """What a plain CLIP does not have: settings and their values, with those that are allowed."""
    vision, text = model.vision_cfg, model.text_cfg
    if not isinstance(vision.layers, int):
        yield "vision_cfg.layers", f"{list(vision.layers)}, of a ResNet"
    for part, settings in _PLAIN.items():
        for key, allowed in settings.items():
            value = getattr(getattr(model, part) if part else model, key)
            if value not in allowed:
                written = " or ".join(json.dumps(each) for each in allowed if each not in ("", {}))
                yield f"{part}.{key}".lstrip("."), f"{json.dumps(value)} (allowed: {written})"
    if model.quick_gelu:
        for part, side in (("vision_cfg", vision), ("text_cfg", text)):
            if side.act_kwargs is not None:
                yield f"{part}.act_kwargs", "beside quick_gelu, which takes none"
    if text.pool_type == "eos" and text.eos_id == 2:
        yield "text_cfg.eos_id", "2 (allowed: any other, as transformers takes the largest token of a text instead)"


def _square(value: int | tuple[int, int] | None, key: str, name: str) -> int:
    height, width = value if isinstance(value, tuple) else (value, value)
    if height is None or height != width:
        raise ModelError(f"{_where(name)}: vision_cfg: {key} must be that of a square, got {height} x {width}")
    return height


def _functions(model: _Model, part: _Vision | _Text) -> dict[str, Any]:
    """Activation and norm."""
    act = "quick_gelu" if model.quick_gelu else "gelu"
    if part.act_kwargs is not None and part.act_kwargs.approximate == "tanh":
        act = "gelu_pytorch_tanh"
    return {"hidden_act": act, "layer_norm_eps": (part.norm_kwargs or _Norm()).eps}
