"""Deltas: what is added to named weights of a vision encoder while an adapter is on it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from radapt.errors import AdapterError
from radapt.registry import nearest

from ._names import names_of

__all__ = ["Delta", "LowRank", "WeightChange", "check_deltas", "difference", "full", "low_rank", "scaled", "tensors_of"]

_FIRST = (
    "put the deltas into the weights and then quantise: adapter.change(cutoff=None, alpha=0).merge(model); the rest of "
    "the adapter is attached afterwards: Adapter(adapter.settings, adapter.anchor)"
)


_SAME = 1e-6
"""How far two sums of the same numbers may lie from each other, which several threads may add in another order."""


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

    The module's own parameters are kept aside and come back as they were, the same objects: nothing is subtracted. A
    parameter that several of its layers share is changed in all of them.
    Passes cost what they did before. While it lasts, the module's state dict holds the own weights. Training in the
    meantime changes what is put in their place, and is lost: nothing is saved then, and :meth:`undo` warns.

    Args:
        root: the module.
        deltas: by the names of its parameters.

    Raises:
        AdapterError: the module has no such parameter, or one of another shape, or one that nothing can be added to.
    """

    def __init__(self, root: nn.Module, deltas: Mapping[str, Delta]) -> None:
        known = check_deltas(root, deltas)
        self._places = {name: names_of(root, known[name]) for name in deltas}
        self.own, self._deltas = {name: known[name] for name in deltas}, dict(deltas)
        changed: dict[str, nn.Parameter] = {}
        with torch.inference_mode(False), torch.no_grad():
            for name, own in self.own.items():
                value = self._sum(name)
                if bool(torch.isfinite(own).all()) and not bool(torch.isfinite(value).all()):
                    raise AdapterError(f"{name} and its delta have a sum that is not finite in {own.dtype}")
                changed[name] = nn.Parameter(value, requires_grad=own.requires_grad)
                changed[name].grad = own.grad
        try:  # all of them, or none
            for name, each in changed.items():
                self._put(root, name, each)
        except BaseException:
            for name, own in self.own.items():
                self._put(root, name, own)
            raise

    @property
    def aside(self) -> dict[str, nn.Parameter]:
        """The module's own parameters by each name that they have in it."""
        return {place: self.own[name] for name, places in self._places.items() for place in places}

    @property
    def around(self) -> list[str]:
        """Names of all modules with changed weights in them, from the root (the empty name) to those that hold them."""
        paths = [place.split(".")[:-1] for place in self.aside]
        return sorted({".".join(path[:depth]) for path in paths for depth in range(len(path) + 1)})

    def undo(self, root: nn.Module) -> str:
        """Put the module's own weights back, as the module is now: where, in which precision, trainable or not.

        Returns:
            What was lost with that, where the changed weights were trained in the meantime; else an empty text.

        Raises:
            AdapterError: the module was quantised in the meantime, or its layers were replaced; it stays as it is.
        """
        self.check(root)
        trained = self._trained(root, self.own)
        for name, own in self.own.items():
            now = root.get_parameter(name)
            if own.device != now.device or own.dtype != now.dtype:
                own.data = own.data.to(now.device, now.dtype)
            own.requires_grad_(now.requires_grad)
            own.grad = now.grad
            self._put(root, name, own)
        if not trained:
            return ""
        return (
            f"{trained}; that is lost as the adapter is taken off, which gives the model its own weights back. Train "
            "the model first, then attach the adapter"
        )

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
        if hidden := [name for name in gone if _is_computed(name, now)]:
            raise AdapterError(
                f"{hidden[0]} and {len(hidden) - 1} more of the weights that the adapter changes are computed from "
                "others since, as by pruning or weight_norm; undo that (torch.nn.utils.prune.remove, "
                "torch.nn.utils.parametrize.remove_parametrizations), then detach the adapter"
            )
        if gone:
            raise AdapterError(
                f"this model was quantised with an adapter on it, whose deltas are now a part of {gone[0]} and "
                f"{len(gone) - 1} more; they cannot be taken out again. Keep the model as it is, or {_FIRST}"
            )

    def saved(self, root: nn.Module, holder: str, state: dict[str, Tensor], prefix: str) -> None:
        """Put the own weights that a module holds itself into a state dict.

        Args:
            root: the module that was changed.
            holder: name in it of the one that is just being saved.
            state, prefix: the state dict, and how the names of the holder's parameters begin in it.

        Raises:
            AdapterError: the module was quantised, or these weights were trained, in the meantime.
        """
        self.check(root)
        every = [(place, name) for name, places in self._places.items() for place in places]
        held = {place.rpartition(".")[2]: name for place, name in every if place.rpartition(".")[0] == holder}
        if trained := self._trained(root, held.values()):
            raise AdapterError(
                f"{trained}, which the model's own weights know nothing of, so that there is nothing right to save. "
                "Detach the adapter (radapt.detach(model); that training is lost), train the model, then attach it"
            )
        for last, name in held.items():
            key = prefix + last
            if key in state:
                own, now = self.own[name], state[key]
                kept = own if (own.device, own.dtype) == (now.device, now.dtype) else nn.Parameter(own.detach().to(now))
                state[key] = kept if isinstance(now, nn.Parameter) else kept.detach()

    def _trained(self, root: nn.Module, names: Collection[str]) -> str:
        """Which of some changed weights are no longer as they were put; empty where all are."""
        found = [name for name in names if self._differs(name, root.get_parameter(name))]
        if not found:
            return ""
        others = f" and {len(found) - 1} more weights were" if len(found) > 1 else " was"
        return f"{found[0]}{others} trained or changed with an adapter's deltas in it"

    def _put(self, root: nn.Module, name: str, parameter: nn.Parameter) -> None:
        for place in self._places[name]:
            owner, _, last = place.rpartition(".")
            setattr(root.get_submodule(owner), last, parameter)

    def _sum(self, name: str) -> Tensor:
        """A parameter of its own with its delta, in its precision."""
        own = self.own[name].detach()
        return (own.float() + full(self._deltas[name], own.shape).to(own.device)).to(own.dtype)

    def _differs(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether a parameter is no longer the sum that was put, but for having been rounded."""
        if parameter.is_meta:
            return False
        with torch.no_grad():
            put, now = self._sum(name).to(parameter.device), parameter.detach()
            rounded = (put.to(kind).to(now.dtype).float() for kind in (now.dtype, torch.float16, torch.bfloat16))
            return not any(torch.allclose(now.float(), each, rtol=_SAME, atol=0, equal_nan=True) for each in rounded)


def _is_computed(name: str, known: Collection[str]) -> bool:
    """Whether a module has others in the place of a parameter, as pruning and parametrizations put them."""
    owner, _, last = name.rpartition(".")
    return f"{name}_orig" in known or any(each.startswith(f"{owner}.parametrizations.{last}.") for each in known)


def check_deltas(root: nn.Module, deltas: Mapping[str, Delta]) -> dict[str, nn.Parameter]:
    """Refuse deltas that cannot be added to a module's parameters; else these by name.

    Raises:
        AdapterError: as of :class:`WeightChange`.
    """
    known = dict(root.named_parameters())
    for name, delta in deltas.items():
        _check(root, name, delta, known)
    return known


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
