"""Interpolation of weights: a model on the way to its adversarially fine-tuned twin, by parts of the vision encoder."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from radapt.errors import AdapterError, ModelError, SettingsError

from ._names import names_of
from ._parts import parts
from ._vlm import VLM

__all__ = ["check_twins", "interpolated"]

# What models of one depth and width may still differ in.
_MATTERS = ("hidden_act", "image_size", "layer_norm_eps", "num_attention_heads", "num_heads", "patch_size")


def interpolated(model: VLM, twin: VLM, weights: float | Mapping[str, float], *, name: str | None = None) -> VLM:
    """A model whose weights lie between its own and its twin's (Wortsman et al. 2022, arXiv:2109.01903).

    ``theta = (1 - w) theta_model + w theta_twin``, in float32, for the vision encoder and its projection; the text
    encoder or the language model stays the model's, with a warning where the twin's differs. Where ``w`` is 0 or 1 the
    weights are the model's or the twin's to the bit, and take no memory of their own. For the trade-off of clean and
    robust accuracy, see Croce et al. 2023 (arXiv:2302.10164).

    Args:
        model: the model; it is not changed. What is mounted on it is on the result, too, which shares weights with
            both: train neither.
        twin: a model of the same architecture.
        weights: one number for everything, or a number for each of some parts, in the words of
            :func:`radapt.models.parts` (``{"embedding": 1, "block:0-2": 0.5}``); parts without one keep the model's.
        name: of the result; None puts one together.

    Raises:
        SettingsError: an unknown part, one that is named twice, or a weight outside of [0, 1].
        ModelError: the models differ in more than their weights.
        AdapterError: the twin carries an adapter, or the model one with deltas.
    """
    chosen = {"all": weights} if isinstance(weights, int | float) else dict(weights)
    share = dict[str, float]()
    for part, weight in chosen.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1:
            raise SettingsError(
                f"the weight of {part} must be a number from 0 (the model) to 1 (the twin), got {weight!r}"
            )
        for parameter in parts(model, part):
            if parameter in share:
                raise SettingsError(f"{part!r} and another part both name {parameter}; give every part one weight")
            share[parameter] = float(weight)
    check_twins(model, twin)
    mounted: Any = model.tower.mounted()
    if mounted is not None and mounted.deltas:
        raise AdapterError(
            f"{model.name} carries an adapter that changes its weights, which would take the place of the result's; "
            "detach it first: radapt.detach(model)"
        )
    copied = copy.copy(model)
    # Several copies of a large model would not fit beside each other: the weights themselves are not copied.
    shared: list[Tensor] = [*model.model.parameters(), *model.model.buffers()]
    copied.model = copy.deepcopy(model.model, {id(tensor): tensor for tensor in shared})
    told = ", ".join(f"{part} {weight:g}" for part, weight in chosen.items())
    copied.name = f"{model.name} (on the way to {twin.name}: {told})" if name is None else name
    source, own = twin.image_parameters(), copied.image_parameters()
    for parameter, weight in share.items():
        if weight > 0:
            mine, its = own[parameter], source[parameter]
            value = its.detach().to(mine) if weight == 1 else _between(mine, its, weight)
            taken = nn.Parameter(value, requires_grad=mine.requires_grad)
            for owner, _, last in (place.rpartition(".") for place in names_of(copied.model, mine)):
                setattr(copied.model.get_submodule(owner), last, taken)
    return copied


def _between(mine: Tensor, its: Tensor, weight: float) -> Tensor:
    """Equal values stay what they are, to the bit."""
    return torch.lerp(mine.detach().float(), its.detach().to(mine.device).float(), weight).to(mine.dtype)


def check_twins(model: VLM, twin: VLM) -> None:
    """Refuse two models that differ in more than their weights.

    Raises:
        ModelError: they do.
        AdapterError: the second carries an adapter.

    Warns:
        UserWarning: their weights differ outside of the vision encoders.
    """
    if twin.tower.mounted() is not None:
        raise AdapterError(
            f"{twin.name} carries an adapter, which is no weight that another model could take; detach it first: "
            "radapt.detach(model)"
        )
    ours, theirs = _facts(model), _facts(twin)
    different = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    if not different:
        mine, its = ({name: p.shape for name, p in each.image_parameters().items()} for each in (model, twin))
        different = ["parameters"] * (mine != its)
        ours, theirs = ({"parameters": _summary(each)} for each in (mine, its))
    if different:
        listed = "; ".join(f"{key} {ours.get(key)} against {theirs.get(key)}" for key in different)
        raise ModelError(
            f"{model.name} and {twin.name} are no twins: {listed}. Take a model that was fine-tuned from the other one"
        )
    if _elsewhere_differs(model, twin):
        warnings.warn(
            f"{model.name} and {twin.name} differ outside of their vision encoders too; there, the copy is "
            f"{model.name}: results with its text encoder are not those of {twin.name}",
            stacklevel=3,
        )


def _facts(model: VLM) -> dict[str, Any]:
    """What twins have in common, by name."""
    tower = model.tower
    config = getattr(tower.root, "config", None)
    facts = {"kind": type(model.model).__name__, "depth": len(tower.blocks), "width": tower.width}
    facts |= {"patch size": tower.patch_size, "image size": model.image_size}
    facts |= {"mean": tuple(tower.mean), "std": tuple(tower.std)}
    return facts | {key: getattr(config, key) for key in _MATTERS if hasattr(config, key)}


def _summary(shapes: dict[str, torch.Size]) -> str:
    return f"{len(shapes)} tensors of {sum(shape.numel() for shape in shapes.values())} numbers"


def _elsewhere_differs(model: VLM, twin: VLM) -> bool:
    mine, its = (_elsewhere(each) for each in (model, twin))
    if mine.keys() != its.keys():
        return True
    return any(
        mine[name].shape != its[name].shape or not bool((mine[name] == its[name].to(mine[name])).all()) for name in mine
    )


def _elsewhere(model: VLM) -> dict[str, Tensor]:
    seen = model.image_parameters()
    return {name: p for name, p in model.model.named_parameters() if name not in seen}
