"""FRA, the Fixed Robustness Anchor: the first block's attention output on a uniform image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from radapt.errors import SettingsError
from radapt.find import nearest
from radapt.models import VLM, tower_of
from radapt.types import Anchor

__all__ = ["MIXES", "blend", "capture_anchor"]

MIXES = ("interpolate", "add")
_IMAGES = {"white": 1.0, "grey": 0.5, "black": 0.0}


def blend(output: Tensor, scaled: Tensor, alpha: float, mix: str) -> Tensor:
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


def capture_anchor(model: VLM | nn.Module, *, image: str = "white") -> Anchor:
    """First-block attention output, after the output projection, of a model on a uniform image.

    A uniform image is the same filtered and unfiltered, so the anchor does not depend on the cut-off.

    Args:
        model: the model, of any supported family, without an adapter.
        image: ``white``, ``grey`` or ``black``.

    Returns:
        One vector per token, float32 on the CPU: prefix tokens, then patches row by row.

    Raises:
        SettingsError: an unknown image, or the model carries an adapter.
    """
    if image not in _IMAGES:
        raise SettingsError(f"unknown anchor image {image!r}{nearest(image, _IMAGES)}")
    tower = tower_of(model)
    if tower.mounted() is not None:
        raise SettingsError("detach the model's adapter before taking an anchor from it: radapt.detach(model)")
    captured: list[Tensor] = []

    def hook(module: nn.Module, args: object, output: Tensor | tuple[Any, ...]) -> None:
        captured.append(output[0] if isinstance(output, tuple) else output)

    weight = next(tower.root.parameters())
    side = tower.patch_size
    size = (1, 3, tower.grid[0] * side, tower.grid[1] * side)
    handle = tower.attention.register_forward_hook(hook)
    try:
        with torch.no_grad():
            tower.run(tower.normalize(torch.full(size, _IMAGES[image], device=weight.device)).to(weight.dtype))
    finally:
        handle.remove()
    tokens = captured[0].float().cpu().reshape(tower.tokens, tower.width)
    prefix, patches = tokens[: tower.layout.prefix], tokens[tower.layout.prefix :]
    rows = torch.empty_like(patches)
    rows[tower.layout.order(tower.grid)] = patches
    return torch.cat([prefix, rows])
