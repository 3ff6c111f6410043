"""Defences: whatever can be put on a model for the time of an evaluation, adapters among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from radapt.attacks import bpda
from radapt.errors import AdapterError, SettingsError
from radapt.fingerprint import code_digest
from radapt.models import VLM

__all__ = ["Defence", "InputDefence"]


@runtime_checkable
class Defence(Protocol):
    """What can be attached to a model: an adapter, an :class:`InputDefence`, or a class of your own.

    An attack that sees the model differentiates through whatever is attached, with the gradient that it has; a defence
    without a useful gradient (rounding, compression) gives a substitute, or its white-box results mean nothing.
    """

    @property
    def fingerprint(self) -> str:
        """Hash of everything that changes a model's output; results are kept by it."""
        ...

    def attach(self, model: VLM) -> AbstractContextManager[Any]:
        """Put it on the model; leaving the context takes it off, and the model is exactly what it was."""
        ...


class InputDefence:
    """A map of images that stands before a model: a blur, a purifier, a quantiser, a module of your own.

    Args:
        function: maps pixels in [0, 1], batch x 3 x height x width, to others of the same shape; a module is used in
            the mode that it is in.
        substitute: what gives the gradient instead: a differentiable map of the same kind, or ``identity`` (backward
            pass differentiable approximation, Athalye et al. 2018); None: the function's own gradient.
        fingerprint: what tells it, with its substitute, from others; by default a hash of the source and of every value
            that they hold.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor] | nn.Module,
        *,
        substitute: Callable[[Tensor], Tensor] | str | None = None,
        fingerprint: str | None = None,
    ) -> None:
        # An attacker with another gradient is another threat: results with and without a substitute are kept apart.
        self._held = [function] if substitute is None else [function, substitute]
        self._given = fingerprint
        if substitute is None:
            self._transform: Callable[[Tensor], Tensor] = function
        elif substitute == "identity":
            self._transform = bpda(function)
        elif callable(substitute):
            self._transform = bpda(function, substitute)
        else:
            raise SettingsError(f"substitute must be a function, 'identity' or None, got {substitute!r}")

    @property
    def fingerprint(self) -> str:
        """Hash of the source and the values of the function and its substitute, unless one was given."""
        return self._given if self._given is not None else code_digest(self._held)

    @contextmanager
    def attach(self, model: VLM) -> Iterator[None]:
        """Put it before the model, for the time of a ``with`` block.

        Raises:
            AdapterError: something stands there already.
        """
        if model.input_transform is not None:
            raise AdapterError(f"{model.name} has an input defence already; leave that one's with block first")
        model.input_transform = self._transform
        try:
            yield
        finally:
            model.input_transform = None
