"""What an adapter puts on a tower: the filter, the anchor and the deltas, as its hooks call them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from radapt.caching import apart
from radapt.errors import AdapterError
from radapt.models import Delta, Grid, Layout, LowRank, place_tokens, tensors_of

from ._anchor import blend
from ._gaussian import gaussian_filter
from ._settings import AdapterSettings

__all__ = ["AdapterMount", "fingerprint_of"]

_KEPT = 8


class AdapterMount:
    """What the hooks call: filters images, blends attention outputs, and keeps the anchor as placed on a few grids.

    Args:
        settings: of the adapter.
        anchor: what becomes of it while it is on a model counts, as in a training.
        deltas: their sum with the weights is made once, so that they must stay as they are.
    """

    def __init__(self, settings: AdapterSettings, anchor: Tensor | None, deltas: Mapping[str, Delta]) -> None:
        self.settings, self.anchor, self.block = settings, anchor, settings.block
        self.deltas: Mapping[str, Delta] = dict(deltas)
        self._added = _digest(self.deltas)
        self._kept: dict[object, Tensor] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_kept": {}}

    @property
    def fingerprint(self) -> str:
        """That of the adapter as it stands, and of every pass from now on: ``anchor.data`` changes unseen.

        Raises:
            AdapterError: its deltas were changed since they were added to the weights.
        """
        self._kept = {}
        if _digest(self.deltas) != self._added:
            raise AdapterError(
                "the deltas of an adapter were changed in place while it was on a model, whose weights have them as "
                "they were; detach the adapter (radapt.detach(model)) before it is changed, and attach it again"
            )
        return fingerprint_of(self.settings, self.anchor, self.deltas)

    def pixels(self, images: Tensor) -> Tensor:
        return images if self.settings.cutoff is None else gaussian_filter(images, self.settings.cutoff)

    def attention(self, output: Tensor, grids: Sequence[Grid], layout: Layout) -> Tensor:
        settings = self.settings
        if settings.alpha == 0 or self.anchor is None:
            return output
        # An anchor in training gets a gradient from every pass, and what a compiler makes is a part of the pass.
        now = self.anchor.requires_grad or torch.compiler.is_dynamo_compiling()
        place = self._place if now else self._placed
        scaled = [place(grid, layout, output.device, output.dtype) for grid in grids]
        return blend(output, scaled[0] if len(scaled) == 1 else torch.cat(scaled), settings.alpha, settings.mix)

    def _place(self, grid: Grid, layout: Layout, device: torch.device, dtype: torch.dtype) -> Tensor:
        """alpha A on the token grid of an image."""
        assert self.anchor is not None
        placed = place_tokens(self.anchor.float(), self.settings.grid, grid, layout)
        return (self.settings.alpha * placed).to(device, dtype)

    def _placed(self, grid: Grid, layout: Layout, device: torch.device, dtype: torch.dtype) -> Tensor:
        """The same, made once. Threads may make it twice; what is kept is never changed."""
        key = (grid, layout, device, dtype, None if self.anchor is None else self.anchor._version)
        placed = self._kept.get(key)
        if placed is None:
            placed = apart(self._place, grid, layout, device, dtype)
            if len(self._kept) >= _KEPT:
                self._kept = {}
            self._kept[key] = placed
        return placed


def fingerprint_of(settings: AdapterSettings, anchor: Tensor | None, deltas: Mapping[str, Delta]) -> str:
    """Hash of everything about an adapter that changes a model's output."""
    s = settings
    cutoff = None if s.cutoff is None else float(s.cutoff)  # as they are when they are read: 1 and 1.0 are one
    facts = json.dumps([cutoff, float(s.alpha), s.mix, s.grid, s.prefix, *([s.block] if s.block else [])])
    total = hashlib.sha256(facts.encode())
    if s.alpha and anchor is not None:
        total.update(_bytes(anchor))
    _add(total, deltas)
    return total.hexdigest()[:16]


def _digest(deltas: Mapping[str, Delta]) -> str:
    total = hashlib.sha256()
    _add(total, deltas)
    return total.hexdigest()


def _add(total: hashlib._Hash, deltas: Mapping[str, Delta]) -> None:
    for name, delta in sorted(deltas.items()):
        total.update(name.encode())
        if isinstance(delta, LowRank):  # two matrices are no weight of as many numbers
            total.update(f" {tuple(delta.up.shape)} @ {tuple(delta.down.shape)} ".encode())
        for tensor in tensors_of(delta):
            total.update(_bytes(tensor))


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().float().cpu().contiguous().numpy().tobytes()
