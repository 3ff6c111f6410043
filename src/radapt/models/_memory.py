"""Memory: what a model takes, estimated from its configuration alone; no weights are read."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import torch

from radapt.errors import InputError, ModelError, SettingsError, shown
from radapt.numbers import LARGEST_BATCH
from radapt.text import gigabytes

from ._activations import stacks
from ._families import family_of
from ._generative import Generative
from ._open_clip_config import config_of
from ._pretrained import dtype_of, reading
from ._source import locate, model_type, open_clip_config
from ._vlm import VLM
from .llava import Llava
from .qwen_vl import QwenVL, qwen_vl

__all__ = ["Memory", "Part", "estimate"]

_GB = 1e9
_LARGEST_SIDE = 2**16


@dataclass(frozen=True)
class Part:
    """One part of a model: its parameters, the bytes of its weights, and those of its activations."""

    name: str
    parameters: int
    weights_bytes: int
    activation_bytes: int


@dataclass(frozen=True)
class Memory:
    """What a model takes for one pass forwards and backwards; ``str`` of it is a table.

    Args:
        model: its name.
        dtype: of the weights.
        batch_size: images per pass.
        image_size: height and width of the images.
        gradient_checkpointing: whether the blocks are computed again in the backward pass.
        parts: vision tower, projector, language model or text encoder, and what the backward pass through a block adds.
    """

    model: str
    dtype: str
    batch_size: int
    image_size: tuple[int, int]
    gradient_checkpointing: bool
    parts: tuple[Part, ...]

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(part.parameters for part in self.parts)

    @property
    def weights_bytes(self) -> int:
        """Bytes of the weights."""
        return sum(part.weights_bytes for part in self.parts)

    @property
    def activation_bytes(self) -> int:
        """Bytes of the activations kept for the gradient of the pixels, at their peak."""
        return sum(part.activation_bytes for part in self.parts)

    @property
    def total(self) -> int:
        """Bytes of weights and activations; the device's own context and the allocator's gaps come on top."""
        return self.weights_bytes + self.activation_bytes

    def heading(self) -> str:
        """The settings in a few words."""
        height, width = self.image_size
        images = f"{self.batch_size} image{'s' * (self.batch_size != 1)} of {height} x {width}"
        return f"{self.model}, {self.dtype}, {images}" + ", checkpointing" * self.gradient_checkpointing

    def line(self) -> str:
        """The settings, and the bytes in GB."""
        split = f"{self.weights_bytes / _GB:.2f} weights, {self.activation_bytes / _GB:.2f} activations"
        return f"{self.heading()}: about {gigabytes(self.total, 2)} ({split})"

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Parts and their sum: name, millions of parameters, GB of weights, GB of activations."""
        whole = Part("together", self.parameters, self.weights_bytes, self.activation_bytes)
        return [
            (
                part.name,
                f"{part.parameters / 1e6:,.1f}" if part.parameters else "",
                f"{part.weights_bytes / _GB:.2f}" if part.parameters else "",
                f"{part.activation_bytes / _GB:.2f}",
            )
            for part in (*self.parts, whole)
        ]

    def lines(self) -> list[str]:
        """The table as lines of text."""
        table = [("part", "parameters (M)", "weights (GB)", "activations (GB)"), *self.rows()]
        wide = [max(map(len, column)) for column in zip(*table, strict=True)]
        rows = ["  ".join((name.ljust(wide[0]), *map(str.rjust, rest, wide[1:]))) for name, *rest in table]
        return [self.heading(), *rows, f"total {gigabytes(self.total, 2)}"]

    def __str__(self) -> str:
        return "\n".join(self.lines())


