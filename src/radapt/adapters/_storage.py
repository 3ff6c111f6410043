"""Adapters on disk: ``radapt_config.json``, a file of tensors for each part, and a model card; nothing names code."""

from __future__ import annotations

import hashlib
import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor

from radapt._version import __version__
from radapt.errors import AdapterError, shown
from radapt.hub import network_errors
from radapt.io import expanded, replacing, write_text
from radapt.models import Delta, LowRank
from radapt.results import Result
from radapt.schema import parse, parse_json, read_json
from radapt.types import Anchor

from ._card import card, ours
from ._checks import LOW_RANK
from ._settings import AdapterSettings
from ._shipped import shipped

__all__ = ["ANCHOR", "CONFIG", "DELTAS", "FORMATS", "push", "read", "save"]

FORMATS = (1, 2)
"""Format 1 has an anchor and nothing else, and is what an adapter without deltas is written in; in format 2 each part
may be absent."""
# PEFT's and transformers' name is adapter_config.json: a folder that holds one is an adapter of theirs to them.
CONFIG, ANCHOR, DELTAS = "radapt_config.json", "radapt_anchor.safetensors", "radapt_deltas.safetensors"
_BEFORE = ("adapter_config.json", "adapter_model.safetensors")
_CARD = "README.md"
_TYPE = "radapt"
_LARGEST_CONFIG, _LARGEST_HEADER, _LARGEST_DELTAS = 1 << 20, 1 << 16, 1 << 33
_UP, _DOWN = LOW_RANK


@dataclass(frozen=True, kw_only=True)
class _Stored(AdapterSettings):
    """What ``radapt_config.json`` holds.

    Args:
        adapter_type, format: what kind of file it is.
        radapt_version: the version that wrote it.
        anchor_sha256, deltas_sha256: hashes of the files of the anchor and of the deltas that belong to it. In format
            2, None stands for no such part; in format 1 an anchor without a hash is one that an earlier version wrote.
    """

    adapter_type: str
    format: int
    radapt_version: str = ""
    anchor_sha256: str | None = None
    deltas_sha256: str | None = None


def save(
    settings: AdapterSettings,
    anchor: Anchor | None,
    deltas: Mapping[str, Delta],
    fingerprint: str,
    folder: Path,
    results: Sequence[Result] = (),
) -> Path:
    """Write an adapter's files: a run that is killed leaves the old adapter, the new one, or what is refused.

    Other files in the folder stay, and so does a model card that was not written here or was edited.

    Raises:
        AdapterError: the folder cannot be written.

    Warns:
        UserWarning: the folder holds another model card.
    """
    folder = expanded(folder)
    parts = dict[str, bytes]()
    if anchor is not None:
        parts[ANCHOR] = save_bytes({"anchor": anchor.detach().float().cpu().contiguous()}, {"format": "pt"})
    if deltas:
        parts[DELTAS] = save_bytes(_named(deltas), {"format": "pt"})
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in parts.items()}
    facts = {"adapter_type": _TYPE, "format": FORMATS[set(parts) != {ANCHOR}], "radapt_version": __version__}
    config = {**facts, **asdict(settings), "anchor_sha256": hashes.get(ANCHOR)}
    config |= {"deltas_sha256": hashes[DELTAS]} if deltas else {}
    try:
        text = json.dumps(config, indent=2, allow_nan=False) + "\n"
        if len(text) > _LARGEST_CONFIG:
            raise ValueError(f"its settings take more than {_LARGEST_CONFIG} characters")
        parse_json(text, where="its settings", error=AdapterError)  # what is written can be read again
        # All are on the disk before any gets its name; the configuration names the parts that belong to it.
        with ExitStack() as files:
            files.enter_context(replacing(folder / CONFIG)).write_text(text, encoding="utf-8")
            for name, content in parts.items():
                files.enter_context(replacing(folder / name)).write_bytes(content)
        for name in {ANCHOR, DELTAS} - set(parts):  # of the adapter before
            (folder / name).unlink(missing_ok=True)
        _remove_before(folder)
        if ours(folder / _CARD):
            write_text(folder / _CARD, card(settings, anchor is not None, deltas, fingerprint, results))
        else:
            warnings.warn(f"{folder / _CARD} is of others or was edited, and is left as it is", stacklevel=3)
    except (OSError, ValueError, TypeError, RecursionError, AdapterError) as error:
        raise AdapterError(f"cannot write the adapter to {folder}: {error}") from error
    return folder


