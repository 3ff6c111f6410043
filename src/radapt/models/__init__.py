"""Models: one file per family; :func:`load` and :func:`tower_of` find the right one by the model's own config."""

from __future__ import annotations

import importlib
import json
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from radapt.errors import ModelError, UnknownModelError
from radapt.find import members, nearest

from ._tower import Grid, Layout, Mount, Tower, place_tokens
from ._vlm import VLM

__all__ = ["VLM", "Grid", "Layout", "Mount", "Tower", "families", "load", "micro_models", "place_tokens", "tower_of"]

_FILES = (".safetensors", ".pt", ".pth", ".bin")
_OPEN_CLIP = "open_clip_config.json"
_MICRO = Path(str(files("radapt"))) / "micro" / "weights"


def micro_models() -> list[str]:
    """Names of the models that ship with the package."""
    return sorted(f"micro/{folder.parent.name}" for folder in _MICRO.glob("*/config.json"))


def families() -> list[tuple[str, tuple[str, ...], bool]]:
    """Supported families: member, the ``model_type`` values it covers, and whether :func:`load` loads it whole."""
    return [(name, family.MODEL_TYPES, hasattr(family, "load")) for name, family in _members()]


def _members() -> list[tuple[str, ModuleType]]:
    return [(name, importlib.import_module(f"{__name__}.{name.replace('-', '_')}")) for name in members(__name__)]


def _family(model_type: str, wanted: str, name: str) -> ModuleType:
    listed = "LOADS" if wanted == "load" else "MODEL_TYPES"
    able = [family for _, family in _members() if hasattr(family, listed)]
    for family in able:
        if model_type in getattr(family, listed):
            return family
    supported = [kind for family in able for kind in getattr(family, listed)]
    what = "be loaded by radapt.load" if wanted == "load" else "carry an adapter"
    raise ModelError(f"{name}: a model of type {model_type!r} cannot {what}{nearest(model_type, supported)}")


def _model_type(model: nn.Module) -> str:
    return str(getattr(getattr(model, "config", None), "model_type", "") or type(model).__name__)


def tower_of(model: VLM | nn.Module) -> Tower:
    """The vision encoder of a VLM or of a model object.

    Raises:
        ModelError: the model is of an unsupported family.
    """
    if isinstance(model, VLM):
        return model.tower
    module = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    tower: Tower = _family(_model_type(module), "tower", type(module).__name__).tower(module)
    return tower


def load(
    model: str | Path | nn.Module | VLM,
    *,
    tokenizer: Any = None,
    base: str | Path | VLM | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> VLM:
    """Load a vision-language model.

    Args:
        model: ``micro/...`` (ships with the package), a name on the Hugging Face hub (that of an open_clip checkpoint
            may begin with ``hf-hub:``), a folder, a file of weights as open_clip or RobustVLM save them, or a model
            object such as ``transformers.CLIPModel`` (wrapped, not copied).
        tokenizer: for a model object, its tokenizer; needed to encode text.
        base: for a file of weights, the CLIP that it was trained from; a file with a vision tower alone takes the text
            encoder of that.
        device, dtype: where and in what precision the weights are; a model object keeps its own precision.

    Raises:
        UnknownModelError: there is no model of that name.
        ModelError: files that cannot be had or read, or an unsupported family.
    """
    if isinstance(model, VLM):
        return model
    if isinstance(model, nn.Module):
        name = str(getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__)
        loaded: VLM = _family(_model_type(model), "load", name).load(model, name=name, tokenizer=tokenizer)
        return loaded.to(device)
    name, source = str(model), str(model)
    if name.startswith("micro/"):
        if name not in micro_models():
            raise UnknownModelError(f"unknown model {name!r}{nearest(name, micro_models())}")
        source = str(_MICRO / name.removeprefix("micro/"))
    kind = _read_type(source, name)
    family = _family(kind, "load", name)
    named = {} if base is None else {"base": load(base)}
    if named and kind != "open_clip":
        raise ModelError(f"base is for a file of weights, but {name!r} is a whole model")
    loaded = family.load(source, name=name, tokenizer=tokenizer, dtype=dtype, **named)
    loaded.model.eval().requires_grad_(False)
    return loaded.to(device)


def _read_type(source: str, name: str) -> str:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    folder = Path(source)
    if source.startswith("hf-hub:") or folder.suffix in _FILES or (folder / _OPEN_CLIP).exists():
        if folder.suffix in _FILES and not folder.is_file():
            raise UnknownModelError(f"there is no file {name!r}{nearest(name, micro_models())}")
        if not (folder / "config.json").exists():
            return "open_clip"
    if not folder.is_dir() and (folder.exists() or len(folder.parts) != 2):
        near = nearest(name, micro_models())
        raise UnknownModelError(f"unknown model {name!r}: neither a folder nor a name on the hub (owner/name){near}")
    try:
        config = folder / "config.json" if folder.is_dir() else Path(hf_hub_download(source, "config.json"))
        return str(json.loads(config.read_text())["model_type"])
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError) as error:
        raise ModelError(
            f"cannot fetch {name!r} from the hub ({type(error).__name__}){nearest(name, micro_models())}. Without "
            "network, pass a local folder or set HF_HOME to a filled cache; for a gated repository set HF_TOKEN"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{name!r} has no readable config.json with a model_type: {error}") from error