def estimate(
    name_or_folder: str | Path,
    *,
    dtype: torch.dtype | str = torch.float32,
    batch_size: int = 1,
    image_size: int | tuple[int, int] | None = None,
    prompt: int = 40,
    answer: int = 20,
    gradient_checkpointing: bool = False,
) -> Memory:
    """Memory of one pass whose gradient goes back to the pixels, without reading weights.

    The model is built from its configuration without storage, and its parameters are counted. Its weights are frozen,
    so that no linear layer keeps its input. A block of width ``d`` with ``q`` features of the queries, ``k`` of the
    keys and of the values, and ``m`` hidden features keeps, per token::

        2 d              inputs of its two norms; in float32 for an RMS norm, which computes in it
        2 q + 2 k        queries, keys, values and the attention's result; no maps, as sdpa keeps none
        m, 2 m or 3 m    inputs of GELU; of quick GELU and its sigmoid; of a gated MLP's two products
        + q + k          in float32, where queries and keys have norms of their own (Qwen3-VL)
        + 2 d            where queries, keys and values come from one matrix and are rotated after (Qwen-VL's tower)

    With one image, ``k`` follows the heads of the keys. With more, prompts are padded: each block of the language model
    repeats the keys for every head of the queries, and keeps a mask of ``tokens^2`` elements per image. The tower's
    tokens are the patches and the class token, of all tiles for LLaVA-NeXT; the language model's are those of the
    image, the prompt and the answer. Further: the patch embedding's input, the norms outside of the blocks,
    the projector's activation, and log-probabilities at the answer's positions, in float32. In the backward pass
    through a block, gradients of its hidden features are added: ``2 m``, or ``3 m`` for quick GELU and a gated MLP.
    With checkpointing, each block keeps ``d`` per token; in the backward pass, one block at a time keeps all of the
    above.

    Args:
        name_or_folder: what :func:`radapt.load` takes; a file of weights does not say what model it is of.
        dtype: of the weights.
        batch_size: images per pass.
        image_size: height and width of the images, or both in one; default: what the model takes, for Qwen-VL that of
            a square image of some 448 pixels.
        prompt: tokens of a prompt beside those of the image; for a model that generates text.
        answer: tokens of an answer; likewise.
        gradient_checkpointing: whether the blocks are computed again in the backward pass.

    Raises:
        UnknownModelError: there is no model of that name.
        ModelError: its configuration is unavailable, it is of an unsupported family, or does not do checkpointing.
        InputError: the model does not take images of that size.
        SettingsError: an unknown dtype, or no images.
    """
    kind, name = dtype_of(dtype), str(name_or_folder)
    if not 1 <= batch_size <= LARGEST_BATCH:
        raise SettingsError(f"batch_size must be at least 1, got {shown(batch_size)}; {LARGEST_BATCH} at most")
    vlm = _outline(name)
    if gradient_checkpointing and not isinstance(vlm, Generative):
        raise ModelError(f"{name} does not generate text; gradient_checkpointing is for a LLaVA or Qwen-VL")
    size = _size(vlm, image_size)
    parts = stacks(vlm, size, batch_size, prompt + answer, answer, kind.itemsize)
    saved = [part.blocks * (part.entry if gradient_checkpointing else part.block) + part.ends for part in parts]
    peaks = [sum(saved[: i + 1]) + part.back + part.block * gradient_checkpointing for i, part in enumerate(parts)]
    rows = [
        Part(part.name, part.parameters, part.parameters * kind.itemsize, activations)
        for part, activations in zip(parts, saved, strict=True)
    ]
    rows.append(Part("on the way back", 0, 0, max(0, max(peaks) - sum(saved))))
    return Memory(name, str(kind).removeprefix("torch."), batch_size, size, gradient_checkpointing, tuple(rows))


def _outline(name: str) -> VLM:
    """The model without storage for its weights, and without a tokenizer."""
    source = locate(name)
    kind = model_type(source, name)
    family_of(kind, "load", name)
    with reading(name):
        return _built(source, kind, name)


def _built(source: str, kind: str, name: str) -> VLM:
    from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

    config: Any
    if kind == "open_clip":
        config, kind = config_of(open_clip_config(source, name), name), "clip"
    else:
        config = AutoConfig.from_pretrained(source)
    generates = hasattr(config, "image_token_id")
    build: Any = AutoModelForImageTextToText if generates else AutoModel
    with torch.device("meta"):
        model = build.from_config(config)
    with catch_warnings():  # no image processor: how images are normalised does not matter here
        simplefilter("ignore", UserWarning)
        vlm: VLM = family_of(kind, "load", name).load(model, name=name)
    if isinstance(vlm, QwenVL):  # its configuration does not say of what size images are
        with suppress(OSError):
            return qwen_vl(name, model, None, type(vlm.processor).from_pretrained(source))
    return vlm


def _size(vlm: VLM, image_size: int | tuple[int, int] | None) -> tuple[int, int]:
    """The size of the images, which must be one that the model takes."""
    if image_size is None:
        return vlm.image_size
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    unit = vlm.tower.patch_size * vlm.tower.layout.merge
    if max(height, width) > _LARGEST_SIDE:
        got = f"{shown(height)} x {shown(width)}"
        raise InputError(f"the sides of images are {_LARGEST_SIDE} pixels at most, got {got}")
    if isinstance(vlm, Llava) and (height, width) != vlm.image_size:
        raise InputError(f"{vlm.name} takes images of {vlm.image_size} only, got {height} x {width}")
    if min(height, width) < unit or (isinstance(vlm, Generative) and (height % unit or width % unit)):
        raise InputError(f"{vlm.name} takes sides that are multiples of {unit} pixels, got {height} x {width}")
    return height, width