def _remove_before(folder: Path) -> None:
    """Remove the adapter that an earlier version wrote into a folder, under the names that are PEFT's."""
    config, weights = (folder / name for name in _BEFORE)
    try:
        found = read_json(config, error=AdapterError, largest=_LARGEST_CONFIG) if config.is_file() else None
    except AdapterError:
        return
    if isinstance(found, dict) and found.get("adapter_type") == _TYPE:
        config.unlink()
        weights.unlink(missing_ok=True)


def _named(deltas: Mapping[str, Delta]) -> dict[str, Tensor]:
    """The tensors of deltas by name, as they lie in the file."""
    named = dict[str, Tensor]()
    for name, delta in deltas.items():
        parts = {name: delta} if isinstance(delta, Tensor) else {name + _UP: delta.up, name + _DOWN: delta.down}
        # Copies, since a file holds no tensors that share memory.
        named |= {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in parts.items()}
    return named


def read(
    name_or_folder: str | Path, revision: str | None = None
) -> tuple[AdapterSettings, Anchor | None, dict[str, Delta]]:
    """Settings, anchor and deltas of an adapter: one that ships, in a folder, or on the hub when it is no folder."""
    if not isinstance(name_or_folder, str | Path):
        raise AdapterError(f"an adapter is read from a folder or a name on the hub, got {shown(name_or_folder)}")
    folder = shipped(name_or_folder) or expanded(name_or_folder)
    try:
        found = folder.is_dir()
    except OSError as error:  # such as a name that is too long
        raise AdapterError(f"no adapter folder at {shown(str(folder))}: {error.strerror}") from error
    if found and revision is not None:
        raise AdapterError(f"{folder} is a folder, and revision={shown(revision)} belongs to a name on the hub")
    if not found:
        folder = _fetch(str(name_or_folder), revision)
    earlier = not (folder / CONFIG).exists() and (folder / _BEFORE[0]).exists()
    config, weights = (folder / name for name in (_BEFORE if earlier else (CONFIG, ANCHOR)))
    stored = _stored(config) if config.is_file() else None
    wanted = [weights] if stored is None or stored.format == 1 or stored.anchor_sha256 is not None else []
    wanted += [folder / DELTAS] if stored is not None and stored.deltas_sha256 is not None else []
    missing = [path.name for path in (config, *wanted) if not path.is_file()]
    if stored is None or missing:
        raise AdapterError(f"{folder} is not an adapter folder: {' and '.join(missing)} missing")
    settings = AdapterSettings(**{entry.name: getattr(stored, entry.name) for entry in fields(AdapterSettings)})
    anchor = _anchor(weights, stored, config) if weights in wanted else None
    return settings, anchor, _deltas(folder / DELTAS, stored, config) if folder / DELTAS in wanted else {}


def _stored(path: Path) -> _Stored:
    config: Any = read_json(path, what="adapter's configuration", error=AdapterError, largest=_LARGEST_CONFIG)
    if not isinstance(config, dict) or config.get("adapter_type") != _TYPE:
        kind = config.get("adapter_type", config.get("peft_type")) if isinstance(config, dict) else None
        raise AdapterError(f"{path} describes an adapter of type {shown(kind)}, not {_TYPE!r}")
    if type(found := config.get("format")) is not int or found not in FORMATS:
        raise AdapterError(f"{path} has format {shown(found)}, this version reads {max(FORMATS)}; update radapt")
    return parse(_Stored, config, where=str(path), error=AdapterError)


