"""The settings of an adapter: plain values, as in ``radapt_config.json``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_args

from radapt.errors import SettingsError, shown
from radapt.numbers import number, whole
from radapt.registry import nearest
from radapt.schema import STRICT
from radapt.types import Mix

from ._gaussian import REFERENCE_SIZE

__all__ = ["PROJECTIONS", "AdapterSettings", "check_settings"]

PROJECTIONS = 32
"""Length of the sketch of base weights."""

_HIGHEST_ALPHA, _LOWEST_CUTOFF, _HIGHEST_BLOCK = 100, 1e-4, 9999
_UNGUIDED = ("training-free", "data-driven")


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """Settings of an adapter; plain values, as in ``radapt_config.json``.

    Args:
        cutoff: D0 of the filter in cycles per pixel (40 at 224 px is 0.179); None for no filter.
        alpha: weight of the anchor; 0 is the filter alone.
        mix: ``interpolate`` or ``add``.
        block: the block whose attention output is blended with the anchor; the paper's is the first, 0.
        width, grid, prefix, patch_size: the tower that the anchor fits.
        method: how the anchor was made.
        base_model: the model that it was made on.
        origin: the method's own settings, for the card.
        base_weights: ``norm``, ``along`` and ``sketch``, which tell the weights that the deltas were made for from
            others (the last of them may be missing); None where there are no deltas, or any weights will do.

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
    base_weights: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        check_settings(self.cutoff, self.alpha, self.block)
        if self.mix not in get_args(Mix):
            raise SettingsError(f"unknown mix {self.mix!r}{nearest(self.mix, get_args(Mix))}")
        whole("width", self.width, 1, 10**6)
        whole("patch_size", self.patch_size, 1, 10**6)
        whole("prefix", self.prefix, 0, 10**6)
        if not isinstance(self.grid, tuple | list) or len(self.grid) != 2:
            raise SettingsError(f"grid must be two whole numbers, rows and columns of patches, got {shown(self.grid)}")
        for side in self.grid:
            whole("each side of grid", side, 1, 10**6)
        for name in ("method", "base_model"):
            _check_text(name, getattr(self, name))
        if not isinstance(self.origin, Mapping):
            raise SettingsError(f"origin must be settings by name, got {shown(self.origin)}")
        if self.base_weights is not None:
            _check_base_weights(self.base_weights)
        if self.method in _UNGUIDED and "guide" in self.origin:
            raise SettingsError(f"{self.method} takes no guide, got {self.origin['guide']!r}")

    @property
    def d0(self) -> float | None:
        """The cut-off as the paper's D0: cycles per image at 224 pixels."""
        return None if self.cutoff is None else self.cutoff * REFERENCE_SIZE


def _check_base_weights(given: object) -> None:
    if not isinstance(given, Mapping) or set(given) not in ({"norm", "along"}, {"norm", "along", "sketch"}):
        raise SettingsError(f"base_weights must have norm and along, and may have a sketch, got {shown(given)}")
    number("norm", given["norm"], 0)
    number("along", given["along"], -1e12)
    sketch = given.get("sketch", [0.0] * PROJECTIONS)
    if not isinstance(sketch, list | tuple) or len(sketch) != PROJECTIONS:
        raise SettingsError(f"the sketch of base_weights must be {PROJECTIONS} numbers, got {shown(sketch)}")
    for each in sketch:
        number("each number of the sketch", each, -1e12)


def check_settings(cutoff: object, alpha: object, block: object = 0) -> None:
    """Refuse a cut-off, a weight of the anchor or a number of a block that is out of range, before anything is made.

    Raises:
        SettingsError: the cut-off is neither None nor a number from 1e-4 to 1e4, alpha is no number from 0 to 100, or
            the block is no whole number from 0 to 9999.
    """
    if cutoff is not None:
        _check(number, cutoff, _LOWEST_CUTOFF, 1e4, "cutoff must be > 0 cycles per pixel or None (1e-4 to 1e4)")
    _check(number, alpha, 0, _HIGHEST_ALPHA, "alpha must be finite and >= 0 (the paper sweeps 0 to 2), 100 at most")
    _check(whole, block, 0, _HIGHEST_BLOCK, "block must be a whole number from 0 up")


def _check(check: Callable[..., None], value: object, low: float, high: float, rule: str) -> None:
    try:
        check("", value, low, high)
    except SettingsError:
        raise SettingsError(f"{rule}, got {shown(value)}") from None


def _check_text(name: str, text: object) -> None:
    if not isinstance(text, str):
        raise SettingsError(f"{name} must be a text, got {shown(text)}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SettingsError(f"{name} must be a text of whole characters, got {shown(text)}") from None
