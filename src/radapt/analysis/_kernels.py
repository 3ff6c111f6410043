"""The patch embedding's kernels, in whatever module they are."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from radapt.errors import InputError, ModelError
from radapt.models import VLM

__all__ = ["kernels"]


def kernels(model: VLM) -> Float[Tensor, "features 3 size size"]:
    """What a model's first linear map does to the pixels of a patch, in float64 on the CPU.

    Args:
        model: one whose patch embedding is a 2-D convolution; a 3-D one (Qwen-VL), whose frames all show the one
            image, so that their kernels add up; or a linear map of flattened patches whose channel runs fastest
            (SigLIP 2 with variable resolution).

    Raises:
        InputError: it carries an adapter, of which the patch embedding alone would show nothing or a part.
        ModelError: its patch embedding is something else.
    """
    if model.defended:
        raise InputError(f"{model.name} carries an adapter, and kernels are of the patch embedding alone; detach it")
    module, size = model.tower.patch_embedding, model.tower.patch_size
    weight: Tensor | None = getattr(module, "weight", None)
    if isinstance(module, nn.Conv3d) and weight is not None and weight.shape[3:] == (size, size):
        return weight.detach().cpu().double().sum(2)
    if isinstance(module, nn.Conv2d) and weight is not None and weight.shape[2:] == (size, size):
        return weight.detach().cpu().double()
    if isinstance(module, nn.Linear) and module.in_features == 3 * size * size:
        return module.weight.detach().cpu().double().view(-1, size, size, 3).permute(0, 3, 1, 2)
    raise ModelError(
        f"{model.name} embeds its patches with a {type(module).__name__}; kernels are read from a Conv2d, a Conv3d "
        f"or a Linear on patches of {size} x {size} pixels"
    )
