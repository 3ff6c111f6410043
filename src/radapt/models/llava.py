"""LLaVA 1.5 and 1.6 (LLaVA-NeXT): a CLIP or SigLIP tower whose tokens a language model reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor, nn
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from radapt.errors import ModelError
from radapt.images import open_image
from radapt.registry import nearest
from radapt.types import Pixels

from . import hf_clip, siglip
from ._generative import Generative, chat_template
from ._pretrained import pretrained, reading
from ._processors import image_processor
from ._tower import Tower

__all__ = ["LOADS", "MODEL_TYPES", "TEMPLATE", "Llava", "LlavaNext", "llava", "load", "tower"]

MODEL_TYPES = ("llava", "llava_next")
LOADS = MODEL_TYPES
TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
"""Prompt of LLaVA 1.5 (Liu et al. 2023), for checkpoints that come without one."""


def tower(model: nn.Module) -> Tower:
    """Vision encoder of a ``LlavaForConditionalGeneration``, ``LlavaNextForConditionalGeneration`` or inner model.

    Raises:
        ModelError: its vision encoder is neither a CLIP nor a SigLIP.
    """
    inner: Any = getattr(model, "model", model)
    kind = inner.vision_tower.config.model_type
    for family in (hf_clip, siglip):
        if kind in family.MODEL_TYPES:
            result: Tower = family.tower(inner.vision_tower)
            return result
    allowed = (hf_clip.MODEL_TYPES[1], siglip.MODEL_TYPES[1])
    raise ModelError(f"a LLaVA on a {kind!r} cannot carry an adapter{nearest(kind, allowed)}")


class Llava(Generative):
    """LLaVA 1.5: one square image, whose patches are tokens of the prompt."""

    def _image_inputs(self, pixels: Pixels) -> dict[str, Any]:
        self.check_size(pixels)
        return {"pixel_values": self.normalize(pixels).to(self.model.dtype)}

    def image_tokens(self, height: int, width: int) -> int:
        patch, config = self.tower.patch_size, self.model.config
        tokens = (height // patch) * (width // patch) + self.tower.layout.prefix
        return int(tokens - (config.vision_feature_select_strategy == "default"))

    def preprocess(self, image: Image) -> Float[Tensor, "3 height width"]:
        values = self.processor(open_image(image), do_normalize=False, return_tensors="pt")["pixel_values"][0]
        return torch.as_tensor(values, device="cpu").clamp(0, 1)


class LlavaNext(Llava):
    """LLaVA 1.6: an image of two by two tiles, and the same image shrunk to one, each through the tower.

    Of the resolutions that the model was trained on, images are brought to the square one. The shrunk image is made
    from the pixels, differentiably, so that an attack sees both.
    """

    def _image_inputs(self, pixels: Pixels) -> dict[str, Any]:
        side = int(self.model.config.vision_config.image_size)
        height, width = pixels.shape[-2:]
        if [height, width] not in [list(each) for each in self.model.config.image_grid_pinpoints]:
            raise ModelError(f"{self.name} takes images of {self.image_size}, got {height} x {width}")
        pixels = self.transformed(pixels)  # a defence sees the image, not its tiles
        whole = F.interpolate(pixels, size=(side, side), mode="bicubic", align_corners=False, antialias=True)
        tiles = [part for row in pixels.split(side, 2) for part in row.split(side, 3)]
        batch = torch.stack([whole, *tiles], 1).flatten(0, 1)
        values = self.tower.normalize(batch).to(self.model.dtype)
        sizes = torch.tensor([[height, width]] * len(pixels), device=pixels.device)
        return {"pixel_values": values.view(len(pixels), -1, *values.shape[1:]), "image_sizes": sizes}

    def image_tokens(self, height: int, width: int) -> int:
        side = int(self.model.config.vision_config.image_size)
        rows, columns = height // self.tower.patch_size, width // self.tower.patch_size
        return super().image_tokens(side, side) + rows * (columns + 1)

    def preprocess(self, image: Image) -> Float[Tensor, "3 height width"]:
        height, width = self.image_size
        size = {"shortest_edge": min(height, width)}
        crop = {"height": height, "width": width}
        values = self.processor(open_image(image), do_normalize=False, size=size, crop_size=crop, return_tensors="pt")[
            "pixel_values"
        ][0]
        return torch.as_tensor(values, device="cpu").clamp(0, 1)


def llava(name: str, model: Any, tokenizer: Any, processor: Any, template: str = TEMPLATE) -> Llava:
    """A ``LlavaForConditionalGeneration`` or ``LlavaNextForConditionalGeneration`` with its parts.

    Raises:
        ModelError: a LLaVA-NeXT that was not trained on a square of two by two tiles, features of the tower that it
            does not have, or an image processor that pads.
    """
    count, chosen = len(tower(model).blocks), model.config.vision_feature_layer
    for layer in chosen if isinstance(chosen, list | tuple) else [chosen]:
        if type(layer) is not int or not 1 <= abs(layer) <= count:
            raise ModelError(
                f"{name}: vision_feature_layer must be a block from 1 to {count} or from -{count} to -1, got {layer!r}"
            )
    side = int(model.config.vision_config.image_size)
    next_ = model.config.model_type == "llava_next"
    if next_ and [2 * side, 2 * side] not in [list(each) for each in model.config.image_grid_pinpoints]:
        raise ModelError(f"{name} was not trained on images of {2 * side} x {2 * side}, which this library needs")
    if not next_ and getattr(processor, "do_pad", None) is True:  # of a LLaVA-NeXT it fills up batches of tiles
        raise ModelError(
            f"the image processor of {name} pads images to a square (do_pad), which is not done here: they would be "
            "cut instead; set do_pad to false where the model works without, or pad the images before"
        )
    kind, size = (LlavaNext, 2 * side) if next_ else (Llava, side)
    return kind(name, model, tokenizer, processor, tower=tower, template=template, image_size=(size, size))


def load(
    source: str | Path | nn.Module,
    *,
    name: str,
    tokenizer: Any = None,
    processor: Any = None,
    dtype: torch.dtype = torch.float32,
    device_map: str | None = None,
) -> Llava:
    """Load a LLaVA from the hub or a folder, or wrap one that is already loaded.

    Raises:
        ModelError: the files are unavailable or unreadable, or the tokenizer did not really load.
    """
    if isinstance(source, nn.Module):
        wrapped: Any = source
        path = getattr(wrapped.config, "_name_or_path", "")
        template = chat_template(path, processor, tokenizer, default=TEMPLATE, local=True)
        side = wrapped.config.vision_config.image_size
        square = {"height": side, "width": side}
        on_clip = wrapped.config.vision_config.model_type in hf_clip.MODEL_TYPES
        size: dict[str, Any] = {"size": {"shortest_edge": side}, "crop_size": square} if on_clip else {"size": square}
        images = CLIPImageProcessorPil if on_clip else SiglipImageProcessorPil
        processor = image_processor(wrapped, name, processor, images, **size)
        return llava(name, source, tokenizer, processor, template)
    from transformers import AutoConfig, AutoModelForImageTextToText

    with reading(name):
        kind: Any = AutoConfig.from_pretrained(source).vision_config.model_type
    images, given = CLIPImageProcessorPil if kind in hf_clip.MODEL_TYPES else SiglipImageProcessorPil, processor
    model, tokenizer, processor = pretrained(
        AutoModelForImageTextToText,
        images,
        source,
        name,
        tokenizer=tokenizer,
        processor=processor,
        dtype=dtype,
        device_map=device_map,
    )
    return llava(name, model, tokenizer, processor, chat_template(source, given, tokenizer, default=TEMPLATE))