def _anchor(path: Path, stored: _Stored, config: Path) -> Anchor:
    """The anchor in a file, which must be the one that the configuration belongs to."""
    shape = (stored.prefix + stored.grid[0] * stored.grid[1], stored.width)
    most = 8 * shape[0] * shape[1] + _LARGEST_HEADER
    tensors = _tensors(path, stored.anchor_sha256, config, most, f"an anchor of {shape[0]} x {shape[1]}")
    if set(tensors) != {"anchor"}:
        raise AdapterError(f"{path} holds the tensors {shown(sorted(tensors))}, allowed is only 'anchor'")
    anchor = tensors["anchor"]
    if tuple(anchor.shape) != shape or not anchor.is_floating_point():
        raise AdapterError(
            f"the anchor in {path} has shape {tuple(anchor.shape)}, its settings ask for {shape}"
            if anchor.is_floating_point()
            else f"the anchor in {path} is of type {anchor.dtype}; it must be of a floating-point type"
        )
    return anchor.to(torch.float32)


def _deltas(path: Path, stored: _Stored, config: Path) -> dict[str, Delta]:
    """The deltas in a file, which must be those that the configuration belongs to."""
    tensors = _tensors(path, stored.deltas_sha256, config, _LARGEST_DELTAS, "deltas")
    found = dict[str, Delta]()
    for name, tensor in tensors.items():
        own, end = next(((name.removesuffix(end), end) for end in (_UP, _DOWN) if name.endswith(end)), (name, ""))
        if not end:
            found[own] = tensor
        elif own + _UP not in tensors or own + _DOWN not in tensors or own in tensors:
            raise AdapterError(f"{path} holds {shown(name)} without its other half, or beside a whole one")
        elif tensors[own + _UP].ndim != 2 or tensors[own + _DOWN].ndim != 2:
            raise AdapterError(f"{path}: {shown(name)} must be a matrix, got {tuple(tensor.shape)}")
        else:
            found[own] = LowRank(up=tensors[own + _UP], down=tensors[own + _DOWN])
    return found


def _tensors(path: Path, digest: str | None, config: Path, most: int, what: str) -> dict[str, Tensor]:
    try:
        if path.stat().st_size > most:
            raise OSError(f"it is larger than {what} can be")
        content = path.read_bytes()
        if digest not in (None, hashlib.sha256(content).hexdigest()):
            raise OSError(f"it is not the one that {config.name} was saved with")
        return load_bytes(content)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise AdapterError(f"{path} cannot be read ({error}); it is damaged, save the adapter again") from error


def _fetch(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    if revision is None and "@" in name:
        name, _, revision = name.partition("@")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise AdapterError(f"no adapter folder at {name}; give a folder with {CONFIG}, or a hub name (owner/name)")
    try:
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=[CONFIG, ANCHOR, DELTAS, *_BEFORE, _CARD])
        )
    except network_errors(LocalEntryNotFoundError, HFValidationError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise AdapterError(
            f"no folder {name!r}, and the hub did not give it: {reason}; try again, or give a folder with {CONFIG}"
        ) from error


def push(
    settings: AdapterSettings,
    anchor: Anchor | None,
    deltas: Mapping[str, Delta],
    fingerprint: str,
    repository: str,
    results: Sequence[Result] = (),
    *,
    private: bool,
    token: str | None,
) -> str:
    """Upload an adapter to the hub and return its address.

    Raises:
        AdapterError: the hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    api = HfApi(token=token)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            with suppress(EntryNotFoundError):  # a card that was edited there stays
                api.hf_hub_download(repository, _CARD, local_dir=folder)
            files = save(settings, anchor, deltas, fingerprint, Path(folder), results)
            return str(api.upload_folder(repo_id=repository, folder_path=files))
    except network_errors(HFValidationError) as error:
        raise AdapterError(f"the hub did not take the adapter as {repository!r}: {error}") from error
