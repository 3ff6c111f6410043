"""One attack at several radii: from the smallest up, each from where the last one ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from radapt.errors import SettingsError, shown

from ._attack import Attack
from ._inputs import TensorLike, images_of
from ._objective import Objective, Subset
from ._outcome import Outcome

__all__ = ["ascending"]

_COSTS = ("iterations", "forwards", "backwards")


def ascending(
    attack: Attack,
    objective: Objective,
    pixels: TensorLike,
    *,
    radii: Sequence[float],
    keys: Sequence[str] | None = None,
    **settings: Any,
) -> dict[float, Outcome]:
    """Attack every image at several radii, in ascending order.

    What fools within a radius fools within every larger one, and is not attacked again; the others start from the
    image that the last radius ended with. So no sample is fooled at a radius and stands at a larger one.

    Args:
        attack: the attack; its own radius is not used.
        objective, pixels, keys: as for the attack.
        radii: values of eps, in any order.
        settings: other arguments of the attack's call (``seed``, ``batch_size``, ``precision``...).

    Returns:
        The outcome at every radius, the smallest first; costs are those of all radii up to it.

    Raises:
        InputError, SettingsError, CheckError: as for the attack; a SettingsError also where there is no radius.
    """
    try:
        radii = [float(radius) for radius in radii]
    except (TypeError, ValueError) as error:
        raise SettingsError(f"radii must be a list of numbers, as in [1/255, 4/255], got {shown(radii)}") from error
    if not radii:
        raise SettingsError("radii is empty; name at least one, as in radii=[1/255, 4/255]")
    pixels = images_of("pixels", pixels)
    keys = [str(position) for position in range(len(pixels))] if keys is None else list(keys)
    attacks = [replace(attack, eps=eps) for eps in sorted(set(radii))]
    total = attacks[0](objective, pixels, keys=keys, **settings)
    outcomes = {attacks[0].eps: total}
    for wider in attacks[1:]:
        rows = (~total.fooled).nonzero().flatten()
        if len(rows):
            subset, subset_keys = Subset(objective, rows.cpu()), [keys[row] for row in rows.tolist()]
            later = wider(subset, pixels[rows], keys=subset_keys, start=total.pixels[rows], **settings)
            total = _replaced(total, later, rows)
        outcomes[wider.eps] = total
    return outcomes


def _replaced(total: Outcome, later: Outcome, rows: Tensor) -> Outcome:
    changed = {}
    for field in fields(Outcome):
        before, after = getattr(total, field.name), getattr(later, field.name)
        if field.name in _COSTS:
            after = before[rows] + after
        changed[field.name] = torch.index_copy(before, 0, rows, after)
    return replace(total, **changed)
