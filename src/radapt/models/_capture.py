"""What the modules of a model give, observed by hooks that are gone at the end, and that keep only what is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

__all__ = ["Take", "capture"]

Take = Callable[[Any], Tensor]
"""Makes of what a module gave what is kept of it."""


@contextmanager
def capture(modules: Sequence[nn.Module], take: Take, *, entering: bool = False) -> Iterator[dict[int, Tensor]]:
    """Keep, of what modules give inside this context, what ``take`` makes of it; weights and state dict are untouched.

    The hooks return nothing, so that the model's outputs stay as they are, to the bit; they are removed at the end,
    after an error too.

    Args:
        modules: modules of one model.
        take: gets the output of a module as it is, a tuple too.
        entering: whether what enters the first module, its first argument, is kept as well, at position 0.

    Yields:
        What is kept, by position in ``modules``, 1 being the first of them with ``entering``; every pass of the model
        overwrites it.
    """
    kept: dict[int, Tensor] = {}

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        kept[0] = take(args[0] if args else next(iter(kwargs.values())))

    def after(position: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: object, output: Any) -> None:
            kept[position] = take(output)

        return hook

    handles = []
    try:
        if entering:
            handles.append(modules[0].register_forward_pre_hook(before, with_kwargs=True))
        for position, module in enumerate(modules, int(entering)):
            handles.append(module.register_forward_hook(after(position)))
        yield kept
    finally:
        for handle in handles:
            handle.remove()
