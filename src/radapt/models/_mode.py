"""How a module computes for a while: in evaluation mode, whatever its own, and with what it keeps computed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Lock, RLock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

__all__ = ["evaluating", "random_parts", "recomputing"]

_lock = Lock()
_switching = RLock()
_held: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
"""How many blocks keep a module, which was in training mode, in evaluation mode at the moment."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A module with all of its parts in evaluation mode, for the time of a ``with`` block; then each is as it was.

    Blocks may lie in each other, be of models that share parts, and run in several threads: the last one to end gives
    a part its mode back.
    """
    if torch.compiler.is_compiling():
        yield
        return
    with _lock:
        held = [module for module in model.modules() if module.training or module in _held]
        for module in held:
            module.training = False
            _held[module] = _held.get(module, 0) + 1
    try:
        yield
    finally:
        with _lock:
            for module in held:
                _held[module] -= 1
                if not _held[module]:
                    del _held[module]
                    module.training = True


def random_parts(model: nn.Module) -> list[str]:
    """Kinds of the parts of a module that, as they are in training mode, are random or learn from what they see."""
    learning = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)
    parts = [part for part in model.modules() if part.training]
    found = [part for part in parts if isinstance(part, learning) or type(part).__name__.startswith("Drop")]
    return sorted({type(part).__name__ for part in found if getattr(part, "p", 1) != 0})


@contextmanager
def recomputing(model: Any, wanted: bool) -> Iterator[None]:
    """Gradient checkpointing for a while: blocks keep their inputs only, and run again in the backward pass.

    (The models' own switch works in training mode alone.) One thread does so at a time. A ``forward`` that others put
    on a block, as accelerate does, is there again afterwards.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    if not (wanted and torch.is_grad_enabled()):
        yield
        return
    with _switching:
        blocks = [each for each in model.modules() if isinstance(each, GradientCheckpointingLayer)]
        others = [vars(block).get("forward") for block in blocks]
        for block in blocks:
            block.forward = partial(checkpoint, _evaluated(block), use_reentrant=False)
        try:
            yield
        finally:
            for block, other in zip(blocks, others, strict=True):
                del block.forward
                if other is not None:
                    block.forward = other


def _evaluated(block: Any) -> Callable[..., Any]:
    """The pass through a block in evaluation mode, which the backward pass, too, is to run it in."""
    forward = block.forward

    def run(*args: Any, **settings: Any) -> Any:
        with evaluating(block):
            return forward(*args, **settings)

    return run
