"""Tower: a thin view of the vision encoder inside any supported model, and the two places where things mount."""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from radapt.errors import AdapterError
from radapt.types import Pixels

__all__ = ["Grid", "ImageTower", "Layout", "Mount", "PixelHook", "Tower", "image_tower", "place_tokens", "square"]

Grid = tuple[int, int]
"""Token rows and columns of one image."""


@dataclass(frozen=True)
class Layout:
    """How the tokens of an image lie in a sequence.

    Args:
        prefix: number of tokens before the patches (the class token).
        merge: side of the squares of patches that lie together (Qwen-VL: 2); 1 is row by row.
        window: side of the windows of such squares that lie together (Qwen2.5-VL), counted in squares; 0: none.
    """

    prefix: int = 0
    merge: int = 1
    window: int = 0

    def order(self, grid: Grid) -> Tensor:
        """Row-major patch number at each position of the sequence."""
        height, width = grid
        m = self.merge
        numbers = torch.arange(height * width, device="cpu").view(height // m, m, width // m, m).permute(0, 2, 1, 3)
        if not self.window:
            return numbers.reshape(-1)
        rows = numbers.split(self.window, 0)
        return torch.cat([window.reshape(-1) for row in rows for window in row.split(self.window, 1)])


class Mount(Protocol):
    """What mounts on a tower. The hooks refer to it, so a deep copy of a model copies what is mounted on it.

    Args:
        block: the block whose attention output it maps, from 0.
    """

    block: int

    def pixels(self, images: Tensor) -> Tensor:
        """Map images (batch x channels x height x width, as normalised by the model) as they enter the tower."""
        ...

    def attention(self, output: Tensor, grids: Sequence[Grid], layout: Layout) -> Tensor:
        """Map the attention output of its block as it enters the residual sum.

        ``output`` is batch x tokens x features with one grid for all rows, or tokens x features with the images
        of ``grids`` laid end to end.
        """
        ...


def place_tokens(
    tokens: Float[Tensor, "tokens features"], grid: Grid, to: Grid, layout: Layout
) -> Float[Tensor, "placed features"]:
    """Interpolate a token grid to another grid and lay it out in sequence order.

    Prefix tokens are kept; patch tokens are resized bicubically, as position embeddings are.

    Args:
        tokens: prefix tokens, then patches row by row over ``grid``.
        grid: token rows and columns of ``tokens``.
        to: token rows and columns of the image at hand.
        layout: the order of the tower's sequence.
    """
    prefix, patches = tokens[: layout.prefix], tokens[layout.prefix :]
    if grid != to:
        image = patches.T.reshape(1, -1, *grid).float()
        image = F.interpolate(image, size=to, mode="bicubic", align_corners=False, antialias=True)
        patches = image.to(patches.dtype).flatten(2)[0].T
    if layout.merge > 1 or layout.window:
        patches = patches[layout.order(to).to(patches.device)]
    return torch.cat([prefix, patches])


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

    def mounted(self) -> Mount | None:
        """What is mounted on this tower, if anything."""
        hooks = (getattr(hook, "__self__", None) for hook in self.root._forward_pre_hooks.values())
        return next((hook.mount for hook in hooks if isinstance(hook, PixelHook)), None)

    def mount(self, mount: Mount) -> None:
        """Register the two hooks; weights and state-dict keys are untouched.

        Raises:
            AdapterError: something is mounted already, or the tower has no such block.
        """
        if self.mounted() is not None:
            raise AdapterError("this model already carries an adapter; detach that first: radapt.detach(model)")
        hook, attention = self.hook(mount, self), self.attention_of(mount.block)
        self.root.register_forward_pre_hook(hook.before, with_kwargs=True)
        attention.register_forward_hook(hook.after)
        _forget_compiled()

    def unmount(self) -> bool:
        """Remove what is mounted, so that the model is exactly as it was; say whether there was anything."""
        mount = self.mounted()
        if mount is None:
            return False
        for hooks in (self.root._forward_pre_hooks, self.attention_of(mount.block)._forward_hooks):
            for key in [k for k, h in hooks.items() if isinstance(getattr(h, "__self__", None), PixelHook)]:
                del hooks[key]
                self.root._forward_pre_hooks_with_kwargs.pop(key, None)
        _forget_compiled()
        return True

    hook: ClassVar[type[PixelHook]]
    head: ClassVar[tuple[str, ...]] = ()
    """What comes after the blocks, as its names begin in the root, where it is not defined after them."""

    @abstractmethod
    def run(self, images: Pixels) -> None:
        """Run the encoder on normalised images, for the sake of hooks."""

    def normalize(self, pixels: Pixels) -> Pixels:
        """Map pixels in [0, 1] to what the encoder takes; differentiable."""
        mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return (pixels - mean) / std


def _forget_compiled() -> None:
    """Drop compiled graphs: those made of modules without hooks would go on without the hooks added since."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


class PixelHook(ABC):
    """The pair of hooks of one mount: one before the tower's root, one after an attention."""

    argument: ClassVar[str]

    def __init__(self, mount: Mount, tower: Tower) -> None:
        self.mount, self.layout, self.patch_size = mount, tower.layout, tower.patch_size
        self.grids: list[Grid] = []

    def before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Map the images, given by keyword or as the first positional argument."""
        if kwargs.get(self.argument) is not None:
            return args, {**kwargs, self.argument: self.change(kwargs[self.argument], args, kwargs)}
        return (self.change(args[0], args, kwargs), *args[1:]), kwargs

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Map the attention output, alone or as the first of a tuple."""
        if isinstance(output, tuple):
            return (self.mount.attention(output[0], self.grids, self.layout), *output[1:])
        return self.mount.attention(output, self.grids, self.layout)

    @abstractmethod
    def change(self, pixels: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Map the pixels in the form in which they enter the root, and note the token grids of the images."""


class _ImageHook(PixelHook):
    argument = "pixel_values"

    def change(self, pixels: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        self.grids = [(pixels.shape[-2] // self.patch_size, pixels.shape[-1] // self.patch_size)]
        return self.mount.pixels(pixels)


class ImageTower(Tower):
    """A tower that takes images as a batch and gives one row of tokens per image (CLIP, and LLaVA built on it)."""

    hook = _ImageHook

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


def square(patches: int) -> Grid:
    """Token grid of a square image."""
    side = math.isqrt(patches)
    return side, side
