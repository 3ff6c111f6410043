"""The training loop that every trained part shares: anchors, fine-tuned twins and micro models."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from radapt._version import __version__
from radapt.errors import CheckError, SettingsError
from radapt.numbers import whole
from radapt.types import ReportTo

from .checkpoint import resume, save
from .distributed import Workers, workers
from .log import open_log
from .schedule import Dual, Schedule

__all__ = ["epoch_rows", "fit"]

_MOMENTUM = 0.9
_TINY = 1e-6
"""As in ``torch.nn.utils.clip_grad_norm_``."""


def fit(
    parameters: Mapping[str, Tensor],
    loss: Callable[[int], Tensor],
    schedule: Schedule,
    *,
    label: str,
    dual: Dual | None = None,
    checkpoint: Path | None = None,
    every: int = 100,
    look: int = 1,
    settings: Mapping[str, object] | None = None,
    log: Path | None = None,
    report_to: ReportTo = "tensorboard",
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
        look: steps between looks at the loss and the gradient. Each look waits for the device: on a GPU, whose work is
            queued ahead, a larger number keeps it busy. The training is the same; what is not finite is seen later.
        settings: what else the training depends on (plain values); a checkpoint of other settings is refused.
        log: folder of a log: loss, learning rate and norm of the gradient (before clipping) at every step.
        report_to: what keeps it: ``tensorboard`` or ``wandb``; see :func:`radapt.training.open_log`.
        quiet: no progress bar.

    Raises:
        SettingsError: the checkpoint belongs to a training with other settings, the loss does not depend on some of the
            parameters, a package is missing, or gradients are switched off.
        CheckError: the loss, its gradient or a parameter is not finite; the last checkpoint is kept.
    """
    whole("look", look)
    if not torch.is_grad_enabled():
        raise SettingsError("a training needs gradients; call it outside of torch.no_grad() and torch.inference_mode()")
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
    kept = open_log(log if group.main else None, report_to, step=len(history), settings=recipe, quiet=quiet)
    with kept as logged, progress:
        task = progress.add_task(label, total=schedule.steps, completed=len(history), loss=float("nan"))
        unseen = list[tuple[Tensor, Tensor, float]]()
        for step in range(len(history), schedule.steps):
            rate = schedule.lr * schedule.factor(step)
            for parameter_group in optimizer.param_groups:
                parameter_group["lr"] = parameter_group.get("own_lr", rate)
            value, gradients = _averages(loss, {**parameters, **duals}, step, schedule.accumulate, group)
            norm = torch.nn.utils.get_total_norm(gradients[: len(leaves)])
            # Not in place: the gradients of two parameters may be one tensor.
            scale = (schedule.max_grad_norm / (norm + _TINY)).clamp(max=1.0) if schedule.max_grad_norm else None
            for parameter, gradient in zip(leaves, gradients[: len(leaves)], strict=True):
                parameter.grad = gradient if scale is None else gradient * scale.to(gradient.device)
            if dual is not None and (step + 1) % dual.every == 0:
                for parameter, gradient in zip(duals.values(), gradients[len(leaves) :], strict=True):
                    parameter.grad = gradient
            del gradients
            unseen.append((value, norm, rate))
            if len(unseen) >= look or (step + 1) % every == 0 or step + 1 == schedule.steps:
                for scalars in _looked_at(label, len(history), unseen, schedule.lr):
                    if logged is not None:
                        named = zip(("loss", "gradient_norm", "learning_rate"), scalars, strict=True)
                        logged.add(dict(named), len(history))
                    history.append(scalars[0])
                unseen.clear()
                progress.update(task, completed=len(history), loss=sum(history[-20:]) / len(history[-20:]))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            for name, mean in means.items():
                mean.lerp_(parameters[name].detach(), 1 - schedule.ema)
            if (step + 1) % every and step + 1 < schedule.steps:
                continue
            _check_finite(f"{label}: after step {step} with lr {schedule.lr}", {**parameters, **means, **duals})
            if checkpoint is not None and group.main:
                if logged is not None:
                    logged.flush()  # what a resumed run does not repeat must be in the log
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


def _looked_at(
    label: str, first: int, unseen: Sequence[tuple[Tensor, Tensor, float]], lr: float
) -> list[tuple[float, float, float]]:
    """Loss, norm of the gradient and learning rate of some steps; refused where they are not finite.

    Raises:
        CheckError: the loss or the norm of a step is not finite.
    """
    losses = torch.stack([value for value, _, _ in unseen]).tolist()
    norms = torch.stack([norm for _, norm, _ in unseen]).tolist()
    for step, (value, norm) in enumerate(zip(losses, norms, strict=True), first):
        for what, scalar in (("loss", value), ("gradient", norm)):
            if not math.isfinite(scalar):
                raise CheckError(f"{label}: the {what} is {scalar} at step {step}; try a smaller lr than {lr}")
    return [(value, norm, rate) for value, norm, (_, _, rate) in zip(losses, norms, unseen, strict=True)]


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
) -> tuple[Tensor, list[Tensor]]:
    """Means of the loss and of its gradients over all batches of a step."""
    total, sums = None, list[Tensor]()
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
        if total is None:
            total = torch.zeros((), dtype=torch.float32, device=value.device)
        total = total + value.detach().reshape(())  # it may be a vector of one number
    assert total is not None
    if accumulate > 1:
        total, sums = total / accumulate, [gradient / accumulate for gradient in sums]
    group.average([total, *sums])
    return total, sums
