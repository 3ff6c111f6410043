"""Adapter: a filter before the vision tower, an anchor in one of its blocks, and deltas of its weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from radapt.errors import AdapterError, SettingsError, shown
from radapt.io import expanded
from radapt.models import VLM, Delta, WeightChange, load, tower_of
from radapt.registry import nearest
from radapt.results import Results
from radapt.types import Anchor

from ._attachment import Attachment
from ._base_weights import base_weights, check_base_weights
from ._card import results_of
from ._checks import checked_deltas
from ._mount import AdapterMount, fingerprint_of
from ._peft import read_lora, write_lora
from ._settings import AdapterSettings
from ._storage import push, read, save

__all__ = ["Adapter", "adapter_of", "attached", "detach"]


class Adapter:
    """What makes a model robust, in parts that each may be absent, for one kind of vision tower.

    A Gaussian filter before the tower and a fixed anchor in one of its blocks (arXiv 2603.12799), and deltas that are
    added to some of its weights.

    Args:
        settings: filter, blend and the tower that the adapter fits.
        anchor: tokens x features, prefix tokens first, then patches row by row; None, with alpha 0, for none.
        deltas: what is added to weights of the vision encoder, by their names in it.

    Raises:
        AdapterError: the anchor does not fit the settings, or something is not finite.
    """

    def __init__(
        self, settings: AdapterSettings, anchor: Anchor | None = None, deltas: Mapping[str, Delta] | None = None
    ) -> None:
        if not isinstance(settings, AdapterSettings):
            raise AdapterError(f"the settings of an adapter are AdapterSettings, got {shown(settings)}")
        self.settings, self.anchor = settings, _checked(settings, anchor)
        self.deltas = checked_deltas({} if deltas is None else deltas)
        self._attachments: list[Attachment] = []

    def __getstate__(self) -> dict[str, object]:
        """What a copy of it has: it is on no model."""
        return {**vars(self), "_attachments": []}

    def __repr__(self) -> str:
        s = self.settings
        d0 = "no filter" if s.d0 is None else f"cutoff={s.cutoff:.4g} (D0={s.d0:.3g} at 224 px)"
        anchor = "no anchor" if self.anchor is None else f"alpha={s.alpha:g}, mix={s.mix!r}, tokens={len(self.anchor)}"
        deltas = f", deltas of {len(self.deltas)} weights" if self.deltas else ""
        return f"Adapter({s.method}, {d0}, {anchor}{deltas}, width={s.width})"

    @property
    def fingerprint(self) -> str:
        """Hash of everything that changes a model's output; names the adapter in results."""
        return fingerprint_of(self.settings, self.anchor, self.deltas)

    def change(self, **settings: object) -> Adapter:
        """A copy with other settings (``alpha``, ``cutoff``, ``mix``) and the same anchor and deltas."""
        known = asdict(self.settings)
        for name in settings:
            if name not in known:
                raise SettingsError(f"unknown setting {name!r}{nearest(name, known)}")
        return Adapter(replace(self.settings, **settings), self.anchor, self.deltas)  # type: ignore[arg-type]

    def attach(self, model: VLM | nn.Module) -> Attachment:
        """Put the adapter on a model; weights and state dict stay as they are.

        The anchor is interpolated over the token grid when only the image size differs.

        Returns:
            An attachment, to be used as a context manager or to be detached later.

        Raises:
            AdapterError: another adapter is attached, the tower has another width, patch size or class token, too few
                blocks, or other weights than the deltas were made for.
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
        mount = AdapterMount(s, self.anchor, self.deltas)
        with tower.changing():
            check_base_weights(s, tower, self.deltas)
            self._attachments[:] = [each for each in self._attachments if each.active]  # others ended: radapt.detach
            return Attachment(tower, mount, self._attachments)

    def detach(self) -> None:
        """Remove this adapter from every model that it was attached to."""
        for each in list(self._attachments):  # each takes itself out, once it is off
            each.detach()

    def changed(self, model: VLM | nn.Module) -> float:
        """Share of the weights of a model's vision encoder that it changes, in [0, 1].

        Raises:
            AdapterError: the encoder has no such weight.
        """
        sizes = {name: weight.numel() for name, weight in tower_of(model).root.named_parameters()}
        for name in self.deltas:
            if name not in sizes:
                raise AdapterError(f"the vision encoder has no weight {name!r}; the adapter is for another model")
        return sum(sizes[name] for name in self.deltas) / sum(sizes.values())

    def merge(self, model: str | Path | VLM | nn.Module) -> VLM:
        """A copy of a model with the deltas in its weights: a plain model, to be saved and served as one.

        Args:
            model: the model, or its name; it is not changed.

        Raises:
            AdapterError: the adapter has a filter or an anchor, which are no weights, no deltas, or deltas for others.
        """
        s, anchored = self.settings, self.anchor is not None and self.settings.alpha
        if s.cutoff is not None or anchored or not self.deltas:
            parts = [*(["a filter"] if s.cutoff is not None else []), *(["an anchor"] if anchored else [])]
            what = f"has {' and '.join(parts)}, which no weights can hold" if parts else "has no deltas"
            raise AdapterError(
                f"this adapter {what}; what weights can hold is merged by adapter.change(cutoff=None, alpha=0)"
                ".merge(model), and the rest stays an adapter: Adapter(adapter.settings, adapter.anchor)"
            )
        vlm = model if isinstance(model, VLM) else load(model)
        with vlm.undefended():
            check_base_weights(s, vlm.tower, self.deltas)
            merged = copy.copy(vlm)
            merged.model = copy.deepcopy(vlm.model)
        WeightChange(merged.tower.root, self.deltas)
        merged.name = f"{vlm.name} with {self.fingerprint}"
        return merged

    def save_peft(self, folder: str | Path, model: VLM | nn.Module) -> Path:
        """Write the deltas as a LoRA of PEFT for a model, to be read by ``peft.PeftModel.from_pretrained``.

        Raises:
            AdapterError: the adapter has a filter, an anchor, no deltas, or deltas that are not of low rank.
        """
        return write_lora(self.settings, self.anchor, self.deltas, model, _path(folder))

    @classmethod
    def from_peft(cls, folder: str | Path, model: VLM | nn.Module) -> Adapter:
        """Read a LoRA of PEFT on the vision encoder of a model.

        Raises:
            AdapterError: it is none, changes other parts of the model, or does more than a LoRA does (DoRA, biases).
        """
        name, deltas = read_lora(expanded(_path(folder)), model)
        tower = tower_of(model)
        settings = AdapterSettings(
            cutoff=None,
            alpha=0.0,
            width=tower.width,
            grid=tower.grid,
            prefix=tower.layout.prefix,
            patch_size=tower.patch_size,
            method="lora",
            base_model=name,
            base_weights=base_weights(tower, deltas),
        )
        return cls(settings, deltas=deltas)

    def save_pretrained(self, folder: str | Path, *, results: str | Path | Results | None = None) -> Path:
        """Write ``radapt_config.json``, a file of tensors for each part, and a model card into a folder.

        The folder may be that of a model. A run that is killed leaves the old adapter, the new one, or something that
        :meth:`from_pretrained` refuses.

        Args:
            folder: where to.
            results: a results file, or its path: what it holds of this adapter goes into the card, for readers and for
                the index of the hub: of every ball the worst case, and transfer called so.

        Raises:
            AdapterError: the folder cannot be written, or the file holds nothing of this adapter.
            ResultsError: the file cannot be read.

        Warns:
            UserWarning: there is a ``README.md`` of others, or one that was edited; it is left as it is.
        """
        measured = results_of(results, self.fingerprint)
        return save(*self._parts(), self.fingerprint, _path(folder), measured)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, *, revision: str | None = None) -> Adapter:
        """Read an adapter: ``micro/...`` (ships with the package), a folder, or a name on the Hugging Face hub.

        Args:
            name_or_folder: which one; ``owner/name@REVISION`` stands for a revision on the hub, too.
            revision: a branch, a tag or a commit of the hub; None: the newest one.

        Raises:
            AdapterError: missing, truncated, of another format, with unknown keys or values out of range, or a
                configuration whose anchor is another one.
        """
        return cls(*read(name_or_folder, revision))

    def push_to_hub(
        self,
        repository: str,
        *,
        results: str | Path | Results | None = None,
        private: bool = False,
        token: str | None = None,
    ) -> str:
        """Upload the adapter's folder to the Hugging Face hub and return its address; a card edited there stays.

        Args:
            repository: ``owner/name``.
            results: as of :meth:`save_pretrained`.
            private: whether a repository that is made is private.
            token: of the hub; None: the one that is stored.

        Raises:
            AdapterError: the hub refuses, or cannot be reached, or the file holds nothing of this adapter.
        """
        measured = results_of(results, self.fingerprint)
        return push(*self._parts(), self.fingerprint, repository, measured, private=private, token=token)

    def _parts(self) -> tuple[AdapterSettings, Anchor | None, dict[str, Delta]]:
        """What is saved, looked at once more: tensors may have been changed in place."""
        return self.settings, _checked(self.settings, self.anchor), checked_deltas(self.deltas)


def _path(folder: object) -> Path:
    if not isinstance(folder, str | Path):
        raise AdapterError(f"an adapter is in a folder, given by its path; got {shown(folder)}")
    return Path(folder)


def _checked(settings: AdapterSettings, anchor: Anchor | None) -> Anchor | None:
    """An anchor that fits the settings, in a form that can be part of a gradient."""
    if anchor is None:
        if settings.alpha:
            raise AdapterError(f"alpha is {settings.alpha:g}, and there is no anchor; without one alpha must be 0")
        return None
    if not isinstance(anchor, Tensor) or anchor.is_meta:
        raise AdapterError(f"the anchor must be a tensor in memory, got {shown(anchor)}")
    shape = (settings.prefix + settings.grid[0] * settings.grid[1], settings.width)
    if not anchor.is_floating_point():
        raise AdapterError(f"the anchor must be of a floating-point type, got {anchor.dtype}")
    if tuple(anchor.shape) != shape:
        raise AdapterError(f"the anchor has shape {tuple(anchor.shape)}, its settings ask for {shape}")
    finite = torch.isfinite(anchor.float())  # as it is saved and used
    if not bool(finite.all()):
        raise AdapterError(f"the anchor holds {int((~finite).sum())} values that are not finite")
    with torch.inference_mode(False):  # one that was made in inference mode could be part of no gradient
        return anchor.clone() if anchor.is_inference() else anchor


def adapter_of(model: VLM | nn.Module) -> Adapter | None:
    """The adapter that a model carries, equal to the one that was attached; None without one."""
    tower = tower_of(model)
    mount = tower.mounted()
    if not isinstance(mount, AdapterMount):
        return None
    found = Adapter(mount.settings, mount.anchor, mount.deltas)
    Attachment(tower, mount, found._attachments)  # which it takes off again
    return found


def attached(model: VLM | nn.Module) -> bool:
    """Whether a model carries an adapter, or anything else that is mounted on its tower."""
    return tower_of(model).mounted() is not None


def detach(model: VLM | nn.Module) -> bool:
    """Remove the adapter of a model (or of a deep copy of one), and say whether it had one."""
    return tower_of(model).unmount()
