"""The settings of an adapter: plain values, as in ``adapter_config.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, get_args

from radapt.errors import SettingsError, shown
from radapt.registry import nearest
from radapt.schema import STRICT
from radapt.types import Mix

from ._gaussian import REFERENCE_SIZE

__all__ = ["AdapterSettings"]

_LARGEST = 1000


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """Settings of an adapter; plain values, as in ``adapter_config.json``.

    Args:
        cutoff: D0 of the filter in cycles per pixel (40 at 224 px is 0.179); None for no filter.
        alpha: weight of the anchor; 0 is the filter alone.
        mix: ``interpolate`` or ``add``.
        block: the block whose attention output is blended with the anchor; the paper's is the first, 0.
        width, grid, prefix, patch_size: the tower that the anchor fits.
        method: how the anchor was made.
        base_model: the model that it was made on.
        origin: the method's own settings, for the card.

    Raises:
        SettingsError: a value out of range.
    """

    __pydantic_config__: ClassVar = STRICT

    cutoff: float | None
    alpha: float
    mix: Mix = "interpolate"
    width: int
    grid: tuple[int, int]
    prefix: int
    patch_size: int
    method: str
    base_model: str
    origin: Mapping[str, object] = field(default_factory=dict)
    block: int = 0

    def __post_init__(self) -> None:
        if self.cutoff is not None and not (math.isfinite(self.cutoff) and self.cutoff > 0):
            raise SettingsError(f"cutoff must be > 0 cycles per pixel or None, got {self.cutoff}")
        if not 0 <= self.alpha <= _LARGEST:
            raise SettingsError(
                f"alpha must be finite and >= 0 (the paper sweeps 0 to 2), {_LARGEST} at most, got {shown(self.alpha)}"
            )
        if self.mix not in get_args(Mix):
            raise SettingsError(f"unknown mix {self.mix!r}{nearest(self.mix, get_args(Mix))}")
        if type(self.block) is not int or self.block < 0:
            raise SettingsError(f"block must be a whole number from 0 up, got {self.block!r}")

    @property
    def d0(self) -> float | None:
        """The cut-off as the paper's D0: cycles per image at 224 pixels."""
        return None if self.cutoff is None else self.cutoff * REFERENCE_SIZE
