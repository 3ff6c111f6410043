"""The training loop that every trained part shares: anchors, fine-tuned twins and micro models."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from radapt._version import __version__
from radapt.errors import CheckError, SettingsError
from radapt.numbers import number, whole
from radapt.registry import nearest
from radapt.types import Decayed, OptimizerName

from .checkpoint import resume, save
from .distributed import Workers, workers

__all__ = ["Dual", "Schedule", "epoch_rows", "fit"]

_MOMENTUM = 0.9
_BELOW_ONE = math.nextafter(1.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """An optimiser with linear warm-up and cosine decay to zero.

    Args:
        steps: number of optimiser steps.
        lr: peak learning rate.
        warmup: share of the steps spent warming up.
        warmup_steps: number of these steps, instead of their share; a training that is shorter ends on its way up.
        weight_decay: decoupled in AdamW, a part of the gradient in SGD.
        decayed: what it applies to: ``matrices`` (and tensors of more dimensions), or ``all`` parameters.
        clip: largest gradient norm (0: no clipping).
        optimizer: ``adamw`` or ``sgd`` (with momentum 0.9).
        accumulate: batches whose gradients are averaged for one step, in each process.
        ema: decay of the exponential moving average of the parameters that is then the result (0: none).
    """

    steps: int
    lr: float
    warmup: float = 0.1
    warmup_steps: int | None = None
    weight_decay: float = 0.0
    decayed: Decayed = "matrices"
    clip: float = 0.0
    optimizer: OptimizerName = "adamw"
    accumulate: int = 1
    ema: float = 0.0

    def __post_init__(self) -> None:
        try:
            whole("steps", self.steps, 1, 10**9)
            number("lr", self.lr, 0, 1000, above=True)
            number("warmup", self.warmup, 0, _BELOW_ONE)
            if self.warmup_steps is not None:
                whole("warmup_steps", self.warmup_steps, 0, 10**9)
            number("weight_decay", self.weight_decay, 0, 1000)
            number("clip", self.clip, 0)
            whole("accumulate", self.accumulate, 1, 10**6)
            number("ema", self.ema, 0, _BELOW_ONE)
        except SettingsError as error:
            raise SettingsError(
                "a schedule needs steps >= 1, lr > 0, warmup and ema in [0, 1), weight_decay >= 0, clip >= 0 and "
                f"accumulate >= 1: {error}"
            ) from None
        for name, value, allowed in (
            ("optimizer", self.optimizer, get_args(OptimizerName)),
            ("decayed", self.decayed, get_args(Decayed)),
        ):
            if value not in allowed:
                raise SettingsError(f"unknown {name} {value!r}{nearest(value, allowed)}")

    def factor(self, step: int) -> float:
        """Learning rate at a step, relative to the peak."""
        ramp = max(1, round(self.warmup * self.steps) if self.warmup_steps is None else self.warmup_steps)
        if step < ramp:
            return (step + 1) / ramp
        return 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(1, self.steps - ramp)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Dual:
    """Parameters of multipliers, which move more seldom than the others, at a learning rate of their own.

    Args:
        parameters: leaf tensors by name, the same in each process, changed in place. The loss is minimised over them,
            too: one that is to be maximised reverses their gradients.
        lr: their learning rate, the same at every step.
        every: steps of the other parameters for one of theirs.
    """

    parameters: Mapping[str, Tensor]
    lr: float
    every: int


def fit(
    parameters: Mapping[str, Tensor],
    loss: Callable[[int], Tensor],
    schedule: Schedule,
    *,
    label: str,
    dual: Dual | None = None,
    checkpoint: Path | None = None,
    every: int = 100,
    settings: Mapping[str, object] | None = None,
    log: Path | None = None,
    quiet: bool = False,
) -> list[float]:
    """Minimise ``loss(batch)`` over the parameters and return the loss of every step.

    Step ``s`` averages the gradients of ``accumulate`` batches in each of the processes that ``accelerate launch``
    started (usually one); the ``k``-th batch of process ``r`` has the number ``(s * accumulate + k) * processes + r``.
    So one process that accumulates two batches does what two processes with one batch do.

    ``loss`` must depend on the parameters and the number of the batch only (its random numbers are seeded by that
    number), so that a run that is killed and started again with the same ``checkpoint`` gives the same weights.

    Args:
        parameters: leaf tensors by name, the same in each process, changed in place.
        loss: maps the number of a batch to a scalar.
        schedule: optimiser settings.
        label: what the progress bar calls this training.
        dual: parameters that the same optimiser moves more seldom; clipping and moving averages leave them out.
        checkpoint: a safetensors file to resume from and to save to, removed by the caller when no longer needed.
        every: steps between checkpoints.
        settings: what else the training depends on (plain values); a checkpoint of other settings is refused.
        log: folder for TensorBoard: loss, learning rate and norm of the gradient (before clipping) at every step.
        quiet: no progress bar.

    Raises:
        SettingsError: the checkpoint belongs to a training with other settings, the loss does not depend on some of the
            parameters, or a package is missing.
        CheckError: the loss, its gradient or a parameter is not finite; the last checkpoint is kept.
    """
    group = workers()
    optimizer = _optimizer(parameters, dual, schedule)
    leaves = list(parameters.values())
    duals = {} if dual is None else {f"dual {name}": tensor for name, tensor in dual.parameters.items()}
    means = {name: parameter.detach().clone() for name, parameter in parameters.items()} if schedule.ema else {}
    tensors = {"parameter": parameters, "mean": means, "dual": duals}
    recipe = {"label": label, "version": __version__, **asdict(schedule), "workers": group.count, **(settings or {})}
    history = resume(checkpoint, tensors, optimizer, recipe)
    group.wait()  # until all have read the checkpoint, none may change or remove it
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]:.4g}"),
    )
    progress = Progress(*columns, disable=quiet or not group.main)
    with _writer(log if group.main else None, len(history)) as writer, progress:
        task = progress.add_task(label, total=schedule.steps, completed=len(history), loss=float("nan"))
        for step in range(len(history), schedule.steps):
            rate = schedule.lr * schedule.factor(step)
            for parameter_group in optimizer.param_groups:
                parameter_group["lr"] = parameter_group.get("own_lr", rate)
            value, gradients = _averages(loss, {**parameters, **duals}, step, schedule.accumulate, group)
            if not math.isfinite(value):
                raise CheckError(f"{label}: the loss is {value} at step {step}; try a smaller lr than {schedule.lr}")
            for parameter, gradient in zip(leaves, gradients[: len(leaves)], strict=True):
                parameter.grad = gradient
            if dual is not None and (step + 1) % dual.every == 0:
                for parameter, gradient in zip(duals.values(), gradients[len(leaves) :], strict=True):
                    parameter.grad = gradient
            if schedule.clip:
                norm = torch.nn.utils.clip_grad_norm_(leaves, schedule.clip).item()
            else:
                norm = torch.nn.utils.get_total_norm(gradients[: len(leaves)]).item()
            if not math.isfinite(norm):
                raise CheckError(f"{label}: the gradient is {norm} at step {step}; try a smaller lr than {schedule.lr}")
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            for name, mean in means.items():
                mean.lerp_(parameters[name].detach(), 1 - schedule.ema)
            history.append(value)
            progress.update(task, advance=1, loss=sum(history[-20:]) / len(history[-20:]))
            if writer is not None:
                for tag, scalar in (("loss", value), ("learning_rate", rate), ("gradient_norm", norm)):
                    writer.add_scalar(tag, scalar, step)
            if (step + 1) % every and step + 1 < schedule.steps:
                continue
            _check_finite(f"{label}: after step {step} with lr {schedule.lr}", {**parameters, **means, **duals})
            if checkpoint is not None and group.main:
                if writer is not None:
                    writer.flush()  # what a resumed run does not repeat must be in the log
                save(checkpoint, tensors, optimizer, recipe, history)
    with torch.no_grad():
        for name, mean in means.items():
            parameters[name].copy_(mean)
    return history


def epoch_rows(
    step: int, batch_size: int, total: int, seed: int | Callable[[int], np.random.Generator]
) -> NDArray[np.int64]:
    """Rows of the batch of a step: every epoch is a fresh permutation of all rows, cut into whole batches.

    Args:
        step: number of the batch, from 0.
        batch_size: rows per batch, at most ``total``.
        total: number of rows.
        seed: of the permutations; or what gives the generator of an epoch.
    """
    epoch, place = divmod(step, total // batch_size)
    rng = seed(epoch) if callable(seed) else np.random.Generator(np.random.Philox(key=[seed, epoch]))
    return rng.permutation(total)[place * batch_size : (place + 1) * batch_size]


def _check_finite(where: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse parameters that would be kept or returned and are not finite."""
    broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise CheckError(f"{where}, {', '.join(broken[:3])} holds values that are not finite; try a smaller lr")


