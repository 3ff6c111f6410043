"""Hooks: what is called before a vision encoder, after one of its attentions, and before its weights are saved."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from inspect import currentframe, signature
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from radapt.errors import AdapterError, InputError
from radapt.fingerprint import code_digest

from ._deltas import Delta, WeightChange
from ._layout import Grid, Layout

__all__ = ["Closed", "ImageHook", "Mount", "PixelHook"]

_GRIDS = "radapt_grids"
_SAVERS = {"save_pretrained", "push_to_hub", "save_model", "save_for_hf"}
"""Functions that write a model as a whole: of transformers and PEFT, of safetensors and accelerate, of open_clip."""


class Mount(Protocol):
    """What mounts on a tower. The hooks refer to it, so a deep copy of a model copies what is mounted on it.

    Args:
        block: the block whose attention output it maps, from 0.
        deltas: what it adds to weights of the tower, by the names of the root's parameters.
    """

    block: int
    deltas: Mapping[str, Delta]

    def pixels(self, images: Tensor) -> Tensor:
        """Map images (batch x channels x height x width, as normalised by the model) as they enter the tower."""
        ...

    def attention(self, output: Tensor, grids: Sequence[Grid], layout: Layout) -> Tensor:
        """Map the attention output of its block as it enters the residual sum.

        ``output`` is batch x tokens x features with one grid for all rows, or tokens x features with the images
        of ``grids`` laid end to end.
        """
        ...


class Closed:
    """Refuses another way of calling a module, past its hooks, until it is removed.

    Args:
        module: the module.
        method: the method's name.
    """

    def __init__(self, module: nn.Module, method: str) -> None:
        self._module, self._method = module, method
        module.__dict__[method] = partial(_refuse, type(module).__name__, method)

    def remove(self) -> None:
        """Give the module its method back."""
        self._module.__dict__.pop(self._method, None)


def _refuse(kind: str, method: str, *given: object, **named: object) -> None:
    raise AdapterError(
        f"{kind}.{method} takes images past the adapter; call the model or its encode_image, or detach the adapter: "
        "radapt.detach(model)"
    )


class PixelHook(ABC):
    """The hooks of one mount: before the tower's root, after an attention, and before the weights are saved.

    A pass leaves nothing here, since another one may run at the same time, in another thread, or before blocks of the
    first one run again (gradient checkpointing). What the attention must know of the images, their token grids, travels
    with the pass: as a keyword argument of the root, which the encoders of ``transformers`` hand down to every
    attention. Where the root takes no such argument, all images must have the tower's own grid.

    Args:
        mount: what is mounted.
        root: the module that images enter.
        layout, patch_size, grid: as of the tower.

    Attributes:
        argument: name under which the images enter the root.
        handles: what removes the hooks. A copy in another process needs them to know its hooks from later ones.
        change_of_weights: the mount's deltas in the root, where it has any.
    """

    argument: ClassVar[str]

    def __init__(self, mount: Mount, root: nn.Module, layout: Layout, patch_size: int, grid: Grid) -> None:
        self.mount, self.layout, self.patch_size, self.grid = mount, layout, patch_size, grid
        parameters = signature(root.forward).parameters.values()
        self.fixed = not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        self.handles: tuple[RemovableHandle | Closed, ...] = ()
        self.change_of_weights = WeightChange(root, mount.deltas) if mount.deltas else None

    @property
    def fingerprint(self) -> str:
        """Hash of what is mounted."""
        return code_digest(self.mount)

    def before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Map the images, given by keyword or as the first positional argument.

        Raises:
            InputError: an image is of another size than the encoder's own, and that is the only one it knows.
        """
        named = kwargs.get(self.argument) is not None
        if not named and not args:
            return args, kwargs  # the encoder itself says what it lacks
        pixels = kwargs[self.argument] if named else args[0]
        grids = self.grids(pixels, args, kwargs)
        if self.fixed and grids != (self.grid,):
            raise InputError(
                f"{type(module).__name__} takes images of {self.grid[0]} x {self.grid[1]} patches of "
                f"{self.patch_size} pixels, got {tuple(pixels.shape)}"
            )
        changed = self.change(pixels, grids)
        args, kwargs = (args, {**kwargs, self.argument: changed}) if named else ((changed, *args[1:]), kwargs)
        return args, kwargs if self.fixed else {**kwargs, _GRIDS: grids}

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Map the attention output, alone or as the first of a tuple.

        Raises:
            AdapterError: the images of this pass did not come through the tower's root.
        """
        grids: tuple[Grid, ...] | None = (self.grid,) if self.fixed else kwargs.get(_GRIDS)
        if grids is None:
            raise AdapterError(
                f"{type(module).__name__} was called without the vision encoder around it, so that its images went "
                "past the adapter; call the encoder, which must hand down its keyword arguments, or detach the "
                "adapter: radapt.detach(model)"
            )
        if isinstance(output, tuple):
            return self.blend(module, output[0], grids), *output[1:]
        return self.blend(module, output, grids)

    def saving(self, module: nn.Module, prefix: str, keep_vars: bool) -> None:
        """Warn where the weights are read in order to be saved as a model: they are saved without what is mounted."""
        frame, depth, level = currentframe(), 1, 0
        while frame is not None:
            depth, level = depth + 1, depth + 1 if frame.f_code.co_name in _SAVERS else level
            frame = frame.f_back
        if level:
            warnings.warn(
                "this model carries an adapter, which is not saved with its weights: whoever loads them gets an "
                "undefended model. Save the adapter too, into a folder of its own: adapter.save_pretrained(folder), "
                "where adapter = radapt.adapter_of(model)",
                stacklevel=level,
            )

    def saved(
        self, root: nn.Module, holder: str, module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: object
    ) -> None:
        """Give the state dict of one of the root's modules the model's own weights."""
        if self.change_of_weights is not None:
            self.change_of_weights.saved(root, holder, state, prefix)

    def loading(self, module: nn.Module, *given: object) -> None:
        """Refuse weights for a model whose weights are changed.

        Raises:
            AdapterError: they are.
        """
        if self.change_of_weights is not None:
            raise AdapterError(
                "this model carries an adapter that changes its weights, so that weights cannot be loaded into it; "
                "detach the adapter first: radapt.detach(model)"
            )

    @abstractmethod
    def grids(self, pixels: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Grid, ...]:
        """Token grids of the images that enter the root: one for all, or one each."""

    @abstractmethod
    def change(self, pixels: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Map the pixels in the form in which they enter the root."""

    def blend(self, module: nn.Module, hidden: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Map the attention output in the form in which the module gives it."""
        return self.mount.attention(hidden, grids, self.layout)


class ImageHook(PixelHook):
    """Images enter as a batch, all of one size."""

    argument = "pixel_values"

    def grids(self, pixels: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Grid, ...]:
        return ((pixels.shape[-2] // self.patch_size, pixels.shape[-1] // self.patch_size),)

    def change(self, pixels: Tensor, grids: Sequence[Grid]) -> Tensor:
        return self.mount.pixels(pixels)
