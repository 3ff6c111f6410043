"""Checkpoints of trainings: one safetensors file with tensors, state of the optimiser, recipe and losses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from radapt.errors import SettingsError
from radapt.io import replacing

__all__ = ["resume", "save"]

# Settings that came later: a checkpoint that lacks them was made with these values.
_BEFORE = {
    "accumulate": 1, "ema": 0.0, "optimizer": "adamw", "workers": 1, "layers": "all", "precision": "float32",
}  # fmt: skip


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
    """
    tensors = {f"{kind}/{name}": t.detach().contiguous() for kind, group in groups.items() for name, t in group.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": torch.as_tensor(value, device="cpu") for key, value in state.items()}
    metadata = {"recipe": json.dumps(recipe, sort_keys=True), "history": json.dumps(history)}
    with replacing(path) as partial:
        save_file(tensors, partial, metadata)


def resume(
    path: Path | None,
    groups: Mapping[str, Mapping[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    recipe: Mapping[str, object],
) -> list[float]:
    """Fill the tensors and the optimiser from a checkpoint and return its losses; nothing happens without a file.

    Raises:
        SettingsError: the file cannot be read, or belongs to a training with other settings or parameters.
    """
    if path is None or not path.exists():
        return []
    try:
        file: Any = safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise SettingsError(f"the checkpoint {path} cannot be read ({error}); remove it to start afresh") from error
    with file:
        metadata = file.metadata()
        found = (metadata or {}).get("recipe")
        if found is None or {**_BEFORE, **json.loads(found)} != json.loads(json.dumps({**_BEFORE, **recipe})):
            raise SettingsError(f"{path} belongs to a training with {found}; remove it or use those settings")
        wanted = {f"{kind}/{name}": tensor for kind, group in groups.items() for name, tensor in group.items()}
        names = set(file.keys())
        state_names = {name for name in names if name.startswith("optimizer/")}
        shapes = {name: file.get_slice(name).get_shape() for name in names - state_names}
        if shapes != {name: list(tensor.shape) for name, tensor in wanted.items()}:
            raise SettingsError(f"{path} belongs to a training of other parameters; remove it to start afresh")
        with torch.no_grad():
            for name, tensor in wanted.items():
                tensor.copy_(file.get_tensor(name))
        state: dict[int, dict[str, Tensor]] = {}
        for name in sorted(state_names):
            _, index, key = name.split("/")
            state.setdefault(int(index), {})[key] = file.get_tensor(name)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    history: list[float] = json.loads(metadata["history"])
    return history
