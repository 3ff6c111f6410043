"""VLM: a loaded vision-language model that takes pixels in [0, 1] and owns its normalisation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor, nn

from radapt.errors import InputError, ModelError, SettingsError
from radapt.fingerprint import code_digest, version_of
from radapt.types import Embeddings, Pixels

from ._hooks import Mount
from ._identity import identity_of
from ._mode import evaluating
from ._tower import Tower

__all__ = ["VLM", "check_texts"]

_PASSES = ("encode_image", "encode_text", "encode_patches", "logits", "answer_scores", "generate")
"""Methods that run the module: in evaluation mode, in every subclass."""


_BESIDE = ("name", "model", "input_transform", "gradient_checkpointing")
"""Attributes that change no output, or stand for themselves in a fingerprint."""


class VLM(ABC):
    """A vision-language model behind one interface; nothing in it is ever trained in place.

    What it does with texts is in its subclasses: :class:`ZeroShotModel`, :class:`Contrastive`, :class:`Generative`.
    It computes in evaluation mode, without dropout, whatever the mode of the module, which stays as it is.

    Args:
        name: what reports call it: its name on the hub, its folder, or ``micro/...``.
        model: the module itself.
        image_size: height and width of its input, in pixels.

    Attributes:
        input_transform: what is done to pixels in [0, 1] before they are normalised; None for nothing.
    """

    def __init__(self, name: str, model: nn.Module, *, image_size: tuple[int, int]) -> None:
        self.name, self.model, self.image_size = name, model, image_size
        self.input_transform: Callable[[Tensor], Tensor] | None = None

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        for name in _PASSES:
            if name in vars(cls):
                setattr(cls, name, _evaluated(vars(cls)[name]))

    def __repr__(self) -> str:
        height, width = self.image_size
        millions = sum(parameter.numel() for parameter in self.model.parameters()) / 1e6
        state = ", defended" if self.defended else ""
        return f"{type(self).__name__}({self.name!r}, {height} x {width} px, {millions:.3g} M parameters{state})"

    @property
    @abstractmethod
    def tower(self) -> Tower:
        """The vision encoder."""

    @abstractmethod
    def image_parameters(self) -> dict[str, Tensor]:
        """What the image embedding depends on, by name: the vision encoder and its projection."""

    @property
    def device(self) -> torch.device:
        """Where the weights are; the CPU where accelerate fetches them for each pass."""
        there = (parameter.device for parameter in self.model.parameters() if not parameter.is_meta)
        return next(there, torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights; float32 without any."""
        return next((parameter.dtype for parameter in self.model.parameters()), torch.float32)

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides its outputs but what is attached to it: weights, buffers and their types,
        configuration, modules, normalisation, tokenizer, image processor, chat template, end tokens."""
        beside = {name: value for name, value in vars(self).items() if name not in _BESIDE}
        try:
            normalisation = [self.tower.mean, self.tower.std]
        except (NotImplementedError, ModelError):  # a family without a vision tower that is known here
            normalisation = []
        ends = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        if ends is not None:  # of a model that speaks
            beside["ends"] = ends
        beside |= {"kind": version_of(type(self)), "normalisation": normalisation}
        return identity_of(self.model, beside)

    @property
    def fingerprint_as_it_is(self) -> str:
        """The fingerprint, and that of the adapter and the input defence that are attached to it now."""
        return f"{self.fingerprint} {code_digest(self.attachments)}"

    @property
    def attachments(self) -> tuple[Mount | None, Callable[[Tensor], Tensor] | None]:
        """What changes its outputs: an adapter, and a transform of its input; None where there is none."""
        try:
            mount = self.tower.mounted()
        except (NotImplementedError, ModelError):  # without a vision tower that is known here, nothing is mounted
            mount = None
        return mount, self.input_transform

    @property
    def defended(self) -> bool:
        """Whether something that changes its outputs is attached: an adapter, or a transform of its input."""
        return self.attachments != (None, None)

    def check_bare(self) -> None:
        """Refuse a model to which something is attached, for what is made of the model itself.

        Raises:
            SettingsError: it carries an adapter, or an input defence.
        """
        mount, transform = self.attachments
        if mount is not None:
            raise SettingsError(f"{self.name} carries an adapter; detach it first: radapt.detach(model)")
        if transform is not None:
            raise SettingsError(
                f"{self.name} carries an input defence; leave its with block first, or take it off: attachment.detach()"
            )

    @contextmanager
    def undefended(self) -> Iterator[None]:
        """The model without what is attached to it, for the time of a ``with`` block."""
        transform, mount = self.input_transform, self.tower.mounted()
        try:
            self.tower.unmount()
            self.input_transform = None
            yield
        finally:
            self.input_transform = transform
            if mount is not None and self.tower.mounted() is None:
                self.tower.mount(mount)

    def evaluating(self) -> AbstractContextManager[None]:
        """The module in evaluation mode, for the time of a ``with`` block; its parts' own modes come back after it."""
        return evaluating(self.model)

    def to(self, device: torch.device | str) -> Self:
        """Move the weights, in place."""
        self.model.to(device)
        return self

    def normalize(self, pixels: Pixels) -> Pixels:
        """Map pixels in [0, 1] to what the vision encoder takes; differentiable."""
        if pixels.ndim != 4 or pixels.shape[1] != 3 or not pixels.is_floating_point():
            raise InputError(
                f"pixels must be a float tensor, batch x 3 x height x width, in [0, 1]; "
                f"got {tuple(pixels.shape)} of {pixels.dtype}"
            )
        return self.tower.normalize(self.transformed(pixels))

    def check_size(self, pixels: Pixels) -> None:
        """Refuse images of another size than the model's, where it takes no other.

        Raises:
            ModelError: they are.
        """
        if tuple(pixels.shape[-2:]) != self.image_size:
            (height, width), got = self.image_size, tuple(pixels.shape[-2:])
            raise ModelError(
                f"{self.name} takes images of {height} x {width} pixels, got {got[0]} x {got[1]}; read the dataset in "
                f"that size: radapt.load_dataset(..., size={height})"
            )

    def transformed(self, pixels: Pixels) -> Pixels:
        """What the input transform, if there is one, makes of a copy of pixels in [0, 1]."""
        if self.input_transform is None:
            return pixels
        found = self.input_transform(pixels.clone())
        if not isinstance(found, Tensor) or found.shape != pixels.shape:
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InputError(f"a defence maps images to images of the same shape, {tuple(pixels.shape)}; got {got}")
        return found

    @abstractmethod
    def encode_image(self, pixels: Pixels) -> Embeddings:
        """Unnormalised image embeddings; differentiable with respect to the pixels.

        Args:
            pixels: images in [0, 1], batch x 3 x height x width.

        Raises:
            InputError: wrong shape or dtype.
        """

    @abstractmethod
    def preprocess(self, image: Image) -> Float[Tensor, "3 height width"]:
        """Resize and crop an image to the model's input, in [0, 1], before normalisation."""

    @abstractmethod
    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write weights (in ``dtype``), tokenizer and processor in the model's own format."""


def _evaluated(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def run(self: VLM, *args: Any, **settings: Any) -> Any:
        with self.evaluating():
            return method(self, *args, **settings)

    return run


def check_texts(texts: Sequence[str]) -> None:
    """Refuse no texts, and empty ones.

    Raises:
        InputError: there is none, or one is empty.
    """
    if not texts or not all(text.strip() for text in texts):
        raise InputError(f"texts must be non-empty sentences, got {list(texts)[:3]!r}")
