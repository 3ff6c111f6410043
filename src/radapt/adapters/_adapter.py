"""Adapter: the Gaussian filter before the vision tower and the anchor in one of its blocks, with their settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor, nn

from radapt.caching import apart
from radapt.errors import AdapterError, SettingsError
from radapt.models import VLM, Grid, Layout, Tower, place_tokens, tower_of
from radapt.registry import nearest
from radapt.types import Anchor

from ._anchor import blend
from ._gaussian import gaussian_filter
from ._settings import AdapterSettings
from ._storage import push, read, save

__all__ = ["Adapter", "Attachment", "adapter_of", "attached", "detach"]


_KEPT = 8


class _AdapterMount:
    """What the hooks call: filters images, blends attention outputs, and keeps the anchor as placed on a few grids."""

    def __init__(self, settings: AdapterSettings, anchor: Tensor) -> None:
        self.settings, self.anchor, self.block = settings, anchor, settings.block
        self._kept: dict[object, Tensor] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_kept": {}}

    @property
    def fingerprint(self) -> str:
        return _fingerprint(self.settings, self.anchor)

    def pixels(self, images: Tensor) -> Tensor:
        return images if self.settings.cutoff is None else gaussian_filter(images, self.settings.cutoff)

    def attention(self, output: Tensor, grids: Sequence[Grid], layout: Layout) -> Tensor:
        settings = self.settings
        if settings.alpha == 0:
            return output
        # An anchor in training gets a gradient from every pass, and what a compiler makes is a part of the pass.
        now = self.anchor.requires_grad or torch.compiler.is_dynamo_compiling()
        place = self._place if now else self._placed
        scaled = [place(grid, layout, output.device, output.dtype) for grid in grids]
        return blend(output, scaled[0] if len(scaled) == 1 else torch.cat(scaled), settings.alpha, settings.mix)

    def _place(self, grid: Grid, layout: Layout, device: torch.device, dtype: torch.dtype) -> Tensor:
        """alpha A on the token grid of an image."""
        return (self.settings.alpha * place_tokens(self.anchor, self.settings.grid, grid, layout)).to(device, dtype)

    def _placed(self, grid: Grid, layout: Layout, device: torch.device, dtype: torch.dtype) -> Tensor:
        """The same, made once. Threads may make it twice; what is kept is never changed."""
        key = (grid, layout, device, dtype, self.anchor._version)
        placed = self._kept.get(key)
        if placed is None:
            placed = apart(self._place, grid, layout, device, dtype)
            if len(self._kept) >= _KEPT:
                self._kept = {}
            self._kept[key] = placed
        return placed


def _fingerprint(settings: AdapterSettings, anchor: Tensor) -> str:
    s = settings
    facts = json.dumps([s.cutoff, s.alpha, s.mix, s.grid, s.prefix, *([s.block] if s.block else [])])
    weights = anchor.detach().float().cpu().contiguous().numpy().tobytes() if s.alpha else b""
    return hashlib.sha256(facts.encode() + weights).hexdigest()[:16]


class Attachment:
    """An adapter on a model; leaving the ``with`` block, or :meth:`detach`, restores the model exactly."""

    def __init__(self, tower: Tower, mount: _AdapterMount) -> None:
        self._tower, self._mount = tower, mount
        tower.mount(mount)

    @property
    def active(self) -> bool:
        """Whether the adapter is still on the model."""
        return self._tower.mounted() is self._mount

    def detach(self) -> None:
        """Restore the model; does nothing when this adapter is detached already."""
        if self.active:
            self._tower.unmount()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()


class Adapter:
    """A Gaussian input filter and a fixed robustness anchor (arXiv 2603.12799), for one kind of vision tower.

    Args:
        settings: filter, blend and the tower that the anchor fits.
        anchor: tokens x features, prefix tokens first, then patches row by row.

    Raises:
        AdapterError: the anchor does not fit the settings, or is not finite.
    """

    def __init__(self, settings: AdapterSettings, anchor: Anchor) -> None:
        shape = (settings.prefix + settings.grid[0] * settings.grid[1], settings.width)
        if not anchor.is_floating_point():
            raise AdapterError(f"the anchor must be of a floating-point type, got {anchor.dtype}")
        if tuple(anchor.shape) != shape:
            raise AdapterError(f"the anchor has shape {tuple(anchor.shape)}, its settings ask for {shape}")
        finite = torch.isfinite(anchor.float())  # as it is saved and used
        if not bool(finite.all()):
            raise AdapterError(f"the anchor holds {int((~finite).sum())} values that are not finite")
        with torch.inference_mode(False):  # an anchor that was made in inference mode could be part of no gradient
            self.anchor = anchor.clone() if anchor.is_inference() else anchor
        self.settings = settings
        self._attachments: list[Attachment] = []

    def __repr__(self) -> str:
        s = self.settings
        d0 = "no filter" if s.d0 is None else f"cutoff={s.cutoff:.4g} (D0={s.d0:.3g} at 224 px)"
        return (
            f"Adapter({s.method}, {d0}, alpha={s.alpha:g}, mix={s.mix!r}, tokens={len(self.anchor)}, width={s.width})"
        )

    @property
    def fingerprint(self) -> str:
        """Hash of everything that changes a model's output; names the adapter in results."""
        return _fingerprint(self.settings, self.anchor)

    def change(self, **settings: object) -> Adapter:
        """A copy with other settings (``alpha``, ``cutoff``, ``mix``) and the same anchor."""
        known = asdict(self.settings)
        for name in settings:
            if name not in known:
                raise SettingsError(f"unknown setting {name!r}{nearest(name, known)}")
        return Adapter(replace(self.settings, **settings), self.anchor)  # type: ignore[arg-type]

    def attach(self, model: VLM | nn.Module) -> Attachment:
        """Put the adapter on a model; weights and state dict stay as they are.

        The anchor is interpolated over the token grid when only the image size differs.

        Returns:
            An attachment, to be used as a context manager or to be detached later.

        Raises:
            AdapterError: another adapter is attached, the tower has another width, patch size or class token, or too
                few blocks.
            ModelError: the model is of an unsupported family.
        """
        tower = tower_of(model)
        s = self.settings
        asked = {"width": s.width, "prefix tokens": s.prefix, "patch size": s.patch_size}
        got = {"width": tower.width, "prefix tokens": tower.layout.prefix, "patch size": tower.patch_size}
        differing = [f"{name} {got[name]} instead of {asked[name]}" for name in asked if got[name] != asked[name]]
        if differing:
            raise AdapterError(
                f"this adapter was made for another vision tower ({s.base_model}): the model has "
                f"{', '.join(differing)}; make one for this model, e.g. radapt.training_free(model)"
            )
        attachment = Attachment(tower, _AdapterMount(s, self.anchor))
        self._attachments = [*(a for a in self._attachments if a.active), attachment]  # forget those that are over
        return attachment

    def detach(self) -> None:
        """Remove this adapter from every model that it was attached to."""
        while self._attachments:
            self._attachments.pop().detach()

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write ``radapt_config.json``, ``radapt_anchor.safetensors`` and a model card into a folder.

        The folder may be that of a model. A run that is killed leaves the old adapter, the new one, or something that
        :meth:`from_pretrained` refuses.

        Raises:
            AdapterError: the folder cannot be written.

        Warns:
            UserWarning: there is a ``README.md`` of others, or one that was edited; it is left as it is.
        """
        return save(self.settings, self.anchor, self.fingerprint, Path(folder))

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path) -> Adapter:
        """Read an adapter from a folder or from the Hugging Face hub.

        Raises:
            AdapterError: missing, truncated, of another format, with unknown keys or values out of range, or a
                configuration whose anchor is another one.
        """
        return cls(*read(name_or_folder))

    def push_to_hub(self, repository: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the adapter's folder to the Hugging Face hub and return its address; a card edited there stays.

        Raises:
            AdapterError: the hub refuses, or cannot be reached.
        """
        return push(self.settings, self.anchor, self.fingerprint, repository, private=private, token=token)


def adapter_of(model: VLM | nn.Module) -> Adapter | None:
    """The adapter that a model carries, equal to the one that was attached; None without one."""
    mount = tower_of(model).mounted()
    return Adapter(mount.settings, mount.anchor) if isinstance(mount, _AdapterMount) else None


def attached(model: VLM | nn.Module) -> bool:
    """Whether a model carries an adapter, or anything else that is mounted on its tower."""
    return tower_of(model).mounted() is not None


def detach(model: VLM | nn.Module) -> bool:
    """Remove the adapter of a model (or of a deep copy of one), and say whether it had one."""
    return tower_of(model).unmount()
