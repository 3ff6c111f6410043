"""open_clip: its checkpoints (LAION's, OpenAI's, RobustVLM's FARE and TeCoA) as an ordinary CLIP; its live objects."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor, nn
from transformers import CLIPModel
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from radapt.errors import ModelError
from radapt.hub import network_errors
from radapt.images import open_image
from radapt.schema import read_json
from radapt.types import Embeddings, Pixels

from ._convert import check_fit, convert, fill, first_line, read_weights
from ._dual import DualEncoder
from ._hooks import ImageHook
from ._layout import Grid, Layout
from ._open_clip_config import CONFIG, config_of, processor_of
from ._pretrained import load_tokenizer
from ._processors import check_normalisation, checked_processor, warn_normalisation
from ._tower import Tower
from ._vlm import VLM, check_texts
from ._zero_shot import Contrastive
from .hf_clip import clip

__all__ = ["CONFIG", "LOADS", "MODEL_TYPES", "WEIGHTS", "OpenClip", "OpenClipTower", "load", "tower"]

MODEL_TYPES = ("CLIP", "CustomTextCLIP")
"""Names of the classes, as its objects have no ``config.model_type``."""
LOADS = ("open_clip", *MODEL_TYPES)
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")


class _Hook(ImageHook):
    argument = "x"

    def blend(self, module: nn.Module, hidden: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Map the output of ``nn.MultiheadAttention``, whose first axis may be the tokens."""
        if getattr(module, "batch_first", True):  # open_clip's own attention, as with qk_norm, has no other order
            return super().blend(module, hidden, grids)
        return super().blend(module, hidden.transpose(0, 1), grids).transpose(0, 1)


class OpenClipTower(Tower):
    """The vision transformer of an open_clip model object."""

    hook = _Hook
    head = ("proj", "ln_post", "attn_pool")

    @property
    def image_size(self) -> tuple[int, int]:
        root: Any = self.root
        height, width = root.image_size
        return int(height), int(width)

    def run(self, images: Pixels) -> None:
        self.root(images)


def tower(model: nn.Module) -> Tower:
    """Vision encoder of an ``open_clip.CLIP`` or ``CustomTextCLIP``.

    Raises:
        ModelError: it is no vision transformer of open_clip's own, for square images, with one embedding per image.
    """
    root: Any = model.visual
    if not all(hasattr(root, each) for each in ("conv1", "transformer", "grid_size", "image_size")):
        raise ModelError(
            f"an open_clip model with a {type(root).__name__} cannot carry an adapter or be loaded; allowed is "
            "open_clip's own vision transformer"
        )
    if getattr(root, "output_tokens", False):
        raise ModelError(
            "an open_clip model whose output_tokens is true cannot be loaded; set visual.output_tokens = False"
        )
    if getattr(root, "pool_type", "tok") == "none":
        raise ModelError("an open_clip model whose pool_type is 'none' has no image embedding; allowed are tok, avg")
    return OpenClipTower(
        root=root,
        patch_embedding=root.conv1,
        blocks=root.transformer.resblocks,
        attention=root.transformer.resblocks[0].attn,
        width=root.conv1.out_channels,
        grid=tuple(root.grid_size),
        patch_size=root.conv1.kernel_size[0],
        layout=Layout(prefix=1),
        mean=getattr(root, "image_mean", None) or OPENAI_CLIP_MEAN,
        std=getattr(root, "image_std", None) or OPENAI_CLIP_STD,
    )


class OpenClip(Contrastive):
    """A live open_clip model with its tokenizer, ``open_clip.get_tokenizer(...)``.

    Args:
        name: what reports call it.
        model: an ``open_clip.CLIP`` or ``CustomTextCLIP``.
        tokenizer: its tokenizer; None: it cannot encode text.
        normalisation: mean and standard deviation per channel; None: those that the model itself has.
    """

    model: Any

    def __init__(
        self, name: str, model: Any, tokenizer: Any, normalisation: tuple[Sequence[float], Sequence[float]] | None
    ) -> None:
        tower(model)  # which refuses what is no vision transformer
        side, width = (int(each) for each in model.visual.image_size)
        if side != width:
            raise ModelError(f"an open_clip model for images of {side} x {width} cannot be loaded; allowed is a square")
        super().__init__(name, model, image_size=(side, side))
        self.tokenizer, self._normalisation = tokenizer, normalisation
        self._images = processor_of(getattr(model.visual, "preprocess_cfg", {}), name, side)

    @property
    def tower(self) -> Tower:
        if self._normalisation is None:
            return tower(self.model)
        mean, std = self._normalisation
        return replace(tower(self.model), mean=mean, std=std)

    @property
    def logit_scale(self) -> float:
        return float(self.model.logit_scale.detach().exp())

    def _factor(self, embedding: Tensor) -> Tensor:
        scale: Tensor = self.model.logit_scale.detach().exp()
        return scale.to(embedding)

    def image_parameters(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.model.named_parameters() if name.startswith("visual.")}

    def encode_image(self, pixels: Pixels) -> Embeddings:
        self.check_size(pixels)
        normalized = self.normalize(pixels).to(self.model.visual.conv1.weight.dtype)
        embedding: Tensor = self.model.encode_image(normalized)
        return embedding

    def encode_text(self, texts: Sequence[str]) -> Embeddings:
        check_texts(texts)
        if self.tokenizer is None:
            raise ModelError(
                f"{self.name} came without a tokenizer; pass open_clip's: "
                "radapt.load(model, tokenizer=open_clip.get_tokenizer(...))"
            )
        tokens = self.tokenizer(list(texts))
        if not isinstance(tokens, Tensor) or tokens.ndim != 2 or len(tokens) != len(texts):
            raise ModelError(
                f"the tokenizer of {self.name} must give the tokens of each text as a row of one tensor, as "
                f"open_clip.get_tokenizer(...) does; got {type(tokens).__name__}"
            )
        with torch.no_grad():
            embedding: Tensor = self.model.encode_text(tokens.to(self.device))
        return embedding

    def preprocess(self, image: Image) -> Float[Tensor, "3 height width"]:
        values = self._images(open_image(image), do_normalize=False, return_tensors="pt")
        return torch.as_tensor(values["pixel_values"][0], device="cpu").clamp(0, 1)

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        raise ModelError(
            "an open_clip object is saved by open_clip; load its checkpoint with radapt.load to save it here"
        )


