"""The training loop that every trained part shares: anchors, fine-tuned twins and micro models."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from radapt.errors import CheckError, SettingsError

__all__ = ["Schedule", "fit"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """AdamW with linear warm-up and cosine decay to zero.

    Args:
        steps: number of optimiser steps.
        lr: peak learning rate.
        warmup: share of the steps spent warming up.
        weight_decay: decoupled weight decay, applied to matrices only.
        clip: largest gradient norm (0: no clipping).
    """

    steps: int
    lr: float
    warmup: float = 0.1
    weight_decay: float = 0.0
    clip: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.lr > 0 or not 0 <= self.warmup < 1:
            raise SettingsError(f"a schedule needs steps >= 1, lr > 0 and warmup in [0, 1), got {self}")

    def factor(self, step: int) -> float:
        """Learning rate at a step, relative to the peak."""
        ramp = max(1, round(self.warmup * self.steps))
        if step < ramp:
            return (step + 1) / ramp
        return 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(1, self.steps - ramp)))


def fit(
    parameters: Mapping[str, Tensor],
    loss: Callable[[int], Tensor],
    schedule: Schedule,
    *,
    label: str,
    checkpoint: Path | None = None,
    every: int = 100,
    settings: Mapping[str, object] | None = None,
    quiet: bool = False,
) -> list[float]:
    """Minimise ``loss(step)`` over the parameters and return the loss of every step.

    ``loss`` must depend on the parameters and the step number only (its random numbers are seeded by the
    step), so that a run that is killed and started again with the same ``checkpoint`` gives the same figures.

    Args:
        parameters: leaf tensors by name, changed in place.
        loss: maps a step number to a scalar.
        schedule: optimiser settings.
        label: what the progress bar calls this training.
        checkpoint: a safetensors file to resume from and to save to, removed by the caller when no longer needed.
        every: steps between checkpoints.
        settings: what else the training depends on (plain values); a checkpoint of other settings is refused.
        quiet: no progress bar.

    Raises:
        SettingsError: the checkpoint belongs to a training with other settings.
        CheckError: the loss is not finite; the last checkpoint is kept.
    """
    groups = [
        {"params": [p for p in parameters.values() if p.ndim >= 2], "weight_decay": schedule.weight_decay},
        {"params": [p for p in parameters.values() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=schedule.lr)
    leaves = list(parameters.values())
    recipe = json.dumps({"label": label, **asdict(schedule), **(settings or {})}, sort_keys=True)
    history = _resume(checkpoint, parameters, optimizer, recipe)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]:.4g}"),
    )
    with Progress(*columns, disable=quiet) as progress:
        task = progress.add_task(label, total=schedule.steps, completed=len(history), loss=float("nan"))
        for step in range(len(history), schedule.steps):
            for group in optimizer.param_groups:
                group["lr"] = schedule.lr * schedule.factor(step)
            value = loss(step)
            if not math.isfinite(value.item()):
                raise CheckError(
                    f"{label}: the loss is {value.item()} at step {step}; try a smaller lr than {schedule.lr}"
                )
            # Gradients of these parameters only: nothing is left on weights that happen to require them.
            for parameter, gradient in zip(leaves, torch.autograd.grad(value, leaves), strict=True):
                parameter.grad = gradient.contiguous()
            if schedule.clip:
                torch.nn.utils.clip_grad_norm_(leaves, schedule.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            history.append(value.item())
            progress.update(task, advance=1, loss=sum(history[-20:]) / len(history[-20:]))
            if checkpoint is not None and ((step + 1) % every == 0 or step + 1 == schedule.steps):
                _save(checkpoint, parameters, optimizer, recipe, history)
    return history


def _save(
    path: Path,
    parameters: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    recipe: str,
    history: list[float],
) -> None:
    tensors = {f"parameter/{name}": p.detach().contiguous() for name, p in parameters.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": torch.as_tensor(value) for key, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, {"recipe": recipe, "history": json.dumps(history)})
    partial.replace(path)


def _resume(
    path: Path | None, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, recipe: str
) -> list[float]:
    if path is None or not path.exists():
        return []
    try:
        file: Any = safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise SettingsError(f"the checkpoint {path} cannot be read ({error}); remove it to start afresh") from error
    with file:
        metadata = file.metadata()
        found = (metadata or {}).get("recipe")
        if found != recipe:
            raise SettingsError(f"{path} belongs to a training with {found}; remove it or use those settings")
        names = set(file.keys())
        shapes = {n: file.get_slice(n).get_shape() for n in names if n.startswith("parameter/")}
        if shapes != {f"parameter/{name}": list(p.shape) for name, p in parameters.items()}:
            raise SettingsError(f"{path} belongs to a training of other parameters; remove it to start afresh")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(file.get_tensor(f"parameter/{name}"))
        state: dict[int, dict[str, Tensor]] = {}
        for name in sorted(n for n in names if n.startswith("optimizer/")):
            _, index, key = name.split("/")
            state.setdefault(int(index), {})[key] = file.get_tensor(name)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    history: list[float] = json.loads(metadata["history"])
    return history
