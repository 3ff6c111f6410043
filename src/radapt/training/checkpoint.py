"""Checkpoints of trainings: one safetensors file with tensors, state of the optimiser, recipe and losses."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from radapt.errors import SettingsError
from radapt.io import replacing

__all__ = ["resume", "save", "steps_of"]

# Settings that came later: a checkpoint that lacks them was made with these values.
_BEFORE = {
    "accumulate": 1, "ema": 0.0, "optimizer": "adamw", "workers": 1, "layers": "all", "precision": "float32",
    "warmup_steps": None, "decayed": "matrices", "step_size": None, "attack_momentum": 0.0, "last_iterate": False,
    "minutes": None,
}  # fmt: skip
_AFRESH = "remove it to start afresh"


def save(
    path: Path,
    groups: Mapping[str, Mapping[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    recipe: Mapping[str, object],
    history: list[float],
) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: the file.
        groups: the tensors in training, by kind and name.
        optimizer: their optimiser.
        recipe: everything that the training depends on, as plain values.
        history: the loss of every step so far.

    Raises:
        SettingsError: the file cannot be written; the one before it is kept.
    """
    tensors = {f"{kind}/{name}": t.detach().contiguous() for kind, group in groups.items() for name, t in group.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": torch.as_tensor(value, device="cpu") for key, value in state.items()}
    metadata = {"recipe": json.dumps(recipe, sort_keys=True), "history": json.dumps(history)}
    try:
        with replacing(path) as partial:
            save_file(tensors, partial, metadata)
    except (OSError, SafetensorError) as error:
        raise SettingsError(
            f"the checkpoint {path} cannot be written after {len(history)} steps ({error}); what stood there before is "
            "kept: make room, or give another path"
        ) from error


def resume(
    path: Path | None,
    groups: Mapping[str, Mapping[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    recipe: Mapping[str, object],
) -> list[float]:
    """Fill the tensors and the optimiser from a checkpoint and return its losses; nothing happens without a file.

    Raises:
        SettingsError: the file cannot be read, or belongs to a training with other settings or parameters; nothing is
            changed then.
    """
    if path is None or not path.exists():
        return []
    with _opened(path) as file:
        found, history = _facts(path, file.metadata() or {})
        differing = _differences({**_BEFORE, **found}, json.loads(json.dumps({**_BEFORE, **recipe})))
        if differing:
            raise SettingsError(
                f"{path} belongs to a training with {', '.join(differing)}; {_AFRESH}, or give what it was begun with"
            )
        wanted = {f"{kind}/{name}": tensor for kind, group in groups.items() for name, tensor in group.items()}
        names = set(file.keys())
        state_names = {name for name in names if name.startswith("optimizer/")}
        shapes = {name: file.get_slice(name).get_shape() for name in names - state_names}
        if shapes != {name: list(tensor.shape) for name, tensor in wanted.items()}:
            raise SettingsError(f"{path} belongs to a training of other parameters; {_AFRESH}")
        tensors = {name: file.get_tensor(name) for name in names}
    for name, tensor in tensors.items():
        if name in wanted and tensor.dtype != wanted[name].dtype:
            raise SettingsError(f"{path} belongs to a training in {tensor.dtype}, this one is in {wanted[name].dtype}")
        if not bool(torch.isfinite(tensor).all()):
            raise SettingsError(f"the checkpoint {path} holds values that are not finite, in {name}; {_AFRESH}")
    state = _state(path, {name: tensors[name] for name in state_names}, optimizer, len(history))
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(tensors[name])
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return history


def steps_of(path: Path | None) -> int | None:
    """How many steps the training of a checkpoint has in all; None without a file.

    Raises:
        SettingsError: the file cannot be read, or is none of a training.
    """
    if path is None or not path.exists():
        return None
    with _opened(path) as file:
        steps = _facts(path, file.metadata() or {})[0].get("steps")
    return steps if type(steps) is int else None


def _opened(path: Path) -> Any:
    try:
        if not path.is_file():
            raise OSError("it is a folder or a device, not a file")
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise SettingsError(f"the checkpoint {path} cannot be read ({error}); {_AFRESH}") from error


def _facts(path: Path, metadata: Mapping[str, str]) -> tuple[dict[str, object], list[float]]:
    """Recipe and losses of a checkpoint."""
    try:
        recipe, history = json.loads(metadata["recipe"]), json.loads(metadata["history"])
    except (KeyError, ValueError, RecursionError) as error:
        raise SettingsError(f"{path} is not a checkpoint of a training; give another path, or remove it") from error
    plain = isinstance(history, list) and all(isinstance(loss, float) and math.isfinite(loss) for loss in history)
    if not isinstance(recipe, dict) or not plain:
        raise SettingsError(f"the checkpoint {path} holds no recipe, or losses that are no numbers; {_AFRESH}")
    return recipe, history


def _differences(found: Mapping[str, object], wanted: Mapping[str, object]) -> list[str]:
    """What differs between two recipes, in words."""
    words = []
    for name in sorted({*found, *wanted}):
        if name not in found:
            words.append(f"no record of its {name}")
        elif name not in wanted:
            words.append(f"{name} {found[name]!r}, which this one does not have")
        elif found[name] != wanted[name]:
            words.append(f"{name} {found[name]!r} instead of {wanted[name]!r}")
    return words


def _state(
    path: Path, tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, steps: int
) -> dict[int, dict[str, Tensor]]:
    """State of an optimiser from the tensors of a checkpoint, in the shapes of its parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    # Parameters that move at every fifth step, say, have none before that.
    moved = [group.get("every", 1) <= steps for group in optimizer.param_groups for _ in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name in sorted(tensors):
        match = re.fullmatch(r"optimizer/(\d{1,9})/([a-z_]+)", name)
        index = -1 if match is None else int(match[1])
        if match is None or index >= len(parameters) or tensors[name].shape not in ((), parameters[index].shape):
            raise SettingsError(f"the checkpoint {path} holds {name}, which this optimiser does not have; {_AFRESH}")
        state.setdefault(index, {})[match[2]] = tensors[name]
    if (
        set(state) != {index for index, has in enumerate(moved) if has}
        or len({tuple(each) for each in state.values()}) > 1
    ):
        raise SettingsError(f"the checkpoint {path} lacks a part of the optimiser's state; {_AFRESH}")
    return state