def load(
    source: str | Path | nn.Module,
    *,
    name: str,
    tokenizer: Any = None,
    processor: Any = None,
    base: VLM | None = None,
    dtype: torch.dtype = torch.float32,
) -> VLM:
    """Load an open_clip checkpoint as an ordinary CLIP, or wrap a live object.

    Args:
        source: ``hf-hub:owner/name``, a folder with ``open_clip_config.json`` and weights, a file of weights, or a
            model object.
        name: what reports call it.
        tokenizer: its tokenizer, where none lies beside the weights.
        processor: its image processor, or the transform that open_clip makes; None: mean and standard deviation are
            those of the configuration, or those that a model object has.
        base: for a file, which does not say what model it is of: the CLIP that it was trained from. A file that holds a
            vision tower alone, as RobustVLM publishes them, takes the text encoder of that, too. An adapter that it
            carries stays its own.
        dtype: of the weights.

    Raises:
        ModelError: unavailable or unreadable files, another architecture, or missing or extra tensors.
    """
    if isinstance(source, nn.Module):
        return _wrapped(source, name, tokenizer, processor)
    file, config, here = _files(str(source), name)
    settings = None if config is None else config_of(config, name)
    weights = convert(read_weights(file))
    if settings is None:
        if not isinstance(base, DualEncoder):
            raise ModelError(
                f"{name} is a file of weights, which does not say what model it is of; name the CLIP that it was "
                'trained from: radapt.load(file, base="openai/clip-vit-large-patch14")'
            )
        own = copy.deepcopy(base.model)
        base._tower(own).unmount()
        whole = not all(key.startswith(("vision_model.", "visual_projection.")) for key in weights)
        fill(own, weights, name, part="" if whole else "vis")
        return clip(
            name,
            own.to(dtype),
            tokenizer or base.tokenizer,
            base.processor if processor is None else checked_processor(processor),
        )
    with torch.device("meta"):  # nothing is made of a size that the weights do not have
        check_fit(CLIPModel(settings), weights, name)
    model: Any = CLIPModel(settings)
    fill(model, weights, name)
    if tokenizer is None:
        tokenizer = load_tokenizer(here, name, model.config.text_config.vocab_size)
    if processor is None:
        processor = processor_of(config.get("preprocess_cfg", {}), name, model.config.vision_config.image_size)
    return clip(name, model.to(dtype), tokenizer, checked_processor(processor))


def _wrapped(model: Any, name: str, tokenizer: Any, processor: Any) -> OpenClip:
    """A model object, with the normalisation of its processor, or else with its own, which not all objects have."""
    if processor is not None:
        steps = [processor, *getattr(processor, "transforms", ())]  # torchvision's Compose ends with Normalize
        normalise = next((step for step in reversed(steps) if hasattr(step, "mean") and hasattr(step, "std")), None)
        if normalise is not None:
            check_normalisation(normalise.mean, normalise.std)
            return OpenClip(name, model, tokenizer, (normalise.mean, normalise.std))
        images = checked_processor(processor)
        return OpenClip(name, model, tokenizer, (images.image_mean, images.image_std))
    wrapped = OpenClip(name, model, tokenizer, None)
    check_normalisation(wrapped.tower.mean, wrapped.tower.std)
    if not wrapped.tower.has_normalisation:
        warn_normalisation(name, wrapped.tower.mean, wrapped.tower.std)
    return wrapped


def _files(source: str, name: str) -> tuple[Path, Any, str]:
    """The weights, the configuration where there is one, and where a tokenizer may lie."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError

    path = Path(source)
    if path.is_file():
        return path, None, str(path.parent)
    repository = source.removeprefix("hf-hub:")
    try:
        if path.is_dir():
            weights = [path / each for each in WEIGHTS if (path / each).exists()]
            file = path / CONFIG
        else:
            file, weights = Path(hf_hub_download(repository, CONFIG)), []
            for each in WEIGHTS:
                try:
                    weights.append(Path(hf_hub_download(repository, each)))
                    break
                except (EntryNotFoundError, LocalEntryNotFoundError):
                    continue
        config = read_json(file, error=ModelError) or {}
    except network_errors(LocalEntryNotFoundError, HFValidationError) as error:
        raise ModelError(
            f"cannot fetch {name!r} from the hub ({type(error).__name__}). Without network, pass a local folder with "
            f"{CONFIG} and {WEIGHTS[0]}, or set HF_HOME to a filled cache; for a gated repository set HF_TOKEN"
        ) from error
    except (OSError, ValueError, ModelError) as error:
        raise ModelError(f"{name!r} has no readable {CONFIG}: {first_line(error)}") from error
    if not weights:
        raise ModelError(f"{name!r} has no weights; expected is one of {', '.join(WEIGHTS)}")
    return weights[0], config, repository
