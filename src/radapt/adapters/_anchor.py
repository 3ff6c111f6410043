"""FRA, the Fixed Robustness Anchor: the first block's attention output on a uniform image, or on another one."""

from __future__ import annotations

from threading import get_ident
from typing import Any, get_args

import torch
from torch import Tensor, nn

from radapt.attacks import images_of
from radapt.errors import AdapterError, InputError, SettingsError
from radapt.models import VLM, Tower, evaluating, tower_of, warn_normalisation
from radapt.precision import own_precision
from radapt.registry import nearest
from radapt.types import Anchor, AnchorImage, Mix, Pixels

__all__ = ["blend", "capture_anchor"]

_UNIFORM = {"white": 1.0, "grey": 0.5, "black": 0.0}


def blend(output: Tensor, scaled: Tensor, alpha: float, mix: Mix) -> Tensor:
    """Combine an attention output with a fixed anchor A.

    ``interpolate``: (1 - alpha) Attn(x) + alpha A; ``add``: Attn(x) + alpha A. The paper leaves the form open; the
    symmetric fall of its curves around alpha = 1 favours the first, which is the default everywhere.

    Args:
        output: attention output, ... x tokens x features.
        scaled: alpha A, tokens x features, in the type of ``output``.
        alpha: weight of the anchor.
        mix: ``interpolate`` or ``add``.
    """
    return torch.add(scaled, output, alpha=1 - alpha if mix == "interpolate" else 1.0)


def capture_anchor(
    model: VLM | nn.Module, *, image: AnchorImage = "white", pixels: Pixels | None = None, block: int = 0
) -> Anchor:
    """Attention output of a block, after the output projection, of a model on one image.

    A uniform image is the same filtered and unfiltered, so its anchor does not depend on the cut-off; noise and a mean
    image are taken unfiltered.

    Args:
        model: the model, of any supported family, without an adapter. A model object does not say how images are
            normalised; :func:`radapt.load` finds out.
        image: ``white``, ``grey`` or ``black``; ``noise``: every value drawn from [0, 1], always the same ones;
            ``mean``: the mean of ``pixels``.
        pixels: images in [0, 1] of the tower's own size, for ``mean`` alone.
        block: the block, from 0, the paper's.

    Returns:
        One vector per token, float32 on the CPU: prefix tokens, then patches row by row.

    Raises:
        SettingsError: an unknown image, or the model carries an adapter.
        InputError: ``pixels`` are missing, not wanted, of another size, or outside of [0, 1].
        AdapterError: there is no such block, or the model has no weights.

    Warns:
        UserWarning: a model object, not loaded, whose normalisation is what is usual for its family.
    """
    tower = tower_of(model)
    if not isinstance(model, VLM) and not tower.has_normalisation:
        warn_normalisation(type(model).__name__, tower.mean, tower.std, level=4)
    if tower.mounted() is not None:
        raise SettingsError("detach the model's adapter before taking an anchor from it: radapt.detach(model)")
    shown = _image(tower, image, pixels)
    weight = next(tower.root.parameters())
    if weight.is_meta and not any(hasattr(module, "_hf_hook") for module in tower.root.modules()):
        raise AdapterError("the model has no weights: they are on the meta device; load them first")
    captured: list[Tensor] = []
    here = get_ident()

    def hook(module: nn.Module, args: object, output: Tensor | tuple[Any, ...]) -> None:
        if get_ident() == here:  # other threads may run the model meanwhile
            captured.append(output[0] if isinstance(output, tuple) else output)

    handle = tower.attention_of(block).register_forward_hook(hook)
    try:
        with torch.no_grad(), own_precision(), evaluating(tower.root):
            # Weights that accelerate fetches for each pass are nowhere in between, and it moves the images too.
            device = torch.device("cpu") if weight.is_meta else weight.device
            tower.run(tower.normalize(shown.to(device)).to(weight.dtype))
    finally:
        handle.remove()
    tokens = captured[0].float().cpu().reshape(tower.tokens, tower.width)
    prefix, patches = tokens[: tower.layout.prefix], tokens[tower.layout.prefix :]
    rows = torch.empty_like(patches)
    rows[tower.layout.order(tower.grid)] = patches
    return torch.cat([prefix, rows])


def _image(tower: Tower, image: AnchorImage, pixels: Pixels | None) -> Tensor:
    """The image of an anchor, 1 x 3 x height x width in [0, 1]."""
    if image not in get_args(AnchorImage):
        raise SettingsError(f"unknown anchor image {image!r}{nearest(image, get_args(AnchorImage))}")
    size = (3, *tower.image_size)
    if (pixels is not None) != (image == "mean"):
        raise InputError(f"pixels are for image='mean', which needs them; got image={image!r}")
    if image == "noise":
        return torch.rand(
            (1, *size), generator=torch.Generator("cpu").manual_seed(0), dtype=torch.float32, device="cpu"
        )
    if pixels is None:
        return torch.full((1, *size), _UNIFORM[image], dtype=torch.float32, device="cpu")
    images = images_of("the images of a mean image", pixels)
    if tuple(images.shape[1:]) != size:
        raise InputError(
            f"the images of a mean image must be N x {' x '.join(map(str, size))}, got {tuple(images.shape)}"
        )
    return images.mean(0, keepdim=True)
