"""Deltas: what is added to named weights of a vision encoder while an adapter is on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from radapt.errors import AdapterError
from radapt.registry import nearest

__all__ = ["Delta", "LowRank", "WeightChange", "difference", "full", "low_rank", "scaled", "tensors_of"]

_FIRST = (
    "put the deltas into the weights and then quantise: adapter.change(cutoff=None, alpha=0).merge(model); the rest of "
    "the adapter is attached afterwards: Adapter(adapter.settings, adapter.anchor)"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class LowRank:
    """A delta as a product of two matrices, ``up @ down`` (Hu et al. 2021, arXiv:2106.09685).

    Args:
        up: rows of the weight x rank; the weight's other dimensions are taken as one.
        down: rank x columns.
    """

    up: Tensor
    down: Tensor

    @property
    def rank(self) -> int:
        """Rank of the product."""
        return len(self.down)


Delta = Tensor | LowRank
"""A change of one weight: of the weight's shape, or of low rank."""


def tensors_of(delta: Delta) -> tuple[Tensor, ...]:
    """The tensors that a delta consists of."""
    return (delta,) if isinstance(delta, Tensor) else (delta.up, delta.down)


def full(delta: Delta, shape: torch.Size | None = None) -> Tensor:
    """A delta as one tensor in float32, of a weight's shape."""
    if isinstance(delta, Tensor):
        return delta.detach().float()
    product = delta.up.detach().float() @ delta.down.detach().float()
    return product if shape is None else product.view(shape)


def difference(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What turns our weights into theirs, for each name of theirs; weights that are equal to the bit are left out."""
    found = {}
    for name, other in theirs.items():
        own = ours[name].detach()
        if not torch.equal(own, other.detach().to(own)):
            found[name] = other.detach().float().to(own.device) - own.float()
    return found


def low_rank(delta: Tensor, rank: int) -> Delta:
    """The nearest delta of a rank (Eckart & Young 1936); what has one dimension, or fewer numbers as it is, stays."""
    if delta.ndim < 2:
        return delta
    matrix = delta.detach().float().flatten(1)
    if rank * sum(matrix.shape) >= matrix.numel():
        return delta
    left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
    scale = sizes[:rank].sqrt()
    return LowRank(up=(left[:, :rank] * scale).contiguous(), down=(scale[:, None] * right[:rank]).contiguous())


def scaled(delta: Delta, share: float) -> Delta:
    """A share of a delta, of the same form."""
    return share * delta if isinstance(delta, Tensor) else LowRank(up=share * delta.up, down=delta.down)


class WeightChange:
    """Weights of a module with deltas added, for as long as an adapter is on it.

    The module's own parameters are kept aside and come back as they were, the same objects: nothing is subtracted.
    Passes cost what they did before. While it lasts, the module's state dict holds the own weights.

    Args:
        root: the module.
        deltas: by the names of its parameters.

    Raises:
        AdapterError: the module has no such parameter, or one of another shape, or one that nothing can be added to.
    """

    def __init__(self, root: nn.Module, deltas: Mapping[str, Delta]) -> None:
        known = dict(root.named_parameters())
        for name, delta in deltas.items():
            _check(root, name, delta, known)
        self.own: dict[str, nn.Parameter] = {}
        with torch.inference_mode(False), torch.no_grad():
            for name, delta in deltas.items():
                own = known[name]
                changed = own.detach().float() + full(delta, own.shape).to(own.device)
                self.own[name] = own
                _put(root, name, nn.Parameter(changed.to(own.dtype), requires_grad=own.requires_grad))

    def undo(self, root: nn.Module) -> None:
        """Put the module's own weights back, to where and in the precision in which the module is now.

        Raises:
            AdapterError: the module was quantised in the meantime; it stays as it is.
        """
        self.check(root)
        for name, own in self.own.items():
            _put(root, name, self._moved(root, name, own))

    def check(self, root: nn.Module) -> None:
        """Refuse a module that can no longer be as it was.

        Raises:
            AdapterError: it was quantised with the deltas in its weights, or its layers were replaced.
        """
        now = dict(root.named_parameters())
        if wrapped := [name for name in self.own if f"{name.rpartition('.')[0]}.base_layer.weight" in now]:
            raise AdapterError(
                f"{wrapped[0]} and {len(wrapped) - 1} more of the weights that the adapter changes are no longer in "
                "their place: PEFT has wrapped their layers since; take its adapter off (unload), then detach this one"
            )
        gone = [name for name in self.own if name not in now or not now[name].is_floating_point()]
        if gone:
            raise AdapterError(
                f"this model was quantised with an adapter on it, whose deltas are now a part of {gone[0]} and "
                f"{len(gone) - 1} more; they cannot be taken out again. Keep the model as it is, or {_FIRST}"
            )

    def saved(self, root: nn.Module, state: dict[str, Tensor], prefix: str) -> None:
        """Put the own weights into a state dict of the module.

        Raises:
            AdapterError: the module was quantised in the meantime.
        """
        self.check(root)
        for name, own in self.own.items():
            key = prefix + name
            if key in state:
                kept = self._moved(root, name, own)
                state[key] = kept if isinstance(state[key], nn.Parameter) else kept.detach()

    @staticmethod
    def _moved(root: nn.Module, name: str, own: nn.Parameter) -> nn.Parameter:
        now = root.get_parameter(name)
        if own.device != now.device or own.dtype != now.dtype:  # as the module was, since
            own.data = own.data.to(now.device, now.dtype)
        return own


def _check(root: nn.Module, name: str, delta: Delta, known: Mapping[str, Tensor]) -> None:
    if name not in known:
        owner, _, last = name.rpartition(".")
        module = next((module for path, module in root.named_modules() if path == owner), None)
        if callable(getattr(module, last, None)):  # as torch.ao packs the weights of a linear map
            raise AdapterError(f"{name} is packed in a {type(module).__name__} of few bits; {_FIRST}")
        raise AdapterError(f"the vision encoder has no weight {name!r}{nearest(name, list(known)[:20])}...")
    own = known[name]
    if own.is_meta:
        raise AdapterError(f"{name} is not in memory, so nothing can be added to it; load the model whole")
    if not own.is_floating_point():
        raise AdapterError(f"{name} is of type {own.dtype}, so nothing can be added to it; {_FIRST}")
    shape = tuple(delta.shape) if isinstance(delta, Tensor) else (len(delta.up), delta.down.shape[1])
    asked = tuple(own.shape) if isinstance(delta, Tensor) else (len(own), own[0].numel())
    if shape != asked:
        raise AdapterError(
            f"the delta of {name} has shape {shape}, the weight {tuple(own.shape)}; it is for another model"
        )


def _put(root: nn.Module, name: str, parameter: nn.Parameter) -> None:
    owner, _, last = name.rpartition(".")
    setattr(root.get_submodule(owner), last, parameter)
