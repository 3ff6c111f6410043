"""How an analysis observes a vision encoder: by hooks that are gone when it ends, and that keep only what it asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from radapt.errors import InputError
from radapt.models import VLM, Tower

__all__ = ["Take", "block_names", "by_image", "capture", "eager"]

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


def by_image(tower: Tower, output: Any, images: int) -> Float[Tensor, "images tokens features"]:
    """The tokens that a block gave, image by image.

    They come as one row of tokens per image; with the tokens first (open_clip); or with the images laid end to end
    (Qwen-VL), and then all must have one grid, as those of one batch do. The tiles of an image (LLaVA-NeXT) follow one
    another in its row.

    Args:
        tower: the vision encoder.
        output: what a block gave, alone or as the first of a tuple.
        images: number of images that went in.

    Raises:
        InputError: there is not the same number of tokens per image.
    """
    tokens: Tensor = output[0] if isinstance(output, tuple) else output
    if tokens.ndim == 3 and not getattr(tower.attention, "batch_first", True):
        tokens = tokens.transpose(0, 1)
    if tokens[..., 0].numel() % images:
        raise InputError(
            f"the encoder gave {tokens[..., 0].numel()} tokens for {images} images; all images of a batch must have "
            "one size, so that each has the same number of tokens"
        )
    return tokens.reshape(images, -1, tokens.shape[-1])


def block_names(tower: Tower) -> tuple[str, ...]:
    """Names of what :func:`capture` keeps of the blocks with ``entering``: ``Emb.``, ``B1``, ``B2``..."""
    return "Emb.", *(f"B{number}" for number in range(1, len(tower.blocks) + 1))


@contextmanager
def eager(model: VLM) -> Iterator[None]:
    """Let the vision encoder compute its attention step by step, so that it gives its maps; as before at the end.

    Fused kernels (``sdpa``, flash attention) never hold a map. The outputs differ by rounding inside.

    Args:
        model: a model; one whose encoder is not of ``transformers`` stays as it is, and gives none.
    """
    root: Any = model.tower.root
    before = getattr(getattr(root, "config", None), "_attn_implementation", None)
    if before is None or not hasattr(root, "set_attn_implementation"):
        yield
        return
    try:
        root.set_attn_implementation("eager")
        yield
    finally:
        root.set_attn_implementation(before)