def _optimizer(parameters: Mapping[str, Tensor], dual: Dual | None, schedule: Schedule) -> torch.optim.Optimizer:
    kinds: list[tuple[Mapping[str, Tensor], dict[str, Any]]] = [(parameters, {})]
    if dual is not None:
        kinds.append((dual.parameters, {"own_lr": dual.lr, "every": dual.every}))
    least = 0 if schedule.decayed == "all" else 2
    groups: list[dict[str, Any]] = []
    for tensors, own in kinds:
        decayed = [p for p in tensors.values() if p.ndim >= least]
        others = [p for p in tensors.values() if p.ndim < least]
        groups += [{"params": decayed, "weight_decay": schedule.weight_decay, **own}]
        groups += [{"params": others, "weight_decay": 0.0, **own}]
    filled = [group for group in groups if group["params"]]
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(filled, lr=schedule.lr, momentum=_MOMENTUM)
    return torch.optim.AdamW(filled, lr=schedule.lr)


def _averages(
    loss: Callable[[int], Tensor], parameters: Mapping[str, Tensor], step: int, accumulate: int, group: Workers
) -> tuple[float, list[Tensor]]:
    """Means of the loss and of its gradients over all batches of a step."""
    total, sums = torch.zeros((), dtype=torch.float32, device="cpu"), list[Tensor]()
    for part in range(accumulate):
        value = loss((step * accumulate + part) * group.count + group.rank)
        # Gradients of these parameters only: nothing is left on weights that happen to require them.
        found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
        idle = [name for name, gradient in zip(parameters, found, strict=True) if gradient is None]
        if idle:
            raise SettingsError(f"the loss does not depend on {', '.join(idle)}; leave them out of what is trained")
        gradients = [gradient.contiguous() for gradient in found]
        # Not in place: the gradients of two parameters may be one tensor.
        sums = [a + b for a, b in zip(sums, gradients, strict=True)] if sums else gradients
        total = value.detach() + total.to(value.device)
    if accumulate > 1:
        total, sums = total / accumulate, [gradient / accumulate for gradient in sums]
    group.average([total, *sums])
    return total.item(), sums


def _writer(folder: Path | None, step: int) -> Any:
    """A writer of TensorBoard that goes on at a step; nothing without a folder."""
    if folder is None:
        return nullcontext()
    try:
        tensorboard: Any = importlib.import_module("torch.utils.tensorboard")
    except ImportError as error:
        raise SettingsError('a log needs tensorboard: pip install "radapt[log]"') from error
    return closing(tensorboard.SummaryWriter(str(folder), purge_step=step))
