"""Tower: a thin view of the vision encoder inside any supported model, and the places where things mount."""

from __future__ import annotations

import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from threading import RLock
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from radapt.caching import cached
from radapt.errors import AdapterError
from radapt.types import Pixels

from ._hooks import Closed, ImageHook, Mount, PixelHook
from ._layout import Grid, Layout, square

__all__ = ["ImageTower", "Tower", "image_tower"]

_CHANGING = RLock()
"""Held while something is mounted or taken off: what is there is asked and changed in one go, whatever the thread."""
_OTHER_WAYS = ("forward_intermediates",)
"""Methods of vision encoders that take images past their hooks: of open_clip and timm."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tower(ABC):
    """The vision encoder of a model: the only code that knows where its parts live.

    Args:
        root: the module that images enter.
        patch_embedding: the first linear map on pixels.
        blocks: the transformer blocks, in order.
        attention: the first block's self-attention; its output enters the residual sum.
        width: features per token.
        grid: token rows and columns at the configured image size.
        patch_size: side of a patch, in pixels.
        layout: how an image's tokens lie in a sequence.
        mean, std: the model's normalisation per channel, of pixels in [0, 1].
    """

    root: nn.Module
    patch_embedding: nn.Module
    blocks: nn.ModuleList
    attention: nn.Module
    width: int
    grid: Grid
    patch_size: int
    layout: Layout
    mean: Sequence[float]
    std: Sequence[float]

    @property
    def tokens(self) -> int:
        """Number of tokens at the configured image size, prefix included."""
        return self.layout.prefix + self.grid[0] * self.grid[1]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of its images, in pixels; where they are no multiple of the patch, more than the grid's."""
        return self.grid[0] * self.patch_size, self.grid[1] * self.patch_size

    @property
    def has_normalisation(self) -> bool:
        """Whether the encoder itself says how images are normalised: else it is what is usual for its family."""
        return getattr(self.root, "image_mean", None) is not None

    def name_in(self, model: nn.Module) -> str:
        """Name of the encoder in the model that it belongs to: how the names of its parameters begin."""
        names: Iterator[str] = (name for name, module in model.named_modules() if module is self.root)
        return next(names)

    def attention_of(self, block: int) -> nn.Module:
        """Self-attention of a block, which lies there as that of the first block does.

        Raises:
            AdapterError: there is no such block.
        """
        if not 0 <= block < len(self.blocks):
            raise AdapterError(f"there is no block {block}; the vision tower has blocks 0 to {len(self.blocks) - 1}")
        path = next(name for name, module in self.blocks[0].named_modules() if module is self.attention)
        return self.blocks[block].get_submodule(path)

    def normalised(self, mean: Iterable[float], std: Iterable[float]) -> Tower:
        """The same tower with another normalisation, which may be an array."""
        return replace(self, mean=[float(each) for each in mean], std=[float(each) for each in std])

    def mounted(self) -> Mount | None:
        """What is mounted on this tower, if anything."""
        hook = self._hook()
        return None if hook is None else hook.mount

    def _hook(self) -> PixelHook | None:
        hooks = (getattr(hook, "__self__", None) for hook in self.root._forward_pre_hooks.values())
        return next((hook for hook in hooks if isinstance(hook, PixelHook)), None)

    @staticmethod
    def changing() -> AbstractContextManager[object]:
        """A ``with`` block in which no other thread mounts anything, or takes it off."""
        return _CHANGING

    def mount(self, mount: Mount) -> None:
        """Register the hooks; weights and state-dict keys are untouched.

        Raises:
            AdapterError: something is mounted already, or the tower has no such block.
        """
        with self.changing():
            if self.mounted() is not None:
                raise AdapterError("this model already carries an adapter; detach that first: radapt.detach(model)")
            attention = self.attention_of(mount.block)
            hook = self.hook(mount, self.root, self.layout, self.patch_size, self.grid)
            hook.handles = (
                self.root.register_forward_pre_hook(hook.before, with_kwargs=True),
                attention.register_forward_hook(hook.after, with_kwargs=True),
                self.root.register_state_dict_pre_hook(hook.saving),
                *self._guards(hook),
                *(Closed(self.root, name) for name in _OTHER_WAYS if callable(getattr(self.root, name, None))),
            )
            _forget_compiled()

    def _guards(self, hook: PixelHook) -> Iterator[RemovableHandle]:
        """What keeps changed weights out of the state dict of any module around them, and others from being loaded."""
        change = hook.change_of_weights
        for name in () if change is None else change.around:
            module = self.root.get_submodule(name)
            # A partial function, since registering marks it, which no method can be.
            yield module.register_state_dict_post_hook(partial(hook.saved, self.root, name))
            yield module.register_load_state_dict_pre_hook(hook.loading)

    def unmount(self) -> bool:
        """Remove what is mounted, so that the model is exactly as it was; say whether there was anything.

        Raises:
            AdapterError: it was quantised in the meantime, so that it cannot be as it was; what is mounted stays.

        Warns:
            UserWarning: weights with deltas in them were trained in the meantime; that is lost.
        """
        with self.changing():
            hook = self._hook()
            if hook is None:
                return False
            lost = "" if hook.change_of_weights is None else hook.change_of_weights.undo(self.root)
            for handle in hook.handles:
                handle.remove()
            _forget_compiled()
        if lost:  # the model is as it was, even where warnings are errors
            warnings.warn(lost, stacklevel=3)
        return True

    hook: ClassVar[type[PixelHook]]
    head: ClassVar[tuple[str, ...]] = ()
    """What comes after the blocks, as its names begin in the root, where it is not defined after them."""

    @abstractmethod
    def run(self, images: Pixels) -> None:
        """Run the encoder on normalised images, for the sake of hooks."""

    def normalize(self, pixels: Pixels) -> Pixels:
        """Map pixels in [0, 1] to what the encoder takes; differentiable."""
        mean, std = (_per_channel(tuple(each), pixels.dtype, pixels.device) for each in (self.mean, self.std))
        return (pixels - mean) / std


@cached(maxsize=64)
def _per_channel(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """One number per channel, made once: the host would wait for the device at every pass."""
    return torch.tensor(values, dtype=dtype, device="cpu").view(3, 1, 1).to(device)


def _forget_compiled() -> None:
    """Drop compiled graphs: those made of modules without hooks would go on without the hooks added since."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


class ImageTower(Tower):
    """A tower that takes images as a batch and gives one row of tokens per image (CLIP, and LLaVA built on it)."""

    hook = ImageHook

    @property
    def image_size(self) -> tuple[int, int]:
        side = getattr(getattr(self.root, "config", None), "image_size", None)
        return (side, side) if isinstance(side, int) else super().image_size

    def run(self, images: Pixels) -> None:
        self.root(pixel_values=images)


def image_tower(
    model: nn.Module, layout: Layout, mean: Sequence[float], std: Sequence[float], kind: type[Tower] = ImageTower
) -> Tower:
    """Vision encoder, or that of a model with a ``vision_model``, built as those of CLIP and SigLIP are."""
    root: Any = getattr(model, "vision_model", model)
    return kind(
        root=root,
        patch_embedding=root.embeddings.patch_embedding,
        blocks=root.encoder.layers,
        attention=root.encoder.layers[0].self_attn,
        width=root.config.hidden_size,
        grid=square(root.embeddings.num_patches),
        patch_size=root.config.patch_size,
        layout=layout,
        mean=mean,
        std=std,
    )
